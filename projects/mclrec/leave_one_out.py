"""The last item of every user is for the test, the one before for validation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from projects.mclrec.interactions import PAD, Ids

Part = Literal["valid", "test"]


@dataclass(frozen=True)
class LeaveOneOut:
    """Sequences of at least three items, split.

    Attributes:
        train: what training may see, for every user.
        valid_target: (U,) the item after it.
        test_target: (U,) the last item.
        users: (U,) places in the log.
    """

    train: list[Ids]
    valid_target: Ids
    test_target: Ids
    users: Ids

    def histories(self, part: Part) -> list[Ids]:
        """What comes before the target; for the test that includes the validation item."""
        if part == "valid":
            return self.train
        pairs = zip(self.train, self.valid_target, strict=True)
        return [np.append(history, item) for history, item in pairs]

    def targets(self, part: Part) -> Ids:
        """(U,) ids of the items that are to be found."""
        return self.valid_target if part == "valid" else self.test_target


def leave_one_out(sequences: Sequence[Ids]) -> LeaveOneOut:
    """Split every sequence of three items or more; shorter ones have no part in anything."""
    users = np.array(
        [u for u, sequence in enumerate(sequences) if len(sequence) >= 3], dtype=np.int64
    )
    kept = [sequences[u] for u in users]
    return LeaveOneOut(
        [sequence[:-2] for sequence in kept],
        np.array([sequence[-2] for sequence in kept], dtype=np.int64),
        np.array([sequence[-1] for sequence in kept], dtype=np.int64),
        users,
    )


def right_padded(rows: Sequence[Ids], max_length: int | None = None) -> tuple[Tensor, Tensor]:
    """The last `max_length` items of every row, then zeros up to the longest.

    Args:
        rows: B sequences, none empty.
        max_length: None: whole sequences.

    Returns:
        items (B, L) int64 and lengths (B,) int64.
    """
    cut = [row if max_length is None else row[-max_length:] for row in rows]
    lengths = np.array([len(row) for row in cut], dtype=np.int64)
    items = np.full((len(cut), int(lengths.max())), PAD, dtype=np.int64)
    items[np.arange(items.shape[1]) < lengths[:, None]] = np.concatenate(cut)
    return torch.from_numpy(items), torch.from_numpy(lengths)


class HeldOut(Dataset[tuple[Ids, int]]):
    """Histories with the item that comes next, for validation while training.

    Args:
        histories: of every user, none empty.
        targets: (U,).
        max_length: items of a history that are read, the last ones.
        whole: batches also hold whole histories, for a ranking that leaves their items out.
    """

    def __init__(
        self, histories: Sequence[Ids], targets: Ids, max_length: int, *, whole: bool = False
    ) -> None:
        self.histories, self.targets, self.max_length = histories, targets, max_length
        self.whole = whole

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Ids, int]:
        return self.histories[index], int(self.targets[index])

    def collate(self, rows: list[tuple[Ids, int]]) -> dict[str, Tensor]:
        """``items`` (B, L), ``lengths`` (B,), ``target`` (B,).

        ``history`` (B, longest) if `whole`.
        """
        histories = [history for history, _ in rows]
        items, lengths = right_padded(histories, self.max_length)
        target = torch.tensor([target for _, target in rows])
        batch = {"items": items, "lengths": lengths, "target": target}
        return batch | ({"history": right_padded(histories)[0]} if self.whole else {})
