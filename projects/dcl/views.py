"""Two augmented views of every image, for self-supervised vision."""

from collections.abc import Sequence
from typing import Any, TypedDict

import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.data.deferred import finished
from common.data.image.sources import ViewSource
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
        images: image source with a training transform.
        seed: the experiment's seed.
    """

    def __init__(self, images: ViewSource, *, seed: int) -> None:
        self.images, self.seed = images, seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, keys: Sequence[Key]) -> TwoViewBatch:
        """Batch of the given ``(index, epoch)`` keys, without images that cannot be read."""
        return finished(self.deferred(keys))  # type: ignore[no-any-return]

    def deferred(self, keys: Sequence[Key]) -> dict[str, Any]:
        """The same, its views unfinished where their transform allows."""
        looks = [
            (self.images.transform, [sample_rng(self.seed, e, i, stream) for i, e in keys])
            for stream in _VIEW_STREAMS
        ]
        (first, second), kept = self.images.views([index for index, _ in keys], looks)
        ids = torch.tensor([keys[position][0] for position in kept])
        return {"view_1": first, "view_2": second, "ids": ids, "skipped": len(keys) - len(kept)}
