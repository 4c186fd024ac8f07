"""Specs of a pair matrix whose rows and columns lie on several ranks.

The caller of a sharded operator describes *his* rows against *his* keys; here that spec becomes one
of his rows against all keys, in global indices, or against the keys of one rank.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from ...distributed.collectives import all_gather_no_grad
from ..specs.weights import SIDES, And, Index, Or, Partner, Spec

KEYS_PER_QUERY = {"diagonal", "exclude_self", "partner", "labels", "block"}


class Shards(NamedTuple):
    """Where the rows and columns of all ranks lie in the global pair matrix.

    Attributes:
        rank: This rank.
        queries: Query counts of all ranks.
        keys: Key counts of all ranks; one entry if every rank holds the same keys.
    """

    rank: int
    queries: tuple[int, ...]
    keys: tuple[int, ...]

    @property
    def row_start(self) -> int:
        """Global index of the first local query."""
        return sum(self.queries[: self.rank])

    @property
    def replicated(self) -> bool:
        """Whether all ranks hold the same keys."""
        return len(self.keys) != len(self.queries)

    def columns(self, owner: int) -> tuple[int, int]:
        """First and last-plus-one global column of a rank's keys."""
        start = sum(self.keys[:owner])
        return start, start + self.keys[owner]


def globalise(
    spec: Spec, shards: Shards, group: dist.ProcessGroup | None, device: torch.device
) -> Spec:
    """The spec of the local rows against all keys: key-side data gathered, derived data filled in.

    Args:
        spec: Describes local queries and local keys. Columns of `Index.pos` are global already;
            `Partner(half)` means the local stack `[view_1; view_2]` of `half` pairs.
        shards: Row and column counts of all ranks.
        group: Processes that share the batch.
        device: Of the queries; what is derived here lies there too.

    Returns:
        A prepared spec; its tensors have local rows and global columns.

    Raises:
        ValueError: Side data does not fit the local shapes; or query and key of one index lie on
            different ranks, so that the spec's positives would be mislabelled.
    """
    num_rows = shards.queries[shards.rank]
    spec.check(num_rows, shards.keys[0] if shards.replicated else shards.keys[shards.rank])
    for kind in _leaves(spec):
        _check_alignment(kind, shards)
    spec = _translate_partner(spec, shards, device)
    if not shards.replicated:
        spec = map_side(spec, "k", lambda x: all_gather_no_grad(x, group, shards.keys))
    return spec.prepare(shards.row_start)


def slice_keys(spec: Spec, start: int, stop: int) -> Spec:
    """The part of a global spec that describes key columns `start:stop`."""
    return map_side(spec, "k", lambda x: x[start:stop])


def map_side(spec: Spec, side: str, change: Callable[[Tensor], Tensor]) -> Spec:
    """Apply `change` to all tensors of one side, "q" or "k"."""
    if isinstance(spec, And | Or):
        return type(spec)(tuple(map_side(part, side, change) for part in spec.parts))
    changed = {
        name: change(value) for name, value in spec.side_data().items() if SIDES[name] == side
    }
    if not changed or not dataclasses.is_dataclass(spec):
        return spec
    return dataclasses.replace(spec, **changed)


def _leaves(spec: Spec) -> Sequence[Spec]:
    if isinstance(spec, And | Or):
        return [leaf for part in spec.parts for leaf in _leaves(part)]
    return [spec]


def _check_alignment(leaf: Spec, shards: Shards) -> None:
    """Refuse a spec that pairs query i with key i when they are not on the same rank."""
    if leaf.kind not in KEYS_PER_QUERY or shards.replicated:
        return
    if leaf.kind == "labels" and not leaf.static()["exclude_self"]:
        return
    per_query = leaf.static().get("size", 1)
    expected = tuple(per_query * n for n in shards.queries)
    if shards.keys != expected:
        raise ValueError(
            f"{type(leaf).__name__} pairs query i with key i: expected {list(expected)} keys on "
            f"the ranks, found {list(shards.keys)}. Keep one role per key tensor: gather positives "
            "and hard negatives in two calls and join their row_lse by logaddexp, or give global "
            "columns with Index"
        )


def _translate_partner(spec: Spec, shards: Shards, device: torch.device) -> Spec:
    """`Partner` of a local stack as `Index`: a gathered stack of stacks has another order."""
    if isinstance(spec, And | Or):
        return type(spec)(tuple(_translate_partner(part, shards, device) for part in spec.parts))
    if not isinstance(spec, Partner):
        return spec
    num_rows = shards.queries[shards.rank]
    if 2 * spec.half != num_rows:
        raise ValueError(
            f"Partner({spec.half}) on a sharded batch describes the local stack of two views, "
            f"which has {num_rows} rows: give half = {num_rows // 2}"
        )
    partner = (torch.arange(num_rows, device=device) + spec.half) % num_rows
    return Index(partner + shards.row_start)
