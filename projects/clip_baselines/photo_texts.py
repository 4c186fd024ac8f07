"""Several texts of each photograph."""

from collections.abc import Sequence

import torch
from torch import Tensor

from common.data.image_text.captions import TextSource
from common.data.samplers import Rng
from common.families.image_text.photographs import CLASSES, TEMPLATES


class PhotoTexts:
    """Every template as a text of a photograph.

    Args:
        labels: (N,) int64.
    """

    def __init__(self, labels: Tensor) -> None:
        self.labels = labels.tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def texts(self, index: int) -> list[str]:
        """The six captions of a photograph."""
        return [template.format(CLASSES[self.labels[index]]) for template in TEMPLATES]


class JoinedTexts:
    """Texts of several sources, one behind the other; their numbers of texts may differ."""

    def __init__(self, parts: Sequence[TextSource]) -> None:
        self.parts = list(parts)
        self.starts = torch.tensor([0, *map(len, self.parts)]).cumsum(0).tolist()

    def __len__(self) -> int:
        return int(self.starts[-1])

    def texts(self, index: int) -> list[str]:
        """The texts of a sample."""
        part = next(i for i, end in enumerate(self.starts[1:]) if index < end)
        return self.parts[part].texts(index - self.starts[part])


class Mixture:
    """Which sample an access reads where a share of the samples is drawn from a second set.

    An epoch passes over the first set once; accesses beyond its end draw from the second one
    evenly.

    Args:
        first: samples of the first set.
        second: samples of the second set, which stand behind the first.
        share: of the second set in an epoch, in [0, 1).

    >>> import numpy as np
    >>> mixture = Mixture(first=6, second=1, share=0.25)
    >>> len(mixture), mixture(5, np.random.default_rng(0)), mixture(7, np.random.default_rng(0))
    (8, 5, 6)
    """

    def __init__(self, first: int, second: int, share: float) -> None:
        self.first, self.second = first, second
        self.length = round(first / (1 - share)) if second else first

    def __len__(self) -> int:
        return self.length

    def __call__(self, index: int, rng: Rng) -> int:
        """The row of an access."""
        return index if index < self.first else self.first + int(rng.integers(self.second))
