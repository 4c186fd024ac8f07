"""Options of the pair kernels, and reductions of their results over ranks."""

import math
from collections.abc import Sequence
from typing import NamedTuple, TypedDict, Unpack

import torch
import torch.distributed as dist
from torch import Tensor
from torch.amp.autocast_mode import is_autocast_available

from ...distributed.collectives import all_gather_no_grad
from ...distributed.differentiable import all_reduce_sum, rank_mean
from ...distributed.process import gradient_factor, rank, world_size
from ...kernels.crossover import Kind, needs_plain, plain_pairs
from ...kernels.pair import pair_stats
from ...kernels.sharded.plan import Group, as_sharding, shard_rows
from ...kernels.specs.weights import Spec
from ..output import mean_rows


class KernelOptions(TypedDict, total=False):
    """Keyword options that every pair loss passes to the kernel.

    Attributes:
        group: processes that share the batch (`common.distributed.default_group()`, or a
            `Sharding` for ring mode). Each contrasts its rows with the keys of all and returns
            the loss of its own rows, weighted for gradient averaging. None is one process.
        backend: "auto" | "dense" | "blocked" | "triton".
        memory_budget: bytes that may store N x M intermediate results and save recomputation;
            None is 64 MiB on a CPU, an eighth of the free memory on CUDA for float32 products that are
            exact, and 0 elsewhere or with several processes.
        unit_norm: whether all embeddings are unit vectors, which permits a fixed shift.
        precision: "exact" | "tf32" | "half", see `common.kernels.core.problem.PRECISIONS`.
    """

    group: Group
    backend: str
    memory_budget: int | None
    unit_norm: bool
    precision: str


class Stats(NamedTuple):
    """`common.kernels.PairStats` without None: statistics that were not requested are empty."""

    row_lse: Tensor
    col_lse: Tensor
    row_lin: Tensor
    row_mom: Tensor
    top1: Tensor


def sweep(
    query: Tensor,
    key: Tensor,
    scale: Tensor | float,
    spec: Spec,
    *,
    columns: bool = False,
    moment: bool = False,
    top1: bool = False,
    **kernel: Unpack[KernelOptions],
) -> Stats:
    """Statistics of all pairs; see `common.kernels.pair_stats`."""
    options = {"columns": columns, "moment": moment, "top1": top1, **kernel}
    stats = pair_stats(query, key, scale, spec, **options)  # type: ignore[arg-type]
    empty = stats.row_lse.new_empty(0)
    return Stats(*(empty if part is None else part for part in stats))


def runs_plain(query: Tensor, key: Tensor, kind: Kind, kernel: KernelOptions) -> bool:
    """Whether plain torch computes a loss of embeddings that passed the checks."""
    if kernel.get("group") is not None and process_group(kernel)[0]:
        return False
    return prefers_plain(query, key, kind, kernel.get("backend", "auto"))


def prefers_plain(query: Tensor, key: Tensor, kind: Kind, backend: str) -> bool:
    """Whether plain torch is to run on one process: small batch, requested, or under a transform.

    Half precision and autocast go to the kernels, which accumulate in float32.
    """
    dtype = query.dtype
    if dtype not in (torch.float32, torch.float64) or dtype is not key.dtype:
        return False
    device = "cpu" if query.is_cpu else query.device.type  # asking for the type costs 1 us
    if backend == "auto":
        num_rows, dim = query.shape
        small = 0 < num_rows * key.shape[0] <= plain_pairs(device, kind, dim)
        if not (small or needs_plain()):
            return False
    elif backend != "dense":
        return False
    if device not in ("cpu", "cuda") and not is_autocast_available(device):
        return True  # such as meta
    return not torch.is_autocast_enabled(device)


def as_scale(scale: Tensor | float) -> Tensor | float:
    """The multiplier as a number or a 0-dim tensor.

    Raises:
        ValueError: several elements, or a number that is not finite.
    """
    if isinstance(scale, Tensor):
        if scale.numel() != 1:
            raise ValueError(f"scale must have one element, got shape {tuple(scale.shape)}")
        return scale if scale.ndim == 0 else scale.reshape(())
    if not -math.inf < scale < math.inf:  # `math.isfinite` would break a compiled graph
        raise ValueError(f"scale must be finite, got {scale}")
    return scale


