"""A cross-encoder as a plain folder of the transformers library, and back.

``AutoModelForSequenceClassification`` and ``AutoTokenizer`` load the folder; ``cross_encoder.json``
beside the weights holds the lengths.
"""

import json
from pathlib import Path
from typing import Any

from common.encoders.text.cross_encoder import CrossEncoder, cross_encoder
from common.encoders.text.tower import load_config, quiet
from common.export.files import write_files, write_json

SETTINGS = "cross_encoder.json"


def save_cross_encoder(ranker: CrossEncoder, folder: str | Path) -> Path:
    """Write model, head, tokenizer and ``cross_encoder.json``.

    Args:
        ranker: its weights are written in their dtype.
        folder: created if needed; other files in it stay.

    Returns:
        The folder.
    """

    def write(new: Path) -> None:
        with quiet():
            ranker.model.save_pretrained(new)
        ranker.tokenizer.save_pretrained(new)

    folder = write_files(Path(folder), write)
    lengths = {"max_length": ranker.max_length, "max_first": ranker.max_first}
    write_json(folder / SETTINGS, lengths)
    return folder


def load_cross_encoder(folder: str | Path, **lengths: Any) -> CrossEncoder:
    """A cross-encoder with its head, in evaluation mode and float32.

    Args:
        folder: written by `save_cross_encoder`, or any sequence classifier of transformers.
        lengths: ``max_length`` and ``max_first`` in place of those of the folder.

    Raises:
        UserError: no such folder, weights that do not fill the model, or no head.
    """
    path = Path(folder) / SETTINGS
    stored = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    labels = int(load_config(str(folder)).num_labels)
    options = {**stored, **{k: v for k, v in lengths.items() if v is not None}}
    return cross_encoder(str(folder), num_labels=labels, head="keep", **options).eval()
