"""An exported folder as an encoder that prepares texts as they are in evaluation and search."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from common.damage import reading
from common.encoders.text.sentence import SentenceEncoder
from common.export.sentence_transformers import load_sentence_transformers
from projects.contriever.normalize import preparation
from projects.contriever.stages import PREPARATION


class PreparedEncoder(SentenceEncoder):
    """An encoder that does something to its texts before they are tokenised.

    Args:
        encoder: its tower, tokenizer and settings are taken over.
        prepare: text -> text.
    """

    def __init__(self, encoder: SentenceEncoder, prepare: Callable[[str], str]) -> None:
        super().__init__(
            encoder.tower,
            encoder.tokenizer,
            max_length=encoder.max_length,
            normalize=encoder.normalize,
        )
        self.prepare = prepare

    # what `tokenize` and `encode` have in common
    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        return super()._ids([self.prepare(text) for text in texts])


def load_prepared(folder: str | Path) -> SentenceEncoder:
    """The encoder of a folder, in evaluation mode; a folder of an older version prepares nothing.

    Raises:
        UserError: another kind of folder, or one that is damaged.
    """
    encoder, path = load_sentence_transformers(folder), Path(folder) / PREPARATION
    if not path.is_file():
        return encoder
    with reading(path, "file of normalize_text and lower_case"):
        settings = json.loads(path.read_text(encoding="utf-8"))
        switches = bool(settings["normalize_text"]), bool(settings["lower_case"])
    return PreparedEncoder(encoder, preparation(*switches)).eval() if any(switches) else encoder
