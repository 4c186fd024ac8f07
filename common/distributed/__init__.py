"""Collectives with gradients, ring exchange, and the mean/sum convention of DDP.

The convention, once for the whole repository. Every rank holds some rows of the global batch and
back-propagates its own scalar `L_r`; the backward of each collective here returns the gradient of
`sum_r L_r` (a gather sums what all ranks want of a row). DDP and FSDP then average parameter
gradients over the `W` ranks, so the update follows `(1/W) sum_r L_r`: a rank's loss is the mean over
*its own rows* against everybody's columns, or the full loss repeated on every rank. Ranks with
unequal row counts weight their rows with `rank_mean`.

Without an initialised process group everything is the identity with `rank() == 0` and
`world_size() == 1`. In this module `group=None` means the default group.
"""

from common.distributed.collectives import (
    all_gather_no_grad,
    gather_sizes,
    log_sum_exp_over_ranks,
    reduce_scatter_rows,
    row_offset,
)
from common.distributed.differentiable import (
    all_gather_with_grad,
    all_reduce_mean,
    all_reduce_sum,
    global_mean,
    rank_mean,
)
from common.distributed.pending import Pending, start_gather, start_reduce
from common.distributed.process import (
    GradReduction,
    barrier,
    default_group,
    gather_objects,
    gradient_factor,
    is_active,
    is_rank_zero,
    rank,
    world_size,
)
from common.distributed.ring import RingHop, ring_exchange, ring_start

__all__ = [
    "GradReduction",
    "Pending",
    "RingHop",
    "all_gather_no_grad",
    "all_gather_with_grad",
    "all_reduce_mean",
    "all_reduce_sum",
    "barrier",
    "default_group",
    "gather_objects",
    "gather_sizes",
    "global_mean",
    "gradient_factor",
    "is_active",
    "is_rank_zero",
    "log_sum_exp_over_ranks",
    "rank",
    "rank_mean",
    "reduce_scatter_rows",
    "ring_exchange",
    "ring_start",
    "row_offset",
    "start_gather",
    "start_reduce",
    "world_size",
]
