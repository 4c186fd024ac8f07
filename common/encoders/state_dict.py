"""The one place where encoder weights enter the program: safe reading and strict loading."""

import argparse
import hashlib
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.config import UserError, first_line
from common.damage import remedy

_WRAPPERS = ("module.", "_orig_mod.")  # DistributedDataParallel, torch.compile
_CONTAINERS = ("state_dict", "model_state_dict", "model", "params")
_SHOWN = 5  # names of a list that an error message spells out


def read_state_dict(path: str | Path, *, entries: Sequence[str] = ()) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint file without running any code from it.

    ``.safetensors`` files are read as such, everything else by ``torch.load(weights_only=True)``
    (`argparse.Namespace` is allowed: training scripts store their options in one). A nested
    ``state_dict`` or ``model`` entry is unwrapped, the prefixes ``module.`` and ``_orig_mod.`` are
    removed.

    Args:
        path: the file.
        entries: names of further nested entries to unwrap, which go before the usual ones: those
            of a part, where a checkpoint holds several.

    Returns:
        Name -> tensor on the CPU, in the stored dtype.

    Raises:
        UserError: missing, unreadable or unsafe file, or one without tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"weights file {path} does not exist")
    content: Any = _read(path)
    for name in (*entries, *_CONTAINERS):
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not isinstance(content, Mapping):
        raise UserError(f"{path} contains a {type(content).__name__}, not a dictionary of tensors")
    tensors = {
        strip_wrappers(str(key)): value
        for key, value in content.items()
        if isinstance(value, Tensor)
    }
    if not tensors:
        raise UserError(f"{path} has no tensors")
    return tensors


def strip_wrappers(name: str) -> str:
    """Remove the prefixes that wrappers put on parameter names, wherever they stand.

    >>> strip_wrappers("module._orig_mod.visual._orig_mod.proj")
    'visual.proj'
    """
    parts = name.split(".")
    while len(parts) > 1 and f"{parts[0]}." in _WRAPPERS:
        parts = parts[1:]
    return ".".join(part for part in parts if part != "_orig_mod")


def load_state_dict_file(
    path: str | Path,
    module: nn.Module,
    *,
    prefix: str = "",
) -> None:
    """Read a checkpoint file and load it into a module; every tensor must find its place.

    Args:
        path: safetensors or torch file, see `read_state_dict`.
        module: receives the weights (converted to the dtype of its parameters).
        prefix: use only the entries under this prefix, e.g. ``"visual."``, and remove it.

    Raises:
        UserError: unreadable file; missing, unexpected or differently shaped entries (named).
    """
    state = read_state_dict(path)
    if prefix:
        state = {key[len(prefix) :]: v for key, v in state.items() if key.startswith(prefix)}
        if not state:
            raise UserError(f"{path} has no entry that starts with {prefix!r}")
    load_state(module, state, source=str(path))


def load_state(module: nn.Module, state: Mapping[str, Tensor], *, source: str) -> None:
    """Load tensors into a module, or name everything that does not fit.

    Args:
        module: receives the weights.
        state: name -> tensor.
        source: where the tensors come from, for the message.

    Raises:
        UserError: missing, unexpected or differently shaped entries.
    """
    current = module.state_dict()
    missing = [name for name in current if name not in state]
    unexpected = [name for name in state if name not in current]
    mismatched = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(current[name].shape)}"
        for name in current
        if name in state and current[name].shape != state[name].shape
    ]
    problems = [
        f"{title}: {_shorten(names)}"
        for title, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("other shape", mismatched),
        )
        if names
    ]
    if problems:
        raise UserError(
            f"{source} is not a checkpoint of this {type(module).__name__}; "
            + "; ".join(problems)
            + ". Use the architecture that the weights were trained with."
        )
    module.load_state_dict(dict(state))


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise UserError(
                f"{path} is not a readable safetensors file ({first_line(error)}): {remedy(path)}"
            ) from error
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, KeyError) as error:
        raise UserError(
            f"{path} cannot be read as plain tensors ({type(error).__name__}). If you trust its "
            "origin, convert it to .safetensors where it was made."
        ) from error


def _shorten(names: list[str]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def weights_digest(module: nn.Module) -> str:
    """SHA-256 of a module's weights and buffers with their names."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        # by bytes, because NumPy has no bfloat16
        content = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(name.encode() + content.numpy().tobytes())
    return digest.hexdigest()
