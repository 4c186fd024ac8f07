"""Training sentences of WhitenedCSE: every sentence m times."""

from typing import Any

import numpy as np

from common.config import UserError
from common.data import Repetition
from common.data.text_views import TextViews, special_tokens
from common.engine.sentences import text_rows
from projects.whitenedcse.config import Config


def train_set(cfg: Config, tokenizer: Any) -> TextViews:
    """`num_pos` copies of every sentence; with repetition on, all but the first are changed.

    Repeated sub-words come on top of ``data.max_length``; repeated words count towards it.

    Raises:
        UserError: files that are missing, or rows of more than one column.
    """
    rows = text_rows(cfg.data, cfg.seed)
    if len(rows[0]) > 1:
        raise UserError(f"{cfg.data.file} has {len(rows[0])} columns; give one sentence a line")
    options: dict[str, Any] = {}
    max_length = cfg.data.max_length
    if cfg.repetition.level != "none":
        repeat = Repetition(cfg.repetition.rate, cfg.repetition.level)
        if cfg.repetition.level == "subword":
            room = max_length - sum(len(part) for part in special_tokens(tokenizer))
            options["augment"] = _RepeatedTokens(repeat, room)
            max_length += max(0, repeat.bound(room) - 1)
        else:
            options["augment_text"] = _RepeatedWords(repeat)
    return TextViews(
        rows,
        tokenizer,
        max_length=max_length,
        seed=cfg.seed,
        views=cfg.num_pos,
        **options,
    )


class _RepeatedTokens:
    """All views cut alike, then repetition of token ids in every view but the first."""

    def __init__(self, repeat: Repetition, room: int) -> None:
        self.repeat, self.room = repeat, room

    def __call__(self, ids: list[int], rng: np.random.Generator, view: int) -> list[int]:
        ids = ids[: self.room]
        return self.repeat(ids, rng) if view else ids


class _RepeatedWords:
    """Repetition of words in every view but the first."""

    def __init__(self, repeat: Repetition) -> None:
        self.repeat = repeat

    def __call__(self, text: str, rng: np.random.Generator, view: int) -> str:
        return " ".join(self.repeat(text.split(), rng)) if view else text
