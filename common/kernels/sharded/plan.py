"""How a pair matrix is split over ranks, and the loop that lets keys pass by all of them.

Ranks tell each other how many rows they have, in every call, and the host waits for the answer.
With
``CONTRASTIVE_EQUAL_SHARDS=1``, a promise that at every call all ranks have as many rows, and as
many keys, as each other (as samplers do that pad or drop the last batch), each pair of sizes is
told and checked once. A promise broken later ends as any mismatch of collectives: an error of gloo,
a hang of NCCL.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import Tensor

from ...distributed.collectives import all_gather_no_grad, reduce_scatter_rows
from ...distributed.process import GradReduction, rank, world_size
from ...distributed.ring import ring_exchange, ring_start
from ..core.problem import Gradients, Problem, RawStats, SoftplusSums, Upstream
from ..specs.weights import Tile
from .specs import Shards, globalise, slice_keys


class Backend(Protocol):
    """The part of a back end module that sharding uses; see `core.problem`."""

    def forward(self, problem: Problem) -> RawStats: ...  # noqa: D102

    def backward(  # noqa: D102
        self, problem: Problem, stats: RawStats, upstream: Upstream, need_q: bool, need_k: bool
    ) -> Gradients: ...

    def softplus_forward(  # noqa: D102
        self, problem: Problem, bias: Tensor, offset: Tensor | None
    ) -> SoftplusSums: ...

    def softplus_backward(  # noqa: D102
        self,
        problem: Problem,
        bias: Tensor,
        offset: Tensor | None,
        upstream: Tensor,
        need_q: bool,
        need_k: bool,
    ) -> Gradients: ...


@dataclass(frozen=True)
class Sharding:
    """How the rows and keys of a pair matrix are split; the `group` argument of the kernels.

    Attributes:
        group: Processes that share the batch; None is the default group.
        mode: "gather" (fastest; N D * 6 bytes for half precision keys) or "ring" (batches whose
            gathered keys and their gradient do not fit).
        keys: "sharded", or "replicated": every rank holds the same keys (class prototypes, a queue
            kept in step). Their gradient is then the local share, as for any DDP parameter.
        grad_reduction: What `info_nce` expects to happen to parameter gradients afterwards.
        overlap: Gather mode: compute while keys and their gradients travel. Not with a
            `memory_budget`, whose kept exponentials belong to one sweep over all keys.
    """

    group: dist.ProcessGroup | None = None
    mode: Literal["gather", "ring"] = "gather"
    keys: Literal["sharded", "replicated"] = "sharded"
    grad_reduction: GradReduction = "mean"
    overlap: bool = True

    def __post_init__(self) -> None:
        if self.mode not in ("gather", "ring"):
            raise ValueError(f"Sharding.mode must be 'gather' or 'ring', got {self.mode!r}")
        if self.keys not in ("sharded", "replicated"):
            raise ValueError(f"Sharding.keys must be 'sharded' or 'replicated', got {self.keys!r}")


Group = dist.ProcessGroup | Sharding | None


def autocast_off(x: Tensor) -> torch.autocast:
    """Back ends choose their own precision; gradients under autocast would be rounded."""
    return torch.autocast(x.device.type, enabled=False)


def as_sharding(group: Group) -> Sharding | None:
    """The sharding meant by a `group` argument; None for a single process."""
    if group is None:
        return None
    sharding = group if isinstance(group, Sharding) else Sharding(group)
    return sharding if world_size(sharding.group) > 1 else None


@dataclass(frozen=True, eq=False)
class Plan:
    """One sharded problem: where blocks lie, and the loop over them."""

    problem: Problem
    shards: Shards
    sharding: Sharding

    @property
    def group(self) -> dist.ProcessGroup | None:
        """Processes that share the batch."""
        return self.sharding.group

    @property
    def ring(self) -> bool:
        """Whether keys travel."""
        return self.sharding.mode == "ring" and not self.shards.replicated

    @property
    def overlaps(self) -> bool:
        """Whether the sweep is cut so that communication hides behind it."""
        return self.sharding.overlap and not self.shards.replicated and self.problem.keep <= 0

    def fetch(self, x: Tensor) -> Tensor:
        """Key-side tensor of all ranks."""
        if self.shards.replicated:
            return x
        return all_gather_no_grad(x, self.group, self.shards.keys)

    def scatter(self, dk: Tensor) -> Tensor:
        """Own part of the sum over ranks of a gradient for all keys.

        For replicated keys as it is.
        """
        if self.shards.replicated:
            return dk
        return reduce_scatter_rows(dk, self.shards.keys, self.group)

    def own(self, x: Tensor) -> Tensor:
        """This rank's part of a key-side tensor of all ranks."""
        if self.shards.replicated:
            return x
        start, stop = self.shards.columns(self.shards.rank)
        return x[start:stop]

    def bound(self, q: Tensor, k: Tensor, scale: Tensor, row_scale: Tensor | None) -> Problem:
        """The problem of the local rows against all keys `k`."""
        return replace(self.problem, q=q, k=k, scale=scale, row_scale=row_scale)

    def whole_tile(self) -> Tile:
        """The local rows against all keys."""
        p = self.problem
        return Tile(0, p.num_rows, 0, sum(self.shards.keys), p.row_start, 0, p.q.device)

    def block(self, whole: Problem, k: Tensor, owner: int) -> Problem:
        """The problem of the local rows against the keys `k` of one rank."""
        return self.part(whole, k, *self.shards.columns(owner))

    @staticmethod
    def part(whole: Problem, k: Tensor, start: int, stop: int) -> Problem:
        """The problem of the local rows against global columns `start:stop`, whose keys are `k`."""
        spec = slice_keys(whole.spec, start, stop)
        return replace(whole, k=k, spec=spec, col_start=start, keep=-1)

    def travel(
        self,
        fixed: Sequence[Tensor],
        running: Sequence[Tensor],
        visit: Callable[[int, Sequence[Tensor], Sequence[Tensor]], Sequence[Tensor]],
    ) -> Sequence[Tensor]:
        """Let key-side tensors pass by all ranks.

        `fixed` ones (keys) are sent on while their block is computed; `running` ones (column sums,
        dk) after `visit(owner, fixed, running)` has added this rank's share. They return home.
        """
        size, here = len(self.shards.queries), self.shards.rank
        for hop in range(size):
            owner = (here - hop) % size
            rows_in = self.shards.keys[(owner - 1) % size]
            pending = ring_start(fixed, rows_in, self.group) if hop < size - 1 else None
            running = visit(owner, fixed, running)
            if pending is not None:
                fixed = pending.wait()
            if running:
                running = ring_exchange(running, rows_in, self.group)
        return running


