"""Image-to-image retrieval by class: every item is a query over all others.

# N items, D dim
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from common.evaluation.matrices import as_labels, as_matrix, blocks, exact_math


def average_precisions(features: Tensor, labels: Tensor, *, chunk_size: int = 1024) -> Tensor:
    """Average precision of every item as a query, itself left out, by cosine.

        AP_q = 1 / R_q * sum_{k: item k of the ranking is relevant} precision@k,   R_q = N_y - 1

    Equal similarities go to the lower index. An item that is alone in its class is not a query.

    Source: Schall et al. 2021, "GPR1200", section 4 (mAP, the query removed), arXiv 2111.13122.

    Args:
        features: (N, D), normalised here.
        labels: (N,) int64.
        chunk_size: queries per block of similarities.

    Returns:
        (N,) float64, NaN where an item is not a query.

    Raises:
        ValueError: shapes do not fit, or no class has two items.

    Distributed: local.

    >>> x = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.8, 0.2], [0.0, 1.0]])
    >>> average_precisions(x, torch.tensor([0, 1, 0, 1])).tolist()  # ranks 2, 3, 2, 2
    [0.5, 0.3333333333333333, 0.5, 0.5]
    """
    x = F.normalize(as_matrix(features, "features"), dim=1)
    y = as_labels(labels, len(x), "labels").to(x.device)
    precisions = x.new_full((len(x),), float("nan"), dtype=torch.float64)
    place = torch.arange(1, len(x), device=x.device, dtype=torch.float64)
    with exact_math(x.device):
        for rows in blocks(len(x), chunk_size):
            scores = x[rows] @ x.T
            self_index = torch.arange(rows.start, rows.stop, device=x.device)[:, None]
            scores.scatter_(1, self_index, -float("inf"))  # last, and cut off
            order = scores.argsort(dim=1, descending=True, stable=True)[:, :-1]
            relevant = (y[order] == y[rows, None]).double()
            total = relevant.sum(1)
            precisions[rows] = (relevant.cumsum(1) / place * relevant).sum(1) / total
    if bool(precisions.isnan().all()):
        raise ValueError("retrieval by class needs a class with two items")
    return precisions.cpu()


def class_retrieval(
    features: Tensor,
    labels: Tensor,
    domains: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, float]:
    """Mean average precision over queries, and over classes.

    Args:
        features: (N, D).
        labels: (N,) int64.
        domains: classes of each domain, for ``map_<domain>`` over its queries.

    Returns:
        ``map``; ``map_macro``, the mean over classes of the mean over their queries;
        ``map_chance``, the expectation of a random order; ``map_<domain>``.

    Raises:
        ValueError: see `average_precisions`; a domain without a query.

    Distributed: local.

    >>> x = torch.eye(3).repeat(2, 1)
    >>> class_retrieval(x, torch.tensor([0, 1, 2, 0, 1, 2]))["map"]
    1.0
    """
    ap, labels = average_precisions(features, labels), labels.cpu()
    valid = ~ap.isnan()
    classes = torch.unique(labels[valid])
    by_class = torch.stack([ap[labels == c].mean() for c in classes])
    metrics = {"map": float(ap[valid].mean()), "map_macro": float(by_class.mean())}
    place = torch.unique(labels, return_inverse=True)[1]
    relevant = torch.bincount(place)[place][valid].double() - 1
    metrics["map_chance"] = float(_chance(relevant, len(labels) - 1).mean())
    for name, members in (domains or {}).items():
        rows = torch.isin(labels, torch.tensor(list(members))) & valid
        if not bool(rows.any()):
            raise ValueError(f"domain {name!r} has no query")
        metrics[f"map_{name}"] = float(ap[rows].mean())
    return metrics


def _chance(relevant: Tensor, items: int) -> Tensor:
    """E[AP] of a random order of n items with R relevant: H_n/n + (R-1)/(n-1) (1 - H_n/n)."""
    harmonic = float((1 / torch.arange(1, items + 1, dtype=torch.float64)).sum()) / items
    return harmonic + (relevant - 1) / max(1, items - 1) * (1 - harmonic)
