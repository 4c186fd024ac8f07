"""Contrast of two views in which the overlap of the samples' sets weights every pair.

# B samples of this rank, N of all ranks, D dim, T elements of all sets

The weights (B, N) are computed in tiles of rows and never stored.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Unpack

import torch
from torch import Tensor
from torch.nn import functional as F

from ...distributed.collectives import all_gather_no_grad
from ...distributed.differentiable import all_gather_with_grad
from ...kernels.specs.weights import ExcludeSelf
from ..functional.kernel import (
    KernelOptions,
    first_row,
    mean_loss,
    process_group,
    row_counts,
    rows_of_all_ranks,
    sweep,
)
from ..output import LossOutput, check_pair, full_precision

TILE = 1024  # rows of weights at a time


class Weights(Protocol):
    """Weights (B, N) of pairs of samples, computed a few rows at a time."""

    def rows(self, start: int, stop: int, like: Tensor) -> Tensor:
        """(stop - start, N) for these samples of this rank, with the device and dtype of `like`."""


@dataclass(frozen=True, eq=False)
class Given:
    """A (B, N) matrix of weights."""

    matrix: Tensor

    def rows(self, start: int, stop: int, like: Tensor) -> Tensor:
        """See `Weights`."""
        return self.matrix[start:stop].to(like)


@dataclass(frozen=True, eq=False)
class SetOverlap:
    """Jaccard index of the samples' sets; 1 for a sample with itself, even if its set is empty.

    Source: He et al. 2022, "SPACE-2", section 3.2, arXiv 2209.06638 (score of two semantic trees).

    Args:
        ids: (T,) int64, elements of all N sets, one set after the other; each once in its set.
        counts: (N,) int64, sizes of the sets; two empty sets have index 0.
        first: index of this rank's first sample among the N.

    Raises:
        ValueError: sizes that do not add up to T.

    >>> sets = SetOverlap(torch.tensor([5, 7, 7, 9]), torch.tensor([2, 2, 0]))
    >>> (3 * sets.rows(0, 3, torch.empty(0))).round().tolist()  # a third, in thirds
    [[3.0, 1.0, 0.0], [1.0, 3.0, 0.0], [0.0, 0.0, 3.0]]
    """

    ids: Tensor
    counts: Tensor
    first: int = 0

    def __post_init__(self) -> None:
        if self.ids.ndim != 1 or self.counts.ndim != 1 or int(self.counts.sum()) != len(self.ids):
            raise ValueError(f"sizes of sets must add up to their {len(self.ids)} elements")
        elements, places = torch.unique(self.ids, return_inverse=True)
        object.__setattr__(self, "_places", places)
        object.__setattr__(self, "_num_elements", len(elements))
        owners = torch.arange(len(self.counts), device=self.ids.device)
        object.__setattr__(self, "_owners", owners.repeat_interleave(self.counts))
        object.__setattr__(self, "_starts", self.counts.cumsum(0) - self.counts)

    def rows(self, start: int, stop: int, like: Tensor) -> Tensor:
        """See `Weights`."""
        own: Any = self
        a, b = self.first + start, self.first + stop
        mine = (own._owners >= a) & (own._owners < b)
        table = like.new_zeros(
            max(1, own._num_elements), b - a
        )  # whether the element is in the set of a row
        table[own._places[mine], own._owners[mine] - a] = 1
        both = _bag_sums(own._places, table, own._starts, own._owners, len(self.counts)).T
        size = self.counts.to(like)
        score = both / (size[a:b, None] + size[None] - both).clamp(min=1)
        score[torch.arange(b - a, device=score.device), torch.arange(a, b, device=score.device)] = 1
        return score


@dataclass(frozen=True, eq=False)
class MeanOverlap:
    """Mean Jaccard index over those kinds of sets in which at least one sample has an element.

    Source: He et al. 2022, "SPACE-2", released `hierarchical_set_score`, arXiv 2209.06638 (combined
    score).

    Args:
        parts: the kinds, of the same samples.

    >>> one = SetOverlap(torch.tensor([5, 5]), torch.tensor([1, 1]))
    >>> two = SetOverlap(torch.tensor([7]), torch.tensor([1, 0]))
    >>> empty = SetOverlap(torch.empty(0).long(), torch.tensor([0, 0]))
    >>> MeanOverlap([one, two, empty]).rows(0, 1, torch.empty(0))
    tensor([[1.0000, 0.5000]])
    """

    parts: Sequence[SetOverlap]

    def rows(self, start: int, stop: int, like: Tensor) -> Tensor:
        """See `Weights`."""
        a, b = self.parts[0].first + start, self.parts[0].first + stop
        has = [part.counts > 0 for part in self.parts]
        either = torch.stack([(h[a:b, None] | h[None]).to(like) for h in has])
        scores = torch.stack([part.rows(start, stop, like) for part in self.parts])
        mean = (scores * either).sum(0) / either.sum(0).clamp(min=1)
        mean[torch.arange(b - a, device=mean.device), torch.arange(a, b, device=mean.device)] = 1
        return mean


def _bag_sums(places: Tensor, table: Tensor, starts: Tensor, owners: Tensor, count: int) -> Tensor:
    """(N, R) sums of the table's rows over each set."""
    if table.dtype in (torch.float32, torch.float64) and len(places):
        return F.embedding_bag(places, table, starts, mode="sum")
    return table.new_zeros(count, table.shape[1]).index_add_(0, owners, table[places])


