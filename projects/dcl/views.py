"""Two augmented views of every image, for self-supervised vision."""

from collections.abc import Sequence
from typing import TypedDict

import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.data.image.sources import ImageSource
from common.data.samplers import Key, sample_rng

_VIEW_STREAMS = (0, 4)  # independent random streams of one access


class TwoViewBatch(TypedDict):
    """Two views of the same images, row by row."""

    view_1: Tensor  # (B, 3, H, W) float32
    view_2: Tensor  # (B, 3, H, W) float32
    ids: Tensor  # (B,) int64 sample indices
    skipped: int  # corrupt samples that this batch left out


class TwoViews(Dataset[TwoViewBatch]):
    """Training set of two independent draws of the transform for each image.

    Args:
        images: image source with a training transform; its decodable images must not change between
            two accesses.
        seed: the experiment's seed.
    """

    def __init__(self, images: ImageSource, *, seed: int) -> None:
        self.images, self.seed = images, seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, keys: Sequence[Key]) -> TwoViewBatch:
        """Batch of the given ``(index, epoch)`` keys, without images that cannot be read."""
        first, kept = self._view(keys, _VIEW_STREAMS[0])
        keys_left = [keys[position] for position in kept]
        second, _ = self._view(keys_left, _VIEW_STREAMS[1])
        ids = torch.tensor([index for index, _ in keys_left])
        return {"view_1": first, "view_2": second, "ids": ids, "skipped": len(keys) - len(kept)}

    def _view(self, keys: Sequence[Key], stream: int) -> tuple[Tensor, list[int]]:
        rngs = [sample_rng(self.seed, epoch, index, stream) for index, epoch in keys]
        return self.images.load([index for index, _ in keys], rngs)
