"""Checked embedding matrices, exact arithmetic and block-wise iteration for the evaluators.

Legend: Q queries, G gallery items, D dimension, P (query, item) pairs.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Metric = Literal["cosine", "dot"]
Indices = Tensor | Sequence[int] | Sequence[Sequence[int]]


def blocks(total: int, size: int) -> Iterator[slice]:
    """Yield consecutive slices of at most ``size`` that cover ``range(total)``.

    Args:
        total: number of rows, >= 0.
        size: rows per slice, >= 1.

    Raises:
        ValueError: ``size`` is smaller than 1.

    >>> [(s.start, s.stop) for s in blocks(5, 2)]
    [(0, 2), (2, 4), (4, 5)]
    """
    if size < 1:
        raise ValueError(f"a chunk must contain at least one row, got {size}")
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))


@contextmanager
def exact_math(device: torch.device) -> Iterator[None]:
    """Switch gradients, autocast and reduced-precision matrix products off inside the block.

    TF32 or bf16 products would move similarities by about 1e-3 and so decide rankings.
    """
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


def as_matrix(x: Tensor, name: str) -> Tensor:
    """Return ``x`` detached, in float32 (float64 stays), or refuse what cannot be evaluated.

    Args:
        x: (N, D), any floating dtype.
        name: what the matrix is, for the message.

    Raises:
        ValueError: not a non-empty floating (N, D) matrix, or rows with NaN or infinity.
    """
    if x.ndim != 2 or 0 in x.shape or not x.is_floating_point():
        raise ValueError(
            f"{name} must be a non-empty floating-point (N, D) matrix, "
            f"got {tuple(x.shape)} {x.dtype}"
        )
    x = x.detach()
    x = x if x.dtype == torch.float64 else x.float()
    num_bad = int((~torch.isfinite(x)).any(dim=1).sum())
    if num_bad:
        raise ValueError(
            f"{name}: {num_bad} of {len(x)} rows hold NaN or infinity; the encoder has diverged"
        )
    return x


def as_labels(labels: Tensor, num_rows: int, name: str, num_classes: int | None = None) -> Tensor:
    """Return ``labels`` as int64, or refuse them.

    Args:
        labels: (N,) integers in [0, num_classes).
        num_rows: the N that belongs to them.
        name: what the labels are, for the message.
        num_classes: upper bound, not checked when ``None``.

    Raises:
        ValueError: wrong shape, not integers, or a value out of range.
    """
    if labels.shape != (num_rows,):
        raise ValueError(f"{name} must have shape ({num_rows},), got {tuple(labels.shape)}")
    if labels.is_floating_point() or labels.is_complex():
        raise ValueError(f"{name} must be integers, got {labels.dtype}")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or (num_classes is not None and high >= num_classes):
        raise ValueError(f"{name} must lie in [0, {num_classes}), got {low} to {high}")
    return labels.detach().long()


def as_pair(query: Tensor, gallery: Tensor, metric: Metric) -> tuple[Tensor, Tensor]:
    """Check two embedding matrices against each other and normalise them for ``metric``.

    Args:
        query: (Q, D).
        gallery: (G, D), same device.
        metric: ``"cosine"`` scales every row to unit length, ``"dot"`` leaves it.

    Raises:
        ValueError: dimensions or devices differ, or the metric is unknown.
    """
    query, gallery = as_matrix(query, "query"), as_matrix(gallery, "gallery")
    if query.shape[1] != gallery.shape[1] or query.device != gallery.device:
        raise ValueError(
            f"query {tuple(query.shape)} on {query.device} and gallery {tuple(gallery.shape)} on "
            f"{gallery.device} must share dimension and device"
        )
    dtype = torch.promote_types(query.dtype, gallery.dtype)
    query, gallery = query.to(dtype), gallery.to(dtype)
    if metric == "cosine":
        return F.normalize(query, dim=1), F.normalize(gallery, dim=1)
    if metric == "dot":
        return query, gallery
    raise ValueError(f"metric must be 'cosine' or 'dot', got {metric!r}")


def tie_margin(query: Tensor, gallery: Tensor) -> Tensor:
    """Score difference below which two items count as tied, per query.

    Rounding makes equal items differ by a few units in the last place, depending on the block in
    which they were multiplied; the margin makes ranks independent of the block size.

    Args:
        query: (Q, D).
        gallery: (G, D).

    Returns:
        (Q,), ``tolerance * ||query|| * max ||gallery||`` with 1e-6 (float32) or 1e-12 (float64).
    """
    tolerance = 1e-12 if query.dtype == torch.float64 else 1e-6
    largest = torch.linalg.vector_norm(gallery, dim=1).max()
    margin: Tensor = tolerance * torch.linalg.vector_norm(query, dim=1) * largest
    return margin


def index_pairs(indices: Indices, num_queries: int, num_gallery: int, name: str) -> Tensor:
    """Flatten per-query gallery indices into sorted, distinct pairs.

    Args:
        indices: (Q,) one index per query, or Q lists of indices (possibly empty).
        num_queries: Q.
        num_gallery: G.
        name: what the indices are, for the message.

    Returns:
        (P, 2) int64 on the CPU, rows (query, gallery), sorted.

    Raises:
        ValueError: wrong number of entries or an index outside [0, G).

    >>> index_pairs([[2, 0], []], num_queries=2, num_gallery=3, name="relevance").tolist()
    [[0, 0], [0, 2]]
    """
    entries = indices.tolist() if isinstance(indices, Tensor) else list(indices)
    if len(entries) != num_queries:
        raise ValueError(f"{name} has {len(entries)} entries for {num_queries} queries")
    pairs = {
        (row, int(column))
        for row, entry in enumerate(entries)
        for column in (entry if isinstance(entry, Sequence) else [entry])
    }
    for row, column in pairs:
        if not 0 <= column < num_gallery:
            raise ValueError(
                f"{name} of query {row} is {column}, but the gallery has {num_gallery} items"
            )
    return torch.tensor(sorted(pairs), dtype=torch.long).reshape(-1, 2)


def fill_pairs(
    scores: Tensor, pairs: Tensor, rows: slice, columns: slice, value: float = -float("inf")
) -> None:
    """Overwrite in place the scores of the pairs that fall into one block.

    Args:
        scores: block of the (Q, G) score matrix.
        pairs: (P, 2) int64 sorted by query, as `index_pairs` returns.
        rows: queries of the block.
        columns: gallery items of the block.
        value: what to write.
    """
    if len(pairs) == 0:
        return
    bounds = torch.tensor([rows.start, rows.stop])
    first, last = torch.searchsorted(pairs[:, 0].contiguous(), bounds).tolist()
    local = pairs[first:last]
    local = local[(local[:, 1] >= columns.start) & (local[:, 1] < columns.stop)]
    local = local.to(scores.device)
    scores[local[:, 0] - rows.start, local[:, 1] - columns.start] = value
