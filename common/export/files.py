"""Atomic writing: a reader sees the old file or the complete new one, never a part.

Also checks where a task writes.
"""

import json
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from common.config import UserError
from common.files import replacing, sync


def write_atomic(path: Path, write: Callable[[Path], object]) -> Path:
    """Let `write` fill a temporary file, see `common.files.replacing`; returns `path`."""
    with replacing(path) as temporary:
        write(temporary)
    return path


def write_json(path: Path, content: Mapping[str, Any] | Sequence[Any]) -> Path:
    """Write a JSON file atomically, indented, with a final newline."""
    text = json.dumps(content, indent=2) + "\n"
    return write_atomic(path, lambda file: file.write_text(text, "utf-8"))


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> Path:
    """Write a safetensors file atomically; tensors that share memory are stored one by one."""
    plain = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    return write_atomic(path, lambda file: save_file(plain, file, metadata={"format": "pt"}))


def write_files(folder: Path, write: Callable[[Path], object]) -> Path:
    """Let `write` fill an empty folder, then move its files into `folder`, each one atomically.

    After an error in `write`, `folder` is untouched.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".new.") as name:
        write(Path(name))
        for file in sorted(Path(name).iterdir()):
            if file.is_file():  # some libraries write weights that only their owner may read
                file.chmod(0o666 & ~_umask())
            sync(file)
            os.replace(file, folder / file.name)
    sync(folder)
    return folder


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def output_file(
    named: str | None, folder: Path, name: str, reads: Iterable[str | None] = ()
) -> Path:
    """The file that a task writes.

    Its folder is made before the work, which would be lost without it.

    Args:
        named: by the user, perhaps with ``~``; None or empty for `name` in `folder`.
        folder: of the run.
        name: of the file that nobody named.
        reads: files of the user that the task reads, None for one that is not given.

    Raises:
        UserError: a folder is there, or the file is read as well and would be written over.
    """
    path = Path(named).expanduser() if named else folder / name
    if path.is_dir():
        raise UserError(
            f"{path} is a folder: give a {path.suffix or Path(name).suffix} file as output"
        )
    if path.resolve() in [Path(source).expanduser().resolve() for source in reads if source]:
        raise UserError(f"{path} is read as well, and would be written over: give another output")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
