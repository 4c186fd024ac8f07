"""Statistics of a batch's weights: mass on the right samples, flatness, a flat control."""

import torch
from torch import Tensor

from projects.cwcl.objective import similarity_weights, soft_targets


def mean_entropy(targets: Tensor) -> float:
    """Mean entropy in nats of the rows (N, M) of target distributions."""
    return float(torch.special.entr(targets.double()).sum(1).mean())


def matching_smoothing(entropy: float, num: int) -> float:
    """Share spread evenly over `num` samples that gives a one-hot target this entropy.

    Args:
        entropy: in nats, in [0, log num).
        num: samples of a batch, >= 2.

    Raises:
        ValueError: an entropy that no such target has.
    """
    low, high = 0.0, 1.0
    if num < 2 or not 0 <= entropy < mean_entropy(torch.full((1, num), 1 / num)):
        raise ValueError(f"no smoothed target over {num} samples has an entropy of {entropy}")
    for _ in range(60):
        middle = (low + high) / 2
        target = torch.full((1, num), middle / num, dtype=torch.float64)
        target[0, 0] += 1 - middle
        low, high = (middle, high) if mean_entropy(target) < entropy else (low, middle)
    return low


def weight_statistics(features: Tensor, labels: Tensor) -> dict[str, float]:
    """How much CWCL's targets say: weights by class, mass on the own sample and on its class.

    Args:
        features: (N, R) of one batch, as the weights see them.
        labels: (N,) classes, with at least two.

    Returns:
        ``weight_same_class`` and ``weight_other_class`` (means over pairs), ``mass_own``,
        ``mass_same_class`` (of the target, the own sample included) with ``_chance``,
        ``target_entropy`` over its maximum, ``matching_smoothing``.
    """
    weights = similarity_weights(features).double()
    targets, same = soft_targets(weights), labels[:, None] == labels
    self_pairs = torch.eye(len(labels), dtype=torch.bool)
    entropy, num = mean_entropy(targets), len(labels)
    return {
        "weight_same_class": float(weights[same & ~self_pairs].mean()),
        "weight_other_class": float(weights[~same].mean()),
        "mass_own": float(targets.diagonal().mean()),
        "mass_same_class": float((targets * same).sum(1).mean()),
        "mass_same_class_chance": float(same.double().mean()),
        "target_entropy": entropy / float(torch.tensor(num).double().log()),
        "matching_smoothing": matching_smoothing(entropy, num),
    }
