"""K + 1 augmented views of every image, and small local crops alongside them.

# B images, V views, L local views, S pixels
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from common.data.deferred import Deferred, finished
from common.data.image.opened import OpenedImage
from common.data.image.sources import PlannedTransform, ViewSource, planned, planned_view
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

    transforms: tuple[PlannedTransform, ...]

    def __post_init__(self) -> None:
        if not self.transforms or len({t.size for t in self.transforms}) != 1:
            raise ValueError("a stack of views needs transforms, all of the same size")

    @property
    def size(self) -> int:
        """Height and width of the views in pixels."""
        return self.transforms[0].size

    def batch(self, images: Tensor, rngs: Sequence[Rng] | None = None) -> Tensor:
        """(B, 3, H, W) uint8 -> (B, V, 3, size, size) float32; equal transforms run at once."""
        return self.finish(images, planned(self, images, rngs), cut=False)

    def one(self, image: Image.Image, rng: Rng | None = None) -> Tensor:
        """PIL image -> (V, 3, size, size) float32."""
        return planned_view(self, image, rng)

    def plan(self, rng: Rng, height: int, width: int) -> np.ndarray:
        """(V, P), rows of views with fewer numbers filled with zeros; see `PlannedTransform`.

        One generator for all views would be drawn from in an order that depends on the transforms
        before a view.
        """
        children = rng.spawn(len(self.transforms))
        pairs = zip(self.transforms, children, strict=True)
        rows = [transform.plan(child, height, width) for transform, child in pairs]
        plan = np.zeros((len(rows), max(map(len, rows))))
        for place, row in zip(plan, rows, strict=True):
            place[: len(row)] = row
        return plan

    def crops(self, image: OpenedImage, plan: np.ndarray) -> Tensor:
        """(V, 3, size, size) uint8; see `PlannedTransform`."""
        pairs = zip(self.transforms, plan, strict=True)
        return torch.stack([transform.crops(image, row) for transform, row in pairs])

    def finish(self, pixels: Tensor, plans: np.ndarray, *, cut: bool) -> Tensor:
        """(B, V, 3, size, size); equal transforms run at once; see `PlannedTransform`."""
        parts: list[Tensor] = []
        for transform, group in itertools.groupby(self.transforms):
            count, first = len(list(group)), sum(len(part) for part in parts)
            chosen = slice(first, first + count)
            images = (
                pixels[:, chosen].transpose(0, 1).flatten(0, 1)
                if cut
                else pixels.repeat(count, 1, 1, 1)
            )
            rows = plans[:, chosen].swapaxes(0, 1).reshape(-1, plans.shape[-1])
            views = transform.finish(images, rows, cut=cut)
            parts.append(views.view(count, len(pixels), *views.shape[1:]))
        return torch.cat(parts).transpose(0, 1)


class MultiViewBatch(TypedDict):
    """Views of the same images, row by row."""

    views: Tensor  # (V, B, 3, S, S) float32
    local_views: NotRequired[Tensor]  # (L, B, 3, s, s) float32
    ids: Tensor  # (B,) int64 sample indices
    skipped: int  # corrupt samples that this batch left out


class MultiViews(Dataset[MultiViewBatch]):
    """Training set of V views, and of local views if there is a source for them.

    Args:
        views: image source whose transform is a `ViewStack`.
        local_views: the same images; only its transform, to smaller crops, is used.
        seed: the experiment's seed.
    """

    def __init__(
        self, views: ViewSource, local_views: ViewSource | None = None, *, seed: int
    ) -> None:
        self.views, self.local_views, self.seed = views, local_views, seed

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, keys: Sequence[Key]) -> MultiViewBatch:
        """Batch of the given ``(index, epoch)`` keys, without images that cannot be read."""
        return finished(self.deferred(keys))  # type: ignore[no-any-return]

    def deferred(self, keys: Sequence[Key]) -> dict[str, Any]:
        """The same, its views unfinished where their transform allows."""
        looks = [(self.views.transform, self._rngs(keys, _STREAM))]
        if self.local_views is not None:
            looks.append((self.local_views.transform, self._rngs(keys, _LOCAL_STREAM)))
        stacks, kept = self.views.views([index for index, _ in keys], looks)
        names = ("views", "local_views")[: len(stacks)]
        return {
            **{name: views_first(stack) for name, stack in zip(names, stacks, strict=True)},
            "ids": torch.tensor([keys[position][0] for position in kept]),
            "skipped": len(keys) - len(kept),
        }

    def _rngs(self, keys: Sequence[Key], stream: int) -> list[Rng]:
        return [sample_rng(self.seed, epoch, index, stream) for index, epoch in keys]


def views_first(stack: Tensor | Deferred) -> Tensor | Deferred:
    """Stacks of views (B, V, ...) as (V, B, ...)."""
    return stack.transposed() if isinstance(stack, Deferred) else stack.transpose(0, 1)
