"""Training sets of next-item prediction: every prefix of a sequence is an example.

# B rows of a batch, L positions
"""

from collections.abc import Mapping, Sequence
from typing import NotRequired, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.config import UserError
from common.data.samplers import Key, sample_rng
from projects.mclrec.augment import two_views
from projects.mclrec.interactions import PAD, Ids
from projects.mclrec.leave_one_out import right_padded


class SequenceBatch(TypedDict):
    """B sequences, items first, zeros after.

    Attributes:
        items: (B, L) int64, what is encoded.
        lengths: (B,) int64.
        targets: (B, L) int64, the item after each position, 0 where none is predicted.
        view_1, view_2: (B, L1), (B, L2) int64, augmented sequences; absent without augmentation.
        view_1_lengths, view_2_lengths: (B,) int64.
        ids: (B,) int64, places in the training set.
    """

    items: Tensor
    lengths: Tensor
    targets: Tensor
    view_1: NotRequired[Tensor]
    view_1_lengths: NotRequired[Tensor]
    view_2: NotRequired[Tensor]
    view_2_lengths: NotRequired[Tensor]
    ids: Tensor


class Prefixes(Dataset[SequenceBatch]):
    """All prefixes of the training sequences, each with the item that follows it.

    Either every prefix is a row of its own, or a row is a user and all its prefixes are predicted
    in one pass of a causal encoder. Both have the same pairs of prefix and target as long as
    sequences fit `max_length`; of a longer one the second form has the last `max_length` positions.

    Args:
        sequences: training part of every user; those of a single item have no prefix.
        max_length: items of a row, the last ones.
        seed: of the augmentations.
        ratios: of the augmentations, see `two_views`; None: no views.
        one_pass: a row is a user. The views are then of one of its prefixes, drawn at each access.

    Raises:
        UserError: no sequence has two items.
    """

    def __init__(
        self,
        sequences: Sequence[Ids],
        *,
        max_length: int,
        seed: int,
        ratios: Mapping[str, float] | None = None,
        one_pass: bool = False,
    ) -> None:
        self.sequences = [sequence for sequence in sequences if len(sequence) > 1]
        if not self.sequences:
            raise UserError(
                "no user has two items to train on: lower the filters, or give more data"
            )
        self.max_length, self.seed, self.ratios = max_length, seed, ratios
        self.one_pass = one_pass
        sizes = [1 if one_pass else len(sequence) - 1 for sequence in self.sequences]
        self.owner = np.repeat(np.arange(len(sizes)), sizes)  # (N,) sequence of each row
        self.place = np.arange(len(self.owner)) - np.repeat(np.cumsum([0, *sizes[:-1]]), sizes) + 1

    def __len__(self) -> int:
        return len(self.owner)

    def example(self, index: int) -> tuple[Ids, Ids]:
        """Items of a row and the targets of its positions, equally long."""
        sequence = self.sequences[self.owner[index]]
        if self.one_pass:
            return sequence[:-1][-self.max_length :], sequence[1:][-self.max_length :]
        end = int(self.place[index])
        items = sequence[max(0, end - self.max_length) : end]
        targets = np.full(len(items), PAD, dtype=np.int64)
        targets[-1] = sequence[end]
        return items, targets

    def __getitem__(self, keys: list[Key]) -> SequenceBatch:
        """The batch of (index, epoch) keys."""
        rows = [self.example(index) for index, _ in keys]
        encoded, lengths = right_padded([items for items, _ in rows])
        batch: SequenceBatch = {
            "items": encoded,
            "lengths": lengths,
            "targets": right_padded([targets for _, targets in rows])[0],
            "ids": torch.tensor([index for index, _ in keys]),
        }
        if self.ratios is not None:
            pairs = [self._views(*key, items) for key, (items, _) in zip(keys, rows, strict=True)]
            batch["view_1"], batch["view_1_lengths"] = right_padded([first for first, _ in pairs])
            batch["view_2"], batch["view_2_lengths"] = right_padded([other for _, other in pairs])
        return batch

    def _views(self, index: int, epoch: int, items: Ids) -> tuple[Ids, Ids]:
        assert self.ratios is not None
        rng = sample_rng(self.seed, epoch, index)
        if self.one_pass:
            items = items[: int(rng.integers(len(items))) + 1]
        return two_views(items, self.ratios, rng)
