"""What a back end computes: one sweep of local queries against one block of keys.

A back end is a module with these functions (`blocked` is the model; `triton_backend` the GPU one):

    forward(problem) -> RawStats
    backward(problem, stats, upstream, need_q, need_k) -> Gradients
    softplus_forward(problem, bias, offset) -> Tensor (N,)
    softplus_backward(problem, bias, offset, upstream, need_q, need_k) -> Gradients
    softplus_fused(problem, bias, offset, need_q, need_k) -> (values, Gradients of their sum)
    info_nce_rows(problem, need_q, need_k, join) -> (RawStats, Gradients of the summed row loss)
    fuses_rows(problem) -> bool                 whether info_nce_rows can run this problem
    unsupported(problem) -> str | None          why it cannot run this problem

Statistics of two key blocks of the same rows are merged by `merge_rows`, those of two row blocks
of the same keys by `logaddexp` of ``col_lse``; the backward of a key block takes the *final*
statistics. This is all that sharding needs: run each block with its ``row_start``/``col_start``.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..crossover import Kind
from ..specs.weights import Spec, Tile

PRECISIONS = ("exact", "tf32", "half")
"""Operands of the products of float32 inputs; sums, exponentials and gradients are float32 in each.

exact: float32. tf32: 10 bits of mantissa, on tensor cores. half: float16 for unit rows (10 bits),
bfloat16 for others, and bfloat16 gradients of the logits. A permission: only the Triton back end
takes it.
"""


@dataclass(frozen=True, eq=False)
class Problem:
    """Inputs of a sweep. s_ij = scale * row_scale_i * <q_i, k_j>.

    Attributes:
        q: (N, D). k: (M, D). Any floating dtype.
        scale: 0-dim tensor, the multiplier (inverse temperature), on the device of q.
        spec: prepared and checked pair specification.
        row_scale: (N,) per-query multiplier or None.
        row_start, col_start: global index of the first local row / column.
        columns, moment, top1: which optional statistics are wanted.
        unit_norm: rows of q and k are unit vectors (permits a fixed shift of the exponentials).
        half: k is q and all masks are symmetric: only tiles on and above the diagonal are visited.
            ``col_lse`` then equals ``row_lse`` and is not returned.
        keep: bytes of exponentials to keep from the forward for the backward (0: recompute).
        deterministic: no atomic additions in the closed forms on CUDA; everything else is
            bit-reproducible anyway.
        precision: what the products of float32 inputs may be rounded to on CUDA, see `PRECISIONS`.
    """

    q: Tensor
    k: Tensor
    scale: Tensor
    spec: Spec
    row_scale: Tensor | None = None
    row_start: int = 0
    col_start: int = 0
    columns: bool = False
    moment: bool = False
    top1: bool = False
    unit_norm: bool = True
    half: bool = False
    keep: int = 0
    deterministic: bool = True
    precision: str = "exact"

    @property
    def num_rows(self) -> int:
        """N."""
        return self.q.shape[0]

    @property
    def num_cols(self) -> int:
        """M."""
        return self.k.shape[0]

    @property
    def kind(self) -> Kind:
        """What decides, besides the size, where tiles begin to pay."""
        if self.columns:
            return "symmetric"
        return "self" if self.q is self.k else "one-way"

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of statistics and accumulators: float64 for float64 inputs, else float32."""
        return stat_dtype(self.q)

    @property
    def factor(self) -> Tensor:
        """(N, 1) or (1, 1): scale * row_scale in the statistics dtype."""
        scale = self.scale.to(self.dtype).reshape(1, 1)
        return scale if self.row_scale is None else scale * self.row_scale.to(self.dtype)[:, None]

    def tile(self, r0: int, r1: int, c0: int, c1: int) -> Tile:
        """Tile of local rows r0:r1 and local columns c0:c1."""
        return Tile(r0, r1, c0, c1, self.row_start, self.col_start, self.q.device)

    def whole(self) -> Tile:
        """The tile of all pairs."""
        return self.tile(0, self.num_rows, 0, self.num_cols)


