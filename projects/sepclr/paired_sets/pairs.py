"""Background and target sets: what they share is common, what only targets have is salient.

Contrastive analysis (Zou et al. 2013; Abid et al. 2018) takes two unpaired sets of samples. Here
both lie in one list with a flag, so that a shuffled batch mixes them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypedDict

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as F

from common.config import UserError
from common.data.decode import decode_image
from common.data.image.sources import CachedImages, ImageFiles, ImageSource, ImageTransform
from common.data.samplers import Key, Rng, sample_rng

_VIEW_STREAMS = (0, 4)  # independent random streams of one access
_SPLIT_STREAM = 31


class SampleStore(Protocol):
    """Samples that can be opened with any transform of their kind."""

    def __len__(self) -> int: ...

    def source(self, transform: Any) -> ImageSource:
        """Transformed samples by index."""
        ...

    def picture(self, index: int) -> Image.Image:
        """One sample to look at."""
        ...

    def rows(self, index: Tensor) -> "SampleStore":
        """Some of the samples, (K,) int64."""
        ...


@dataclass(frozen=True)
class PixelStore:
    """Images in memory.

    Attributes:
        pixels: (N, 3, H, W) uint8.
    """

    pixels: Tensor

    def __len__(self) -> int:
        return len(self.pixels)

    def source(self, transform: ImageTransform) -> ImageSource:
        """See `SampleStore`."""
        return CachedImages(self.pixels, transform)

    def picture(self, index: int) -> Image.Image:
        """See `SampleStore`."""
        picture: Image.Image = F.to_pil_image(self.pixels[index])
        return picture

    def rows(self, index: Tensor) -> "PixelStore":
        """See `SampleStore`."""
        return PixelStore(self.pixels[index])


@dataclass(frozen=True)
class _Prepared:
    """A transform of single images behind a fixed preparation."""

    prepare: Callable[[Image.Image], Image.Image]
    transform: ImageTransform

    @property
    def size(self) -> int:
        return self.transform.size

    def one(self, image: Image.Image, rng: Rng | None = None) -> Tensor:
        return self.transform.one(self.prepare(image), rng)

    def batch(self, images: Tensor, rngs: Sequence[Rng] | None = None) -> Tensor:
        raise TypeError("files are read one at a time")


@dataclass(frozen=True)
class FileStore:
    """Image files, read at every access.

    Attributes:
        paths: N files.
        prepare: from the opened image to the one that is transformed (crop, grey, size).
    """

    paths: list[Path]
    prepare: Callable[[Image.Image], Image.Image]

    def __len__(self) -> int:
        return len(self.paths)

    def source(self, transform: ImageTransform) -> ImageSource:
        """See `SampleStore`."""
        paths = self.paths
        return ImageFiles(lambda i: paths[i], len(paths), _Prepared(self.prepare, transform))

    def picture(self, index: int) -> Image.Image:
        """See `SampleStore`."""
        image = self.prepare(decode_image(self.paths[index]))
        return F.resize(image.convert("RGB"), [96])  # type: ignore[no-any-return]

    def rows(self, index: Tensor) -> "FileStore":
        """See `SampleStore`."""
        return FileStore([self.paths[i] for i in index.tolist()], self.prepare)


@dataclass(frozen=True)
class SetPair:
    """A background and a target set in one list.

    A factor is a class label (int64, -1 where a sample has none) or a number (float32, NaN where a
    sample has none).

    Attributes:
        samples: N samples.
        target: (N,) bool, False for the background.
        salient: factors that only targets have, by name, (N,) each.
        common: factors that both sets have, by name, (N,) each.
        class_names: names of the classes of a factor, where there are some.

    Raises:
        ValueError: lengths differ.
        UserError: one of the two sets is empty.
    """

    samples: SampleStore
    target: Tensor
    salient: dict[str, Tensor] = field(default_factory=dict)
    common: dict[str, Tensor] = field(default_factory=dict)
    class_names: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        lengths = {len(x) for x in (self.target, *self.salient.values(), *self.common.values())}
        if lengths != {len(self.samples)}:
            raise ValueError(f"{len(self.samples)} samples, but labels of lengths {lengths}")
        if not bool(self.target.any()) or bool(self.target.all()):
            raise UserError(
                f"a pair of sets needs background and target samples, got {int(self.target.sum())} "
                f"targets of {len(self.target)}: check that both sets could be found"
            )

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def factors(self) -> dict[str, Tensor]:
        """Salient and common factors."""
        return {**self.salient, **self.common}

    def rows(self, index: Tensor) -> "SetPair":
        """Some of the samples, (K,) int64."""
        return replace(
            self,
            samples=self.samples.rows(index),
            target=self.target[index],
            salient={name: values[index] for name, values in self.salient.items()},
            common={name: values[index] for name, values in self.common.items()},
        )


def split_pair(
    pair: SetPair, test_fraction: float, *, seed: int = 0, strata: Tensor | None = None
) -> tuple[SetPair, SetPair]:
    """Random training and test part.

    Args:
        pair: all samples.
        test_fraction: share of the test part, in (0, 1).
        seed: draws the split.
        strata: (N,) int64; each value is split by itself. None: one draw over all samples.

    Raises:
        ValueError: the fraction is out of its range.
    """
    if not 0 < test_fraction < 1:
        raise ValueError(f"test_fraction must lie in (0, 1), got {test_fraction}")
    strata = torch.zeros(len(pair), dtype=torch.long) if strata is None else strata
    held = torch.zeros(len(pair), dtype=torch.bool)
    rng = sample_rng(seed, 0, 0, _SPLIT_STREAM)
    for value in np.unique(strata.numpy()):
        members = (strata == int(value)).nonzero()[:, 0]
        order = members[torch.from_numpy(rng.permutation(len(members)))]
        held[order[: round(test_fraction * len(order))]] = True
    return pair.rows((~held).nonzero()[:, 0]), pair.rows(held.nonzero()[:, 0])


class SetPairBatch(TypedDict):
    """Two views of a mixed batch."""

    view_1: Tensor  # (B, ...) float32
    view_2: Tensor  # (B, ...) float32
    target: Tensor  # (B,) bool
    factors: Tensor  # (B, A) float32, A may be 0
    ids: Tensor  # (B,) int64 sample indices
    skipped: int  # corrupt samples that this batch left out


class SetPairViews(Dataset[SetPairBatch]):
    """Training set of two views of each sample of a pair of sets.

    Args:
        views: sources of the first and the second view, of equal length.
        target: (N,) bool.
        factors: numbers that a supervised objective wants for each sample, (N,) each.
        seed: the experiment's seed.
    """

    def __init__(
        self,
        views: tuple[ImageSource, ImageSource],
        target: Tensor,
        factors: Mapping[str, Tensor],
        *,
        seed: int,
    ) -> None:
        self.views, self.target, self.seed = views, target, seed
        columns = [values.float() for values in factors.values()]
        self.factors = torch.stack(columns, 1) if columns else torch.zeros(len(target), 0)

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, keys: Sequence[Key]) -> SetPairBatch:
        """Batch of the given ``(index, epoch)`` keys, without samples that cannot be read."""
        first, kept = self._view(0, keys)
        keys_left = [keys[position] for position in kept]
        second, _ = self._view(1, keys_left)
        ids = torch.tensor([index for index, _ in keys_left])
        return {
            "view_1": first,
            "view_2": second,
            "target": self.target[ids],
            "factors": self.factors[ids],
            "ids": ids,
            "skipped": len(keys) - len(kept),
        }

    def _view(self, number: int, keys: Sequence[Key]) -> tuple[Tensor, list[int]]:
        stream = _VIEW_STREAMS[number]
        rngs = [sample_rng(self.seed, epoch, index, stream) for index, epoch in keys]
        return self.views[number].load([index for index, _ in keys], rngs)