def make_plan(problem: Problem, sharding: Sharding) -> Plan:
    """Exchange the shard sizes and turn the local problem into one with global columns."""
    group = sharding.group
    queries, keys = _sizes(problem, group)
    if sharding.keys == "replicated":
        keys = keys[:1]
    shards = Shards(rank(group), queries, keys)
    local = replace(
        problem,
        spec=globalise(problem.spec, shards, group, problem.q.device),
        row_start=shards.row_start,
        col_start=0,
        half=False,
        keep=-1 if sharding.mode == "ring" else problem.keep,  # -1: keep nothing
    )
    return Plan(local, shards, sharding)


_EQUAL: WeakKeyDictionary[dist.ProcessGroup, set[tuple[int, int]]] = WeakKeyDictionary()


def shard_rows(
    num_rows: int, device: torch.device, group: dist.ProcessGroup | None
) -> tuple[int, ...]:
    """Rows of every rank; see the module for what is told once.

    Raises:
        ValueError: a broken promise of equal shards.
    """
    return _all_sizes((num_rows, num_rows), device, group)[0]


def _sizes(
    problem: Problem, group: dist.ProcessGroup | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Rows and keys of every rank."""
    return _all_sizes((problem.num_rows, problem.num_cols), problem.q.device, group)


def _all_sizes(
    local: tuple[int, int], device: torch.device, group: dist.ProcessGroup | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Numbers of rows and keys of every rank."""
    num_ranks = world_size(group)
    promised = os.environ.get("CONTRASTIVE_EQUAL_SHARDS") == "1"
    of_all = group or dist.group.WORLD
    assert of_all is not None  # `as_sharding` found several processes
    checked = _EQUAL.setdefault(of_all, set())
    if not (promised and local in checked):
        counts = torch.tensor([local], device=device)
        sizes = all_gather_no_grad(counts, group, [1] * num_ranks).tolist()
        queries, keys = zip(*sizes, strict=True)
        if not promised:
            return queries, keys
        if len({*queries}) > 1 or len({*keys}) > 1:
            raise ValueError(
                f"CONTRASTIVE_EQUAL_SHARDS=1, but the ranks have {list(queries)} rows and "
                f"{list(keys)} keys: drop the last batch, or unset the variable"
            )
        checked.add(local)
    return (local[0],) * num_ranks, (local[1],) * num_ranks


def ring_sum(
    plan: Plan,
    whole: Problem,
    columns: Sequence[Tensor],
    block_gradients: Callable[[Problem, Sequence[Tensor]], Gradients],
    need_k: bool,
) -> Gradients:
    """Sum the gradients of all blocks; dk is collected along the way."""
    parts: list[Gradients] = []

    def visit(owner: int, fixed: Sequence[Tensor], running: Sequence[Tensor]) -> Sequence[Tensor]:
        grads = block_gradients(plan.block(whole, fixed[0], owner), fixed[1:])
        dk = [x + grads.dk for x in running]
        parts[:] = [add_gradients(parts[0], grads) if parts else grads]
        return dk

    zero = torch.zeros_like(whole.k, dtype=whole.dtype)
    home = plan.travel([whole.k, *columns], [zero] if need_k else [], visit)
    return parts[0]._replace(dk=home[0] if home else zero[:0])


def add_gradients(left: Gradients, right: Gradients) -> Gradients:
    """Gradients of the same rows for two key blocks; dk is that of the second one."""

    def add(x: Tensor | None, y: Tensor | None) -> Tensor | None:
        return None if x is None or y is None else x + y

    return Gradients(
        left.dq + right.dq,
        right.dk,
        left.row_dot + right.row_dot,
        add(left.row_sum, right.row_sum),
        add(left.d_offset, right.d_offset),
    )


def scale_grad(row_dot: Tensor, problem: Problem) -> Tensor:
    """Gradient of the scale from the row dots, in shape and dtype of the scale."""
    dots = row_dot if problem.row_scale is None else row_dot * problem.row_scale
    return dots.sum().to(problem.scale.dtype).reshape(problem.scale.shape)
