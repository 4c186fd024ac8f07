"""Tensors of a transformers folder or Hugging Face id, whatever class they were saved from."""

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from common.config import UserError
from common.damage import reading
from common.encoders.pretrained import PretrainedRef, is_offline, loading
from common.encoders.state_dict import read_state_dict

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def read_pretrained_state(ref: PretrainedRef) -> dict[str, Tensor]:
    """The state dict of a folder or hub id in one file or in shards; nothing in it is executed.

    Args:
        ref: of kind "folder" or "huggingface".

    Returns:
        Name -> tensor on the CPU, in the stored dtype.

    Raises:
        UserError: another kind, no weights there, or files that cannot be read safely.
    """
    if ref.kind not in ("folder", "huggingface"):
        raise UserError(f"pretrained={ref.spec!r}: give a folder, bundled:<name> or a hub id")
    for name in _WEIGHTS:
        if (path := _find(ref, name)) is not None:
            return read_state_dict(path)
        if (index := _find(ref, f"{name}.index.json")) is not None:
            with reading(index, "index of weights in several files"):
                listing = json.loads(index.read_text("utf-8"))
                named = listing["weight_map"] if isinstance(listing, dict) else None
                if not isinstance(named, dict):
                    raise ValueError("weight_map is not an object")
                shards = sorted(set(map(str, named.values())))
            paths = [_find(ref, shard) for shard in shards]
            missing = [s for s, p in zip(shards, paths, strict=True) if p is None]
            if missing:
                raise UserError(f"pretrained={ref.spec!r}: {missing[0]} is missing")
            return {k: v for p in paths if p is not None for k, v in read_state_dict(p).items()}
    raise UserError(f"pretrained={ref.spec!r} has neither {' nor '.join(_WEIGHTS)}")


def read_pretrained_json(ref: PretrainedRef, name: str = "config.json") -> dict[str, Any]:
    """A JSON file of a folder or hub id as it is, without any class of transformers.

    Returns:
        Its content; empty if there is no such file, or if `ref` is of another kind.

    Raises:
        UserError: a file that is not JSON, or a repository that cannot be reached.
    """
    if ref.kind not in ("folder", "huggingface") or (path := _find(ref, name)) is None:
        return {}
    try:
        content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise UserError(f"pretrained={ref.spec!r}: {name} is not JSON: {error}") from error
    return content


def _find(ref: PretrainedRef, name: str) -> Path | None:
    """A file of the folder or repository; None if it does not have it."""
    if ref.path is not None:
        path = ref.path / Path(name).name  # an index cannot point outside of the folder
        return path if path.is_file() and Path(name).name == name else None
    from transformers.utils.hub import cached_file

    with loading(ref):
        cached = cached_file(
            ref.name,
            name,
            local_files_only=is_offline(),
            _raise_exceptions_for_missing_entries=False,
        )
    return None if cached is None else Path(cached)