def process_group(kernel: KernelOptions) -> tuple[bool, dist.ProcessGroup | None]:
    """Whether rows are sharded, and over which group."""
    sharding = as_sharding(kernel.get("group"))
    return (False, None) if sharding is None else (True, sharding.group)


def mean_loss(per_sample: Tensor, kernel: KernelOptions, valid: Tensor | None = None) -> Tensor:
    """This rank's loss; the mean of its values over ranks is the mean over all rows.

    Args:
        per_sample: (n,) losses of the local rows.
        kernel: options of the loss; without a group the result is the local mean.
        valid: (n,) bool rows to include; None includes all. Without any the loss is 0.
    """
    sharding = as_sharding(kernel.get("group"))
    if sharding is None:
        return mean_rows(per_sample, valid)
    if valid is None:
        shard = shard_rows(per_sample.shape[0], per_sample.device, sharding.group)
        return rank_mean(per_sample, sharding.group, sharding.grad_reduction, sum(shard))
    count = all_reduce_sum(valid.sum().to(per_sample.dtype), sharding.group).clamp(min=1)
    factor = gradient_factor(sharding.grad_reduction, sharding.group)
    return torch.where(valid, per_sample, 0).sum() * (factor / count)


def whole_loss(total: Tensor, kernel: KernelOptions) -> Tensor:
    """This rank's part of a loss that all ranks compute, with the gradient of all parts.

    If gradients are averaged over ranks, each rank returns the whole loss. If they are summed, it
    returns the loss divided by the number of ranks, as `mean_loss` does.
    """
    sharding = as_sharding(kernel.get("group"))
    if sharding is None:
        return total
    factor = gradient_factor(sharding.grad_reduction, sharding.group)
    return total * (factor / world_size(sharding.group))


def sum_over_ranks(x: Tensor, kernel: KernelOptions) -> Tensor:
    """Sum of a statistic over the ranks of the batch, with gradient."""
    sharded, group = process_group(kernel)
    return all_reduce_sum(x, group) if sharded else x


def rows_of_all_ranks(x: Tensor, kernel: KernelOptions) -> Tensor:
    """Concatenation over ranks without gradient: labels, ids.

    All dimensions but the first are equal on all ranks.
    """
    sharded, group = process_group(kernel)
    return all_gather_no_grad(x, group, row_counts(x, kernel)) if sharded else x


def row_counts(rows: Tensor, kernel: KernelOptions) -> tuple[int, ...]:
    """Numbers of rows of all ranks.

    No exchange takes place if equal numbers are promised (see `shard_rows`).
    """
    sharded, group = process_group(kernel)
    return shard_rows(len(rows), rows.device, group) if sharded else (len(rows),)


def first_row(rows: Tensor, kernel: KernelOptions) -> int:
    """Index of this rank's first row among those of all ranks; 0 without a group."""
    sharded, group = process_group(kernel)
    return sum(row_counts(rows, kernel)[: rank(group)]) if sharded else 0


def key_options(kernel: KernelOptions) -> KernelOptions:
    """Options for sums over keys: unchanged, or local if all ranks hold the same keys."""
    sharding = as_sharding(kernel.get("group"))
    return kernel if sharding is None or sharding.keys == "sharded" else local(kernel)


def count_rows(num_local: int, like: Tensor, kernel: KernelOptions) -> Tensor:
    """Number of rows of all ranks as a 0-dim tensor."""
    count = like.new_full((), num_local)  # filled on the device: no synchronisation
    return sum_over_ranks(count, kernel)


def local(kernel: KernelOptions) -> KernelOptions:
    """The same options for keys that are not sharded, such as a queue."""
    return {**kernel, "group": None}


def joint_log_sum(parts: Sequence[Tensor]) -> Tensor:
    """Log sum exp of several (N,) log-sums; -inf entries (empty blocks) carry no gradient."""
    total = parts[0]
    for part in parts[1:]:
        high, low = torch.maximum(total, part), torch.minimum(total, part)
        gap = torch.where(low.isneginf(), torch.full_like(low, -torch.inf), low - high)
        total = high + gap.exp().log1p()
    return total
