"""Which items the rows of an item table are: a hash of their names, which goes with the weights."""

import hashlib
import json
from collections.abc import Sequence

import torch
from torch import Tensor

from common.config import UserError


def item_hash(items: Sequence[str]) -> Tensor:
    """(32,) uint8, of names and order; a tensor, because it is kept among the weights."""
    return torch.tensor(list(hashlib.sha256(json.dumps(list(items)).encode()).digest())).byte()


def check_items(trained: Tensor, at_hand: Tensor) -> None:
    """Refuse to call the rows of an item table by other names than those it was trained with.

    Raises:
        UserError: the two are hashes of different lists.
    """
    if not torch.equal(trained.cpu(), at_hand):
        raise UserError(
            "these weights belong to other items than those of this log: give the data settings and"
            " the seed of that run and its log as it was, or give a folder written by `make"
            " export`, which has its item names with it"
        )