class _WeightedSum(torch.autograd.Function):
    """y = W x and the row sums of W, tile by tile; the backward pass recomputes W."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Weights, num_rows: int) -> tuple[Tensor, Tensor]:
        ctx.weights, ctx.num_rows = weights, num_rows
        parts, sums = [], []
        for start in range(0, num_rows, TILE):
            tile = weights.rows(start, min(start + TILE, num_rows), x)
            parts.append(tile @ x)
            sums.append(tile.sum(1))
        total = torch.cat(sums)
        ctx.mark_non_differentiable(total)
        return torch.cat(parts), total

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        total = None
        for start in range(0, ctx.num_rows, TILE):
            stop = min(start + TILE, ctx.num_rows)
            part = ctx.weights.rows(start, stop, grad).T @ grad[start:stop]
            total = part if total is None else total + part
        assert total is not None
        return total, None, None


@full_precision
def weighted_two_view(
    view_1: Tensor,
    view_2: Tensor,
    scale: Tensor | float,
    weights: Weights,
    **kernel: Unpack[KernelOptions],
) -> LossOutput:
    """Supervised contrast of two views, with a weight in [0, 1] for every pair of samples.

        z = [z_1; z_2],   w_ab = s_(a mod N, b mod N) for b != a
        l_a = -1 / (sum_(b != a) w_ab) * sum_(b != a) w_ab log [exp(s_ab) / sum_(c != a) exp(s_ac)]

    The denominator sums over all other 2N - 1 vectors, regardless of weight. Both views of a sample
    have the same weights, so sum_b w_ab <z_a, z_b> = <z_a, sum_j s_aj (z_1j + z_2j) - z_a>: weights
    multiply (N, D) vectors, not pairs. Identity weights give NT-Xent.

    Source: He et al. 2022, "SPACE-2", section 3.3, arXiv 2209.06638; Khosla et al. 2020, equation
    2, arXiv 2004.11362.

    Args:
        view_1: (B, D), L2-normalised.
        view_2: (B, D), L2-normalised; row i is the other view of sample i.
        scale: > 0, multiplies the similarities (1 / temperature).
        weights: (B, N) between this rank's samples and those of all ranks; 1 for a sample and
            itself.
        **kernel: see `KernelOptions`.

    Returns:
        Mean over the 2B anchors; per sample the mean of its two; no hits.

    Raises:
        ValueError: views of different shape.

    Distributed: gathers negatives if a `group` is given, else local.

    >>> view = torch.eye(2)
    >>> weighted_two_view(view, view, torch.tensor(4.0).log(), Given(torch.eye(2))).loss.exp()
    tensor(1.5000)
    """
    check_pair(view_1, view_2, names="view_1, view_2")
    anchors = torch.cat([view_1, view_2])
    row_lse = sweep(anchors, anchors, scale, ExcludeSelf(), **kernel).row_lse
    both = view_1 + view_2
    sharded, group = process_group(kernel)
    if sharded:
        both = all_gather_with_grad(both, group, row_counts(both, kernel))
    pulled, total = _WeightedSum.apply(both, weights, len(view_1))  # type: ignore[no-untyped-call]
    positive = (anchors * (pulled.repeat(2, 1) - anchors)).sum(1)  # without the anchor itself
    per_anchor = row_lse - scale * positive / (2 * total - 1).repeat(2)
    per_sample = per_anchor.view(2, -1).mean(0)
    return LossOutput(mean_loss(per_sample, kernel), per_sample, None)


def overlap_of_all_ranks(
    ids: Tensor, counts: Tensor, **kernel: Unpack[KernelOptions]
) -> SetOverlap:
    """Weights between this rank's sets and those of all ranks in `group`, or its own sets."""
    sharded, group = process_group(kernel)
    if not sharded:
        return SetOverlap(ids, counts)
    everyone = rows_of_all_ranks(counts, kernel)
    # a promise of equal shards is about rows, not elements
    return SetOverlap(all_gather_no_grad(ids, group), everyone, first_row(counts, kernel))
