"""Rows of token ids as one padded tensor with its mask."""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor


class TextInputs(TypedDict):
    """B texts, right-padded."""

    input_ids: Tensor  # (B, L) int64
    attention_mask: Tensor  # (B, L) int64


def padded(
    rows: Sequence[Sequence[int]],
    pad_id: int,
    prefix: Sequence[int] = (),
    suffix: Sequence[int] = (),
) -> TextInputs:
    """Rows with special tokens around them, padded on the right to the longest.

    Args:
        rows: ids of B texts.
        pad_id: fills up.
        prefix: before every row.
        suffix: after every row.

    >>> padded([[7], [8, 9]], 0, [1], [2])["input_ids"].tolist()
    [[1, 7, 2, 0], [1, 8, 9, 2]]
    """
    whole = [[*prefix, *row, *suffix] for row in rows]
    sizes = np.array([len(row) for row in whole])
    ids = np.full((len(whole), sizes.max()), pad_id, dtype=np.int64)
    for line, row in zip(ids, whole, strict=True):
        line[: len(row)] = row
    mask = np.arange(ids.shape[1]) < sizes[:, None]
    return {
        "input_ids": torch.from_numpy(ids),
        "attention_mask": torch.from_numpy(mask.astype(np.int64)),
    }
