"""A sentence encoder with a linear map on top as a folder of the sentence-transformers library.

The map is a Dense module without activation after the pooling; unit vectors come out.
"""

import json
from pathlib import Path

from torch import nn

from common.config import UserError
from common.encoders.state_dict import load_state_dict_file
from common.encoders.text.sentence import SentenceEncoder
from common.export.files import write_json, write_tensors
from common.export.sentence_transformers import (
    load_sentence_transformers,
    save_sentence_transformers,
    write_modules,
)

_IDENTITY = "torch.nn.modules.linear.Identity"
_DENSE = "2_Dense"


def save_projected(encoder: SentenceEncoder, head: nn.Linear | None, folder: str | Path) -> Path:
    """Write a folder that ``SentenceTransformer(folder)`` loads, with unit vectors.

    Args:
        encoder: pooling "avg", "cls_before_pooler" or "last_token".
        head: (D, O) map with a bias; None: none.
        folder: created if needed.

    Returns:
        The folder.

    Raises:
        UserError: a pooling that the library has no module for.
    """
    folder, before = Path(folder), encoder.normalize
    encoder.normalize = True
    try:
        save_sentence_transformers(encoder, folder)
    finally:
        encoder.normalize = before
    if head is not None:
        sizes = {"in_features": head.in_features, "out_features": head.out_features, "bias": True}
        tensors = {f"linear.{name}": value for name, value in head.state_dict().items()}
        write_tensors(folder / _DENSE / "model.safetensors", tensors)
        write_json(folder / _DENSE / "config.json", sizes | {"activation_function": _IDENTITY})
        parts = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Dense", _DENSE)]
        write_modules(folder, [*parts, ("Normalize", "3_Normalize")])
    return folder


def load_projected(folder: str | Path, *, head: bool) -> tuple[SentenceEncoder, nn.Linear | None]:
    """Encoder and map of a folder that `save_projected` wrote, in evaluation mode and float32.

    Args:
        folder: see above.
        head: whether a map is expected.

    Returns:
        The encoder, whose output is that before the map, and the map (None without one).

    Raises:
        UserError: another kind of folder, or a map where none is expected or the reverse.
    """
    folder = Path(folder)
    there = (folder / _DENSE / "config.json").is_file()
    if there != head:
        raise UserError(
            f"{folder} was exported {'with' if there else 'without'} a linear map on top, which the"
            " config does not say: set model.asymmetric_head as it was in training"
        )
    if not head:
        return load_sentence_transformers(folder), None
    encoder = load_sentence_transformers(folder, skip=("Dense",))
    try:
        about = json.loads((folder / _DENSE / "config.json").read_text("utf-8"))
        sizes = int(about["in_features"]), int(about["out_features"])
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder / _DENSE} has no Dense module: {error!r}") from error
    if about.get("activation_function") != _IDENTITY:
        raise UserError(f"{folder / _DENSE}: the map must have no activation ({_IDENTITY})")
    linear = nn.Linear(*sizes)
    load_state_dict_file(folder / _DENSE / "model.safetensors", linear, prefix="linear.")
    return encoder, linear.eval()
