"""A cross-encoder as a plain folder of the transformers library, and back.

``AutoModelForSequenceClassification`` and ``AutoTokenizer`` load the folder; ``cross_encoder.json``
alongside the weights holds the lengths. With a head of its own the folder holds the encoder for
``AutoModel``, and ``pair_head.safetensors``.
"""

import json
from pathlib import Path
from typing import Any

from common.damage import reading
from common.encoders.state_dict import load_state_dict_file
from common.encoders.text.cross_encoder import CrossEncoder, cross_encoder
from common.encoders.text.tower import load_config, quiet
from common.export.files import write_files, write_json, write_tensors

SETTINGS, HEAD = "cross_encoder.json", "pair_head.safetensors"


def save_cross_encoder(ranker: CrossEncoder, folder: str | Path) -> Path:
    """Write model, head, tokenizer and ``cross_encoder.json``.

    Args:
        ranker: its weights are written in their dtype.
        folder: created if needed; other files in it stay.

    Returns:
        The folder.
    """
    head = ranker.pair_head

    def write(new: Path) -> None:
        with quiet():
            (ranker.model if head is None else ranker.encoder).save_pretrained(new)
        ranker.tokenizer.save_pretrained(new)

    folder = write_files(Path(folder), write)
    settings: dict[str, Any] = {
        "max_length": ranker.max_length,
        "max_first": ranker.max_first,
        "cut": ranker.cut,
    }
    if head is not None:
        write_tensors(folder / HEAD, head.state_dict())
        settings |= {
            "pooling": "segments",
            "hidden_dims": head.hidden_dims,
            "num_labels": head.out_dim,
        }
    write_json(folder / SETTINGS, settings)
    return folder


def load_cross_encoder(folder: str | Path, **lengths: Any) -> CrossEncoder:
    """A cross-encoder with its head, in evaluation mode and float32.

    Args:
        folder: written by `save_cross_encoder`, or any sequence classifier of transformers.
        lengths: ``max_length``, ``max_first`` and ``cut`` in place of those of the folder.

    Raises:
        UserError: no such folder, weights that do not fill the model, or no head.
    """
    path = Path(folder) / SETTINGS
    stored: dict[str, Any] = {}
    if path.is_file():
        with reading(path, "description of a cross-encoder"):
            stored = json.loads(path.read_text("utf-8"))
            if not isinstance(stored, dict):
                raise ValueError("it has no object")
    labels = stored.pop("num_labels", None) or int(load_config(str(folder)).num_labels)
    options = {**stored, **{k: v for k, v in lengths.items() if v is not None}}
    with_new_head = options.get("pooling") == "segments"  # then the transformer has no head to keep
    encoder = cross_encoder(
        str(folder), num_labels=labels, head="new" if with_new_head else "keep", **options
    )
    if encoder.pair_head is not None:
        load_state_dict_file(Path(folder) / HEAD, encoder.pair_head)
        encoder.num_labels = labels
    return encoder.eval()
