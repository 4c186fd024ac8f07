"""Checkpoints in shards: every process writes its own in the background, while training goes on.

A checkpoint is a folder of torch.distributed.checkpoint. Its tensors are ``model.<name>``,
``optimizers.<number>.<name>.<state>`` and ``rest``: the bytes of what is not sharded.
"""

import io
import pickle
import shutil
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from common.config import UserError
from common.distributed.process import rank
from common.engine.lifecycle.launch import TIMEOUT
from common.files import sync

METADATA = ".metadata"
_TYPES = {  # all that a list of tensors is made of; pickle builds nothing else
    "pathlib": {"PosixPath", "WindowsPath"},
    "torch.serialization": {"_get_layout"},
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.distributed.checkpoint.metadata": {
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
}


class ShardWriter:
    """Writes one checkpoint at a time, in a thread; all processes call it alike.

    The folder has another name until every process has synced its share.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future[None] | None = None
        self._group: Any = None

    def start(self, checkpoint: dict[str, Any], path: Path) -> None:
        """Copy a checkpoint to memory, and write it once the one before is whole.

        Args:
            checkpoint: of Lightning, with sharded states; they are taken out of it.
            path: the folder.

        Raises:
            UserError: the checkpoint before could not be written.
        """
        self.wait()
        if self._group is None:  # of its own: the collectives of training go on meanwhile
            self._group = dist.new_group(backend="gloo", timeout=TIMEOUT)
        optimizers = checkpoint.pop("optimizer_states", [])
        state = {
            "model": checkpoint.pop("state_dict"),
            "optimizers": {str(i): content.pop("state") for i, content in enumerate(optimizers)},
        }
        if rank() == 0:
            state["rest"] = _packed({**checkpoint, "optimizer_groups": optimizers})
        copy = DefaultStager(StagingOptions(False, False, False, False)).stage(state)
        self._pending = self._thread.submit(_write, copy, path, self._group)

    def wait(self) -> None:
        """Until the last checkpoint is whole.

        Raises:
            UserError: it could not be written.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()


def _write(state: Any, path: Path, group: Any) -> None:
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        if rank() == 0:
            shutil.rmtree(temporary, ignore_errors=True)
        save(state, checkpoint_id=temporary, process_group=group)
        if rank() == 0:
            _publish(temporary, path)
    except (OSError, CheckpointException) as error:
        if (reason := _disk_error(error)) is None:
            raise
        raise UserError(
            f"cannot write {path}: {reason}. Earlier checkpoints are intact: fix this, then resume"
            " the run"
        ) from error
    dist.barrier(group)  # for the others the folder is there as well


def _publish(temporary: Path, path: Path) -> None:
    """Give a whole folder its name; `checkpoint.bring_back` returns an older one."""
    sync(temporary)
    former = path.with_name(f"{path.name}.former")
    if path.exists():
        path.replace(former)
    temporary.replace(path)
    shutil.rmtree(former, ignore_errors=True)
    sync(path.parent)


def _disk_error(error: BaseException) -> str | None:
    """What the operating system says of this process or, in torch's error, of any."""
    failures = getattr(error, "failures", {})
    for cause in (error, *(failure for failure, _ in failures.values())):
        if isinstance(cause, OSError):
            return cause.strerror
    return None


# -- reading ---------------------------------------------------------------------------------------


class ShardReader(FileSystemReader):
    """Reads a folder without running code from it: its list of tensors is a pickle."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The list of tensors.

        Raises:
            UnpicklingError: it contains anything else.
        """
        with (Path(self.path) / METADATA).open("rb") as file:
            metadata: Metadata = _PlainUnpickler(file).load()
        return metadata

    def tensors(self) -> dict[str, TensorStorageMetadata]:
        """Shape and dtype of each tensor; `_TYPES` permits nothing else."""
        return self.read_metadata().state_dict_metadata  # type: ignore[return-value]


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        plain = isinstance(getattr(torch, name, None), torch.dtype) or name == "Size"
        if name in _TYPES.get(module, ()) or (module == "torch" and plain):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is no part of a checkpoint")


def read(path: Path, values: bool = True) -> dict[str, Any]:
    """A checkpoint without the states of its optimisers, whole, in this process alone.

    Args:
        path: the folder, undamaged.
        values: of the weights; False gives tensors on the meta device, with shapes alone.
    """
    stored = ShardReader(path).tensors()
    model = {
        name.removeprefix("model."): torch.empty(
            about.size, dtype=about.properties.dtype, device="cpu" if values else "meta"
        )
        for name, about in stored.items()
        if name.startswith("model.")
    }
    rest = torch.empty(stored["rest"].size, dtype=torch.uint8)
    _load({"rest": rest, **({"model": model} if values else {})}, path, alone=True)
    return {**_unpacked(rest), "state_dict": model}


def restore(model: nn.Module, optimizers: Sequence[Any], path: Path) -> dict[str, Any]:
    """Read each process's share of the weights and of the optimisers' states; returns the rest.

    Args:
        model: sharded, over any number of processes.
        optimizers: of the model.
        path: the folder, undamaged.
    """
    weights = get_model_state_dict(model)
    _load({"model": weights}, path)
    model.load_state_dict(weights)
    rest = torch.empty(ShardReader(path).tensors()["rest"].size, dtype=torch.uint8)
    _load({"rest": rest}, path)
    content = _unpacked(rest)
    groups = content.pop("optimizer_groups")
    for i, (optimizer, group) in enumerate(zip(optimizers, groups, strict=True)):
        state = get_optimizer_state_dict(model, optimizer)["state"]
        _load({"optimizers": {str(i): state}}, path)
        set_optimizer_state_dict(model, optimizer, {"state": state, **group})
    return content


def damage(path: Path) -> str | None:
    """What is wrong with a folder, as "it ..."; None if its content is what was written.

    Every tensor is a zip archive of `torch.save`, which has a checksum.
    """
    try:
        places = ShardReader(path).read_metadata().storage_data
        for file, offset, length in sorted(
            (str(p.relative_path), p.offset, p.length) for p in places.values()
        ):
            with (path / file).open("rb") as stream:
                stream.seek(offset)
                content = stream.read(length)
            if len(content) < length:
                return "is cut off"
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                if archive.testzip():
                    return "does not match its checksum"
    except FileNotFoundError as error:
        return f"has no {Path(str(error.filename)).name}"
    except Exception as error:  # of many kinds: a flipped bit may be in any record
        return f"is unreadable ({error})"
    return None


def _load(state: Mapping[str, Any], path: Path, alone: bool = False) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*assuming the intent is to load in a single")
        load(dict(state), storage_reader=ShardReader(path), no_dist=alone)


def _packed(content: Mapping[str, Any]) -> Tensor:
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    return torch.frombuffer(bytearray(buffer.getbuffer()), dtype=torch.uint8)


def _unpacked(content: Tensor) -> dict[str, Any]:
    buffer = io.BytesIO(np.asarray(content).tobytes())
    values: dict[str, Any] = torch.load(buffer, weights_only=True)
    return values
