"""Semantic textual similarity: Spearman correlation of cosine and gold score."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn import functional as F

from common.evaluation.matrices import as_matrix


def spearman(predicted: ArrayLike, gold: ArrayLike) -> float:
    """Spearman rank correlation, ties at their average rank.

    Args:
        predicted: (N,) finite.
        gold: (N,) finite.

    Returns:
        The correlation in [-1, 1]; 0.0 when one side is constant, where it is undefined (a
        collapsed encoder knows nothing).

    Raises:
        ValueError: shapes differ, fewer than two values, or values that are not finite.

    >>> spearman([0.1, 0.2, 0.9], [1, 2, 3])
    1.0
    """
    from scipy.stats import rankdata

    a, b = np.asarray(predicted, dtype=np.float64), np.asarray(gold, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape or len(a) < 2:
        raise ValueError(f"Spearman needs two equally long lists, got {a.shape} and {b.shape}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("Spearman: a value is NaN or infinite")
    x, y = rankdata(a) - (len(a) + 1) / 2, rankdata(b) - (len(b) + 1) / 2
    scale = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / scale if scale > 0 else 0.0


def partial_spearman(x: ArrayLike, y: ArrayLike, control: ArrayLike) -> float:
    """Partial rank correlation: Spearman of x and y with the ranks of a third variable held fixed.

        (r_xy - r_xz r_yz) / sqrt((1 - r_xz^2)(1 - r_yz^2))

    Source: Kendall 1942, "Partial rank correlation", Biometrika 32, with Spearman's r.

    Args:
        x: (N,).
        y: (N,).
        control: (N,) z.

    Returns:
        In [-1, 1]; 0.0 where z explains one side completely.

    Raises:
        ValueError: as `spearman`.

    >>> z = [1, 2, 3, 4, 5, 6]
    >>> round(partial_spearman([2, 1, 4, 3, 6, 5], [2, 1, 4, 3, 6, 5], z), 6)
    1.0
    """
    xy, xz, yz = spearman(x, y), spearman(x, control), spearman(y, control)
    free = (1 - xz**2) * (1 - yz**2)
    return float(np.clip((xy - xz * yz) / np.sqrt(free), -1, 1)) if free > 1e-12 else 0.0


def pair_cosine(x: Tensor, y: Tensor) -> Tensor:
    """Cosine of corresponding rows.

    Args:
        x: (N, D).
        y: (N, D).

    Returns:
        (N,) float64 on the CPU.

    Raises:
        ValueError: shapes differ.
    """
    x, y = as_matrix(x, "x"), as_matrix(y, "y")
    if x.shape != y.shape:
        raise ValueError(f"pairs need equal shapes, got {tuple(x.shape)} and {tuple(y.shape)}")
    product: Tensor = F.normalize(x.double(), dim=1) * F.normalize(y.double(), dim=1)
    return torch.sum(product, dim=1).cpu()


def sts_metrics(
    x: Tensor, y: Tensor, gold: ArrayLike, subsets: Sequence[str] | None = None
) -> dict[str, float]:
    """Spearman of cosine and gold over all pairs, and per subset.

    The literature since SimCSE reports "all" (one correlation over the concatenated subsets of a
    year); earlier work reports the mean over subsets. The two differ by several points.
    Source: Gao et al. 2021, appendix B, arXiv 2104.08821.

    Args:
        x: (N, D) embeddings of the first sentences.
        y: (N, D) embeddings of the second sentences.
        gold: (N,) similarity scores.
        subsets: (N,) subset name of every pair.

    Returns:
        ``spearman`` (all pairs at once); with subsets also ``spearman_mean`` (unweighted mean) and
        ``spearman_<subset>``. Chance is 0 and listed as ``spearman_chance``.

    Raises:
        ValueError: lengths differ, a subset has one pair, or as `spearman`.

    >>> x, y = torch.tensor([[1.0, 0.0]] * 3), torch.tensor([[2.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    >>> sts_metrics(x, y, [5, 3, 1])["spearman"]
    1.0
    """
    return sts_score(pair_cosine(x, y), gold, subsets)


def sts_score(
    cosine: ArrayLike, gold: ArrayLike, subsets: Sequence[str] | None = None
) -> dict[str, float]:
    """`sts_metrics` of similarities that are computed already.

    Args:
        cosine: (N,) similarity of every pair.
        gold: (N,) gold scores.
        subsets: (N,) subset name of every pair.

    Raises:
        ValueError: as `sts_metrics`.
    """
    values, scores = np.asarray(cosine, dtype=np.float64), np.asarray(gold, dtype=np.float64)
    metrics = {"spearman": spearman(values, scores), "spearman_chance": 0.0}
    if subsets is None:
        return metrics
    if len(subsets) != len(scores):
        raise ValueError(f"{len(subsets)} subset names for {len(scores)} pairs")
    names = np.asarray(subsets)
    parts = {
        f"spearman_{name}": spearman(values[names == name], scores[names == name])
        for name in sorted(set(subsets))
    }
    return metrics | {"spearman_mean": sum(parts.values()) / len(parts)} | parts
