"""Any module as ``model.safetensors`` + ``config.json``, and back."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from common.config import UserError
from common.encoders.state_dict import load_state_dict_file
from common.export.files import write_json, write_tensors

M = TypeVar("M", bound=nn.Module)


def save_safetensors(
    module: nn.Module,
    folder: str | Path,
    config: Mapping[str, Any] | None = None,
) -> Path:
    """Write the state dict and the values that are needed to build the module again.

    Args:
        module: its whole state dict is written.
        folder: created if needed; other files in it stay.
        config: plain values (JSON), e.g. the keyword arguments of the constructor.

    Returns:
        The folder.
    """
    folder = Path(folder)
    write_tensors(folder / "model.safetensors", module.state_dict())
    write_json(folder / "config.json", dict(config or {}))
    return folder


def load_safetensors(folder: str | Path, build: Callable[..., M]) -> M:
    """Build a module from the stored config and fill it with the stored weights, in eval mode.

    Args:
        folder: written by `save_safetensors`.
        build: called with the stored config as keyword arguments.

    Raises:
        UserError: missing files, a config that `build` does not take, or other weights.
    """
    folder = Path(folder)
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} is not an exported model: {error}") from error
    try:
        module = build(**config)
    except TypeError as error:
        raise UserError(f"{folder / 'config.json'} belongs to another model: {error}") from error
    load_state_dict_file(folder / "model.safetensors", module)
    return module.eval()
