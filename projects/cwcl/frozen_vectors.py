"""Embeddings of a frozen tower as training inputs: computed once, read instead of the images."""

from collections.abc import Sequence

import torch
from torch import Tensor

from common.data.samplers import Rng


class FrozenFeatures:
    """An `ImageSource` that gives rows of features in place of images.

    Args:
        features: (K, F) of the images that could be read.
        kept: (K,) their indices, ascending.
        length: number of images, unreadable ones included.

    Raises:
        ValueError: shapes or indices that do not fit.
    """

    def __init__(self, features: Tensor, kept: Tensor | None = None, length: int | None = None):
        kept = torch.arange(len(features)) if kept is None else kept
        length = len(features) if length is None else length
        if features.ndim != 2 or kept.shape != features.shape[:1] or bool((kept >= length).any()):
            raise ValueError(
                f"features {tuple(features.shape)} do not fit {tuple(kept.shape)} indices of "
                f"{length} images"
            )
        self.features = features
        self._row = torch.full((length,), -1).index_copy_(0, kept, torch.arange(len(kept)))

    def __len__(self) -> int:
        return len(self._row)

    def load(
        self, indices: Sequence[int], rngs: Sequence[Rng] | None = None
    ) -> tuple[Tensor, list[int]]:
        """Features (K, F) and the K <= B positions that could be read; `rngs` are not used."""
        rows = self._row[torch.as_tensor(indices, dtype=torch.long)]
        there = rows >= 0
        return self.features[rows[there]], there.nonzero()[:, 0].tolist()
