"""A device that no machine has: what runs on it keeps its tensors together, as a GPU asks for.

Its tensors lie on the CPU and give the CPU's numbers, but say that they are elsewhere, and are
refused wherever those of a GPU would be: beside CPU tensors, by numpy, with a generator of the CPU.
Kernels, precision and speed of a GPU are not shown by it.
"""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import nn
from torch.amp.autocast_mode import autocast
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("lazy", 0)  # a type of torch's that has no backend unless one is installed
aten = torch.ops.aten
INDEXING = {
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
    aten._unsafe_index.Tensor,
}
MAKERS = (torch.tensor, torch.as_tensor, torch.asarray)  # they fill on the CPU, unseen
GENERATOR_FREE = "expected a generator of the device, found one of the CPU"


class Placed(torch.Tensor):
    """A tensor of the device; ``inner`` has its numbers."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> "Placed":
        own: Placed = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=DEVICE,
        )
        own.inner = inner
        return own

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    def __repr__(self, **_: Any) -> str:
        return f"Placed({self.inner!r})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if id(self) not in memo:
            copy: Any = Placed(self.inner.clone()).requires_grad_(self.requires_grad)
            if isinstance(self, nn.Parameter):
                copy = nn.Parameter(copy.detach(), self.requires_grad)
            memo[id(self)] = copy
        return memo[id(self)]

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Files hold CPU tensors, as they do when they are read with ``map_location="cpu"``."""
        if isinstance(self, nn.Parameter):
            return nn.Parameter(self.inner, self.requires_grad).__reduce_ex__(protocol)
        return self.inner.__reduce_ex__(protocol)

    def tolist(self) -> Any:
        """Values, as of any device."""
        return self.inner.tolist()


class _Functions(TorchFunctionMode):
    """What copies to a device out of the dispatcher's sight: `torch.tensor` and lists of
    indices."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args = tuple(DEVICE if _is_cuda(x) else x for x in args)
        kwargs = {k: DEVICE if _is_cuda(x) else x for k, x in (kwargs or {}).items()}
        if func in MAKERS and _is_there(kwargs.get("device")):
            device, grad = kwargs.pop("device"), kwargs.pop("requires_grad", False)
            return func(*args, **kwargs).to(device).requires_grad_(grad)
        if (
            func is torch.Tensor.new_tensor
            and isinstance(args[0], Placed)
            and "device" not in kwargs
        ):
            dtype = kwargs.pop("dtype", None) or args[0].dtype
            return torch.tensor(*args[1:], dtype=dtype, **kwargs).to(DEVICE)
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
            args = (args[0], _listed(args[1]), *args[2:])
        return func(*args, **kwargs)


class _Operators(TorchDispatchMode):
    """Every operator while the device is there."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _listed(index: Any) -> Any:
    if isinstance(index, tuple):
        return tuple(_listed(i) for i in index)
    if isinstance(index, list):
        return torch.tensor(index, dtype=None if index else torch.long)
    return index


def _is_cuda(x: Any) -> bool:
    return (isinstance(x, torch.device) and x.type == "cuda") or (
        isinstance(x, str) and x == "cuda"
    )


def _is_there(device: Any) -> bool:
    return device is not None and torch.device(device).type in (DEVICE.type, "cuda")


def _inner(x: Any) -> Any:
    return x.inner if isinstance(x, Placed) else x


