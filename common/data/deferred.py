"""Work on a batch that loader processes leave to the device that trains."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from common.data.samplers import Key


class Finisher(Protocol):
    """What turns bytes and drawn numbers into the tensor that a network takes."""

    def finish(self, pixels: Tensor, plans: np.ndarray, *, cut: bool) -> Tensor:
        """Float32 views on the device of the pixels."""
        ...


class Deferred:
    """Bytes of a batch, and all random numbers that its views need.

    The numbers are drawn where the sample is read, from its own generator, so a view depends on its
    image and generator alone wherever it is finished.

    Args:
        transform: finishes the views.
        pixels: uint8, images or crops of them, one row a sample.
        plans: one row of drawn numbers a sample; they stay on the CPU, which branches on them.
        cut: whether the pixels are crops already.
    """

    def __init__(self, transform: Finisher, pixels: Tensor, plans: np.ndarray, *, cut: bool):
        self.transform, self.pixels, self.plans, self.cut = transform, pixels, plans, cut
        self.views_first = False

    def __len__(self) -> int:
        return len(self.pixels)

    def transposed(self) -> Self:
        """The same with views, (V, B, ...), before samples."""
        self.views_first = True
        return self

    def finish(self) -> Tensor:
        """(B, ...) float32 on the device of the pixels."""
        views = self.transform.finish(self.pixels, self.plans, cut=self.cut)
        return views.transpose(0, 1) if self.views_first else views

    def to(self, device: torch.device, **options: Any) -> Self:
        """Copy the bytes to a device; Lightning calls it as it calls a tensor's."""
        self.pixels = self.pixels.to(device, **options)
        return self

    def pin_memory(self) -> Self:
        """Put the bytes into pinned memory; torch's loader calls it."""
        self.pixels = self.pixels.pin_memory()
        return self


def finished(batch: Any) -> Any:
    """The batch (a dict) with every `Deferred` value finished."""
    if not isinstance(batch, dict):
        return batch
    return {k: v.finish() if isinstance(v, Deferred) else v for k, v in batch.items()}


class DeferredRows(Dataset[Any]):
    """A training set whose batches come unfinished.

    Args:
        data: has ``deferred(keys)``, which ``__getitem__`` finishes.
    """

    def __init__(self, data: Any) -> None:
        self.data = data

    def __getitem__(self, keys: Sequence[Key]) -> Any:
        return self.data.deferred(keys)


class DeferredStream(IterableDataset[Any]):
    """A stream whose batches come unfinished.

    Args:
        data: has ``deferred()``, an iterator whose batches ``__iter__`` finishes.
    """

    def __init__(self, data: Any) -> None:
        self.data = data

    def __iter__(self) -> Iterator[Any]:
        return iter(self.data.deferred())
