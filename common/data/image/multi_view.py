"""K + 1 augmented views of every image, and small local crops alongside them.

# B images, V views, L local views, S pixels
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NotRequired, TypedDict

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from common.data.image.sources import ImageSource, ImageTransform
from common.data.samplers import Key, Rng, sample_rng

_STREAM, _LOCAL_STREAM = 0, 4  # independent random streams of one access


@dataclass(frozen=True)
class ViewStack:
    """Several views of an image, one transform each; the image is read once.

    As a transform of an image source it adds a dimension: (B, V, 3, size, size).

    Attributes:
        transforms: V transforms of the same size. Each view draws from a child of the image's
            generator, so views are independent of each other and of the batch they are made in.
    """

    transforms: tuple[ImageTransform, ...]

    def __post_init__(self) -> None:
        if not self.transforms or len({t.size for t in self.transforms}) != 1:
            raise ValueError("a stack of views needs transforms, all of the same size")

    @property
    def size(self) -> int:
        """Height and width of the views in pixels."""
        return self.transforms[0].size

    def batch(self, images: Tensor, rngs: Sequence[Rng] | None = None) -> Tensor:
        """(B, 3, H, W) uint8 -> (B, V, 3, size, size) float32; equal transforms run at once."""
        children = self._children(rngs or ())
        parts: list[Tensor] = []
        for transform, group in itertools.groupby(self.transforms):
            count, first = len(list(group)), sum(len(part) for part in parts)
            crops = [row[view] for view in range(first, first + count) for row in children]
            views = transform.batch(images.repeat(count, 1, 1, 1), crops)
            parts.append(views.view(count, len(images), *views.shape[1:]))
        return torch.cat(parts).transpose(0, 1)

    def one(self, image: Image.Image, rng: Rng | None = None) -> Tensor:
        """PIL image -> (V, 3, size, size) float32."""
        if rng is None:
            raise ValueError("a training transform needs a generator")
        (children,) = self._children([rng])
        pairs = zip(self.transforms, children, strict=True)
        return torch.stack([transform.one(image, child) for transform, child in pairs])

    def _children(self, rngs: Sequence[Rng]) -> list[list[Rng]]:
        """A generator for each view of each image.

        One generator for all views of an image would be drawn from in an order that depends on how
        a transform cuts its batch into parts, and so on the other images.
        """
        return [rng.spawn(len(self.transforms)) for rng in rngs]


class MultiViewBatch(TypedDict):
    """Views of the same images, row by row."""

    views: Tensor  # (V, B, 3, S, S) float32
    local_views: NotRequired[Tensor]  # (L, B, 3, s, s) float32
    ids: Tensor  # (B,) int64 sample indices
    skipped: int  # corrupt samples that this batch left out


class MultiViews(Dataset[MultiViewBatch]):
    """Training set of V views, and of local views if there is a source for them.

    Args:
        views: image source whose transform is a `ViewStack`; its decodable images must not change
            between two accesses.
        local_views: the same images as smaller crops.
        seed: the experiment's seed.
    """

    def __init__(
        self, views: ImageSource, local_views: ImageSource | None = None, *, seed: int
    ) -> None:
        self.views, self.local_views, self.seed = views, local_views, seed

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, keys: Sequence[Key]) -> MultiViewBatch:
        """Batch of the given ``(index, epoch)`` keys, without images that cannot be read."""
        views, kept = self._load(self.views, keys, _STREAM)
        left = [keys[position] for position in kept]
        batch: MultiViewBatch = {
            "views": views,
            "ids": torch.tensor([index for index, _ in left]),
            "skipped": len(keys) - len(kept),
        }
        if self.local_views is not None:
            batch["local_views"] = self._load(self.local_views, left, _LOCAL_STREAM)[0]
        return batch

    def _load(
        self, source: ImageSource, keys: Sequence[Key], stream: int
    ) -> tuple[Tensor, list[int]]:
        rngs = [sample_rng(self.seed, epoch, index, stream) for index, epoch in keys]
        stacks, kept = source.load([index for index, _ in keys], rngs)
        return stacks.transpose(0, 1), kept
