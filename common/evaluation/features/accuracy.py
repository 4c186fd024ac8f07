"""Accuracy over classes of unequal size."""

import torch
from torch import Tensor


def mean_per_class_accuracy(correct: Tensor, labels: Tensor) -> float:
    """Mean of the accuracies of all classes that occur.

    Args:
        correct: (N,) bool.
        labels: (N,) int >= 0.

    >>> mean_per_class_accuracy(torch.tensor([True, True, False]), torch.tensor([0, 0, 1]))
    0.5
    """
    correct, labels = correct.cpu(), labels.cpu()
    size = torch.bincount(labels).double()
    hits = torch.bincount(labels, weights=correct.double())
    return float((hits[size > 0] / size[size > 0]).mean())