def _wrapped(x: Any) -> Any:
    return Placed(x) if isinstance(x, torch.Tensor) and not isinstance(x, Placed) else x


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    args, kwargs = tree_map(lambda x: DEVICE if _is_cuda(x) else x, (args, kwargs))
    leaves = tree_leaves((args, kwargs))
    placed = [x for x in leaves if isinstance(x, Placed)]
    asked = kwargs.get("device")
    if not placed and not _is_there(asked):
        return func(*args, **kwargs)
    if func is aten._has_compatible_shallow_copy_type.default:
        return isinstance(args[0], Placed) == isinstance(args[1], Placed)
    here = {**kwargs, "pin_memory": False} if "pin_memory" in kwargs else kwargs
    if _is_there(asked):
        here = {**here, "device": torch.device("cpu")}
    call = partial(func, *tree_map(_inner, args), **tree_map(_inner, here))
    if func is aten.copy_.default:
        call()
        return args[0]
    if func is aten._to_copy.default:
        return _wrapped(call()) if asked is None or _is_there(asked) else call()
    if func is aten._pack_padded_sequence.default:  # lengths and sizes of batches are the CPU's
        data, sizes = call()
        return _wrapped(data), sizes
    if func is not aten._pack_padded_sequence_backward.default:
        _refuse_two_devices(func, args, leaves)
    if isinstance(kwargs.get("generator"), torch.Generator):
        raise RuntimeError(f"{func}: {GENERATOR_FREE}")
    known = {id(x.inner): x for x in placed}
    out = tree_map(_wrapped, call())
    out = tree_map(lambda x: known.get(id(x.inner), x) if isinstance(x, Placed) else x, out)
    return return_and_correct_aliasing(func, args, kwargs, out) if placed else out


def _refuse_two_devices(func: Any, args: Any, leaves: list[Any]) -> None:
    """CUDA takes numbers of the CPU beside its tensors, and indices of the CPU, but no other
    tensors.
    """
    beside = [x for x in leaves if isinstance(x, torch.Tensor) and not isinstance(x, Placed)]
    if func in INDEXING:
        if not isinstance(args[0], Placed):
            raise RuntimeError(f"{func}: indices should be on the CPU, as the indexed tensor is")
        beside = [x for x in args[2:3] if isinstance(x, torch.Tensor) and not isinstance(x, Placed)]
    joined = func in (aten.cat.default, aten.stack.default)
    if any(x.dim() > 0 or joined for x in beside):
        raise RuntimeError(f"{func}: expected all tensors to be on the same device, found two")


class _Accelerator(CPUAccelerator):
    def setup_device(self, device: torch.device) -> None:
        """Any."""


@contextmanager
def pretended_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """While it holds, "cuda" is this device: runs train on it, and what moves to a GPU when there
    is one moves there.

    Args:
        monkeypatch: pytest's; what is put in place of CUDA's functions is taken away with the test.
    """
    from common.engine import trainer

    def on_device(**settings: Any) -> Any:
        own = {"strategy": SingleDeviceStrategy(DEVICE, _Accelerator()), "accelerator": "auto"}
        return real_trainer(**{**settings, **own, "devices": 1})

    def autocasting(self: Any, device_type: str, *args: Any, **kwargs: Any) -> None:
        real_autocast(self, "cpu" if _is_there(device_type) else device_type, *args, **kwargs)

    def unpinned(self: Any, *args: Any, **kwargs: Any) -> None:
        real_loader(self, *args, **{**kwargs, "pin_memory": False})

    real_trainer, real_autocast = trainer.Trainer, autocast.__init__
    real_loader = torch.utils.data.DataLoader.__init__
    fused = importlib.import_module("torch.optim.optimizer")
    supported = [*fused._get_fused_kernels_supported_devices(), DEVICE.type]
    monkeypatch.setattr(trainer, "Trainer", on_device)
    monkeypatch.setattr(autocast, "__init__", autocasting)
    monkeypatch.setattr(torch.utils.data.DataLoader, "__init__", unpinned)
    monkeypatch.setattr(fused, "_get_fused_kernels_supported_devices", lambda: supported)
    monkeypatch.setattr(torch, DEVICE.type, torch.cuda, raising=False)
    answers = {
        "is_available": True,
        "device_count": 1,
        "current_device": 0,
        "set_device": None,
        "synchronize": None,
        "max_memory_allocated": 0,
        "get_device_name": "pretended",
        "get_device_capability": (9, 0),
        "is_current_stream_capturing": False,
        "_lazy_init": None,
    }
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, answer=answer: answer)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda *_: torch.get_rng_state())
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, *_: torch.set_rng_state(state))
    # a view that is taken in inference mode has a counter that a wrapped tensor cannot have
    monkeypatch.setattr(
        torch, "inference_mode", lambda mode=True: torch.no_grad() if mode else torch.enable_grad()
    )
    with _Functions(), _Operators():
        yield DEVICE