class RawStats(NamedTuple):
    """Statistics of a sweep, in float32 (float64 for float64 inputs); absent ones are empty.

    row_lse (N,), col_lse (M,), row_lin (N,), row_mom (N,); row_best (N,): largest logit among the
    counted pairs and the positives, row_hit (N,): 1.0 where a positive attains it. ``shift`` and
    ``kept`` belong to the back end that made them (fixed shift or, on Triton, the exponentials of
    the positives; exponentials for the backward).
    """

    row_lse: Tensor
    col_lse: Tensor
    row_lin: Tensor
    row_mom: Tensor
    row_best: Tensor
    row_hit: Tensor
    shift: Tensor
    kept: Tensor


class SoftplusSums(NamedTuple):
    """Result of the softplus reducer, in float32 (float64 for float64 inputs).

    value (N,): the sums. best (N,): largest logit (without bias) among the counted pairs and the
    positives, positive (N,): largest logit of a positive; both empty unless ``top1`` is wanted.
    """

    value: Tensor
    best: Tensor
    positive: Tensor

    @property
    def hit(self) -> Tensor:
        """(N,) bool: whether a positive attains the largest logit."""
        return (self.positive >= self.best) & ~self.positive.isneginf()

    def join(self, other: "SoftplusSums") -> "SoftplusSums":
        """Of the union of two disjoint key blocks."""
        best = torch.maximum(self.best, other.best)
        positive = torch.maximum(self.positive, other.positive)
        return SoftplusSums(self.value + other.value, best, positive)


class Upstream(NamedTuple):
    """Gradients of the loss for the statistics; None = zero. Letters as in docs/kernels.md."""

    a: Tensor | None = None  # d loss / d row_lse, (N,)
    b: Tensor | None = None  # d loss / d col_lse, (M,)
    c: Tensor | None = None  # d loss / d row_lin, (N,)
    e: Tensor | None = None  # d loss / d row_mom, (N,)


class Gradients(NamedTuple):
    """Gradients in the statistics dtype.

    dq: (N, D) and dk: (M, D), complete (scale included); empty if not needed. In half mode dq
        holds both roles and dk is empty.
    row_dot: (N,) sum_j G_ij <q_i, k_j>, so that d scale = sum row_scale * row_dot and
        d row_scale = scale * row_dot. In half mode only its sum is meaningful.
    row_sum: (N,) softplus only: sum_j G_ij (its sum is d bias). d_offset: (N,) softplus only.
    """

    dq: Tensor
    dk: Tensor
    row_dot: Tensor
    row_sum: Tensor | None = None
    d_offset: Tensor | None = None


def stat_dtype(x: Tensor) -> torch.dtype:
    """Dtype of statistics and accumulators for embeddings x."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def merge_rows(left: RawStats, right: RawStats) -> RawStats:
    """Row statistics of the union of two disjoint key blocks.

    Column statistics are concatenated.
    """
    row_lse = torch.logaddexp(left.row_lse, right.row_lse)
    row_mom = left.row_mom
    if row_mom.numel():
        total = torch.where(row_lse.isneginf(), 0.0, row_lse)
        row_mom = left.row_mom * (left.row_lse - total).exp()
        row_mom = row_mom + right.row_mom * (right.row_lse - total).exp()
    better, tie = right.row_best > left.row_best, right.row_best == left.row_best
    row_hit = torch.where(better, right.row_hit, left.row_hit)
    return left._replace(
        row_lse=row_lse,
        col_lse=torch.cat([left.col_lse, right.col_lse]),
        row_lin=left.row_lin + right.row_lin,
        row_mom=row_mom,
        row_best=torch.maximum(left.row_best, right.row_best),
        row_hit=torch.where(tie, torch.maximum(left.row_hit, right.row_hit), row_hit),
        kept=left.kept.new_empty(0),
    )
