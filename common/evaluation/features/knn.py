"""k-nearest-neighbour classification of frozen features, plain and weighted."""

from collections.abc import Sequence

import torch
from torch import Tensor

from common.evaluation.matrices import as_labels
from common.evaluation.search import search


def knn_correct(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    *,
    ks: Sequence[int] = (20, 200),
    temperature: float = 0.07,
    num_classes: int | None = None,
    chunk_size: int = 4096,
) -> dict[str, Tensor]:
    """Which test samples a cosine k-nearest-neighbour vote classifies correctly.

    Equation: class score ``sum_{i in N_k, y_i = c} exp(s_i / temperature)`` (weighted) or the
    number of neighbours of the class (plain). Equal votes go to the lower class index, equal
    similarities to the lower train index.
    Source: Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric Instance
    Discrimination", section 3.4, arXiv 1805.01978.

    Args:
        train_features: (N, D), normalised here.
        train_labels: (N,) int in [0, num_classes).
        test_features: (M, D).
        test_labels: (M,) int in [0, num_classes).
        ks: neighbourhood sizes, each at most N.
        temperature: > 0, divides the cosines of the weighted vote.
        num_classes: C; ``None`` takes the largest label + 1.
        chunk_size: rows per block of similarities.

    Returns:
        ``knn<k>_top1`` and ``knn<k>_weighted_top1`` for every k, each (M,) bool on the CPU.

    Raises:
        ValueError: shapes, labels, temperature or a neighbourhood size do not fit.

    Distributed: local.

    >>> x, y = torch.eye(2), torch.tensor([0, 1])
    >>> knn_correct(x, y, x, torch.tensor([0, 0]), ks=(1,))["knn1_top1"].tolist()
    [True, False]
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be > 0, got {temperature}")
    if not ks or min(ks) < 1 or max(ks) > len(train_features):
        raise ValueError(
            f"ks must lie in [1, {len(train_features)}] (the train set size), got {tuple(ks)}"
        )
    train_labels = as_labels(train_labels, len(train_features), "train_labels", num_classes)
    test_labels = as_labels(test_labels, len(test_features), "test_labels", num_classes)
    if num_classes is None:
        num_classes = int(max(train_labels.max(), test_labels.max())) + 1
    nearest = search(test_features, train_features, max(ks), chunk_size=chunk_size)
    neighbours = train_labels.to(nearest.indices.device)[nearest.indices]
    # Dividing all weights of a query by its largest leaves the vote unchanged.
    weights = ((nearest.scores - nearest.scores[:, :1]) / temperature).exp().double()
    test_labels = test_labels.to(neighbours.device)
    correct: dict[str, Tensor] = {}
    for k in ks:
        for name, weight in (("", torch.ones_like(weights)), ("_weighted", weights)):
            votes = torch.zeros(
                (len(neighbours), num_classes), dtype=torch.float64, device=neighbours.device
            )
            votes.scatter_add_(1, neighbours[:, :k], weight[:, :k])
            correct[f"knn{k}{name}_top1"] = (first_argmax(votes) == test_labels).cpu()
    return correct


def knn_accuracy(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    *,
    ks: Sequence[int] = (20, 200),
    temperature: float = 0.07,
    num_classes: int | None = None,
    chunk_size: int = 4096,
) -> dict[str, float]:
    """Top-1 accuracy of the votes of `knn_correct`, which takes the same arguments.

    Returns:
        ``knn<k>_top1`` and ``knn<k>_weighted_top1`` for every k, each with ``_chance`` = 1 / C.

    >>> x, y = torch.eye(2), torch.tensor([0, 1])
    >>> knn_accuracy(x, y, x, y, ks=(1,))["knn1_top1"]
    1.0
    """
    correct = knn_correct(
        train_features,
        train_labels,
        test_features,
        test_labels,
        ks=ks,
        temperature=temperature,
        num_classes=num_classes,
        chunk_size=chunk_size,
    )
    classes = num_classes or int(max(train_labels.max(), test_labels.max())) + 1
    return accuracies(correct, classes)


def accuracies(correct: dict[str, Tensor], num_classes: int) -> dict[str, float]:
    """Mean of each entry, (M,) bool, and 1 / C under the same name with ``_chance``.

    >>> accuracies({"top1": torch.tensor([True, False])}, 4)
    {'top1': 0.5, 'top1_chance': 0.25}
    """
    metrics = {}
    for name, right in correct.items():
        metrics[name] = float(right.double().mean())
        metrics[f"{name}_chance"] = 1 / num_classes
    return metrics


def first_argmax(votes: Tensor) -> Tensor:
    """Lowest column that holds the maximum; ``argmax`` does not promise which one it gives."""
    best = votes == votes.max(dim=1, keepdim=True).values
    return (best.cumsum(dim=1) == 0).sum(dim=1)
