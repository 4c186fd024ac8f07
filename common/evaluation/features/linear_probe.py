"""Linear probe: L2-regularised multinomial logistic regression on frozen features."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from common.evaluation.features.accuracy import mean_per_class_accuracy
from common.evaluation.matrices import as_labels, as_matrix, blocks, exact_math

_MOMENT_ROWS = 131_072  # of a block in double
L2_GRID: tuple[float, ...] = tuple(10.0**e for e in range(-6, 3))


def fit_logistic_regression(
    features: Tensor,
    labels: Tensor,
    l2: float,
    num_classes: int,
    *,
    initial: tuple[Tensor, Tensor] | None = None,
    max_iterations: int = 500,
    tolerance: float = 1e-5,
    chunk_size: int = 65_536,
) -> tuple[Tensor, Tensor]:
    """Minimise the mean cross entropy plus an L2 penalty with L-BFGS.

    Equation: ``min_{W, b} 1/N sum_i CE(W x_i + b, y_i) + l2 / 2 ||W||^2``; equals
    ``sklearn.linear_model.LogisticRegression`` of the C that `l2_of` names. The bias carries no
    penalty.

    Args:
        features: (N, D).
        labels: (N,) int in [0, num_classes).
        l2: > 0, strength of the penalty.
        num_classes: C >= 2.
        initial: weight (C, D) and bias (C,) to start from, zeros otherwise.
        max_iterations: L-BFGS iterations at most.
        tolerance: stop when no entry of the gradient is larger (scikit-learn's default is 1e-4).
        chunk_size: rows per block, so that the (N, C) logits are never stored whole.

    Returns:
        Weight (C, D) and bias (C,) in the dtype of the features (half becomes float32).

    Raises:
        ValueError: shapes or labels do not fit, ``l2 <= 0`` or ``num_classes < 2``.

    Distributed: local.
    """
    x = as_matrix(features, "features")
    y = as_labels(labels, len(x), "labels", num_classes).to(x.device)
    if l2 <= 0 or num_classes < 2:
        raise ValueError(f"need l2 > 0 and at least two classes, got {l2} and {num_classes}")
    start = initial or (x.new_zeros((num_classes, x.shape[1])), x.new_zeros(num_classes))
    with exact_math(x.device), torch.inference_mode(False):
        # Tensors made under inference mode cannot enter a backward pass, copies can.
        x, y, weight, bias = (t.clone() if t.is_inference() else t.detach() for t in (x, y, *start))
        return _minimise(x, y, weight, bias, l2, max_iterations, tolerance, chunk_size)


def l2_of(c: float, num_samples: int, num_classes: int) -> float:
    """The ``l2`` of `fit_logistic_regression` that equals ``C=c`` in scikit-learn.

    Of two classes scikit-learn fits one weight vector w, here w/2 and -w/2 with half the squared
    norm: twice the penalty makes both the same.

    Args:
        c: > 0, inverse strength.
        num_samples: N, of the fit.
        num_classes: C >= 2.

    >>> l2_of(1.0, 100, 10), l2_of(1.0, 100, 2)
    (0.01, 0.02)
    """
    return (2 if num_classes == 2 else 1) / (c * num_samples)


def _minimise(
    x: Tensor,
    y: Tensor,
    weight: Tensor,
    bias: Tensor,
    l2: float,
    max_iterations: int,
    tolerance: float,
    chunk_size: int,
) -> tuple[Tensor, Tensor]:
    weight, bias = weight.clone().requires_grad_(), bias.clone().requires_grad_()
    optimizer: torch.optim.Optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=max_iterations,
        history_size=20,
        tolerance_grad=tolerance,
        tolerance_change=1e-15 if x.dtype == torch.float64 else 1e-9,
        line_search_fn="strong_wolfe",
    )

    def closure() -> float:
        optimizer.zero_grad()
        total = x.new_zeros(())
        with torch.enable_grad():
            for rows in blocks(len(x), chunk_size):
                logits = F.linear(x[rows], weight, bias)
                loss = F.cross_entropy(logits, y[rows], reduction="sum") / len(x)
                torch.autograd.backward(loss)
                total += loss.detach()
            penalty = 0.5 * l2 * weight.square().sum()
            torch.autograd.backward(penalty)
        return float(total + penalty.detach())

    optimizer.step(closure)
    return weight.detach(), bias.detach()


class ProbeScores(NamedTuple):
    """What probes measure, and which test samples they classify correctly."""

    metrics: dict[str, float]
    correct: dict[str, Tensor]  # metric name -> (M,) bool on the CPU, whose mean is the metric


def scored_linear_probe(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    *,
    validation: tuple[Tensor, Tensor] | None = None,
    validation_fraction: float = 0.2,
    l2_grid: Sequence[float] = L2_GRID,
    num_classes: int | None = None,
    standardize: bool = True,
    max_iterations: int = 500,
    seed: int = 0,
) -> ProbeScores:
    """Accuracy of a logistic regression whose L2 strength is chosen on a validation split.

    The grid is tried from strong to weak, each fit starting at the previous solution; of equally
    good values the strongest wins. The chosen value is refitted on train + validation.
    Source: the protocol of Radford et al. 2021, appendix A.3, arXiv 2103.00020 (log-spaced grid
    instead of their interval search, features standardised unless `standardize` is False, 500
    iterations for 1,000).

    Args:
        train_features: (N, D) frozen features.
        train_labels: (N,) int.
        test_features: (M, D).
        test_labels: (M,) int; never used for the choice.
        validation: features (V, D) and labels (V,); ``None`` splits them off the train set, per
            class and seeded.
        validation_fraction: share of every class that is split off, in (0, 1).
        l2_grid: candidate strengths for the mean cross entropy.
        num_classes: C; ``None`` takes the largest label + 1.
        standardize: scale every feature by the fitting set's mean and standard deviation.
        max_iterations: L-BFGS iterations per fit.
        seed: of the split.

    Returns:
        Metrics ``linear_probe_top1``, ``linear_probe_mean_per_class`` with their ``_chance``
        (uniform guessing), ``linear_probe_validation_top1`` and ``linear_probe_l2``; the samples of
        ``linear_probe_top1``.

    Raises:
        ValueError: shapes, labels or options do not fit, or a split would be empty.

    Distributed: local.
    """
    fit_x, fit_y, val_x, val_y = _split(
        train_features, train_labels, validation, validation_fraction, seed
    )
    test_x = as_matrix(test_features, "test_features")
    highest = max(int(y.max()) for y in (fit_y, val_y, test_labels))
    classes = highest + 1 if num_classes is None else num_classes
    test_y = as_labels(test_labels, len(test_x), "test_labels", classes)
    if not l2_grid:
        raise ValueError("l2_grid is empty")
    best_l2, best_accuracy = _choose_l2(
        fit_x, fit_y, val_x, val_y, l2_grid, classes, standardize, max_iterations
    )
    all_x, all_y = torch.cat([fit_x, val_x]), torch.cat([fit_y, val_y])
    mean, std = _moments(all_x, standardize)
    solution = fit_logistic_regression(
        (all_x - mean) / std, all_y, best_l2, classes, max_iterations=max_iterations
    )
    correct = _correct(solution, (test_x - mean) / std, test_y)
    metrics = {
        "linear_probe_top1": float(correct.double().mean()),
        "linear_probe_top1_chance": 1 / classes,
        "linear_probe_mean_per_class": mean_per_class_accuracy(correct, test_y),
        "linear_probe_mean_per_class_chance": 1 / classes,
        "linear_probe_validation_top1": best_accuracy,
        "linear_probe_l2": best_l2,
    }
    return ProbeScores(metrics, {"linear_probe_top1": correct.cpu()})


def linear_probe(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    **options: Any,
) -> dict[str, float]:
    """The metrics of `scored_linear_probe`, which takes the same arguments."""
    return scored_linear_probe(
        train_features, train_labels, test_features, test_labels, **options
    ).metrics


def _choose_l2(
    fit_x: Tensor,
    fit_y: Tensor,
    val_x: Tensor,
    val_y: Tensor,
    l2_grid: Sequence[float],
    num_classes: int,
    standardize: bool,
    max_iterations: int,
) -> tuple[float, float]:
    """Strength with the best validation accuracy (the strongest of equals) and that accuracy."""
    mean, std = _moments(fit_x, standardize)
    fit_x, val_x = (fit_x - mean) / std, (val_x - mean) / std
    best, best_accuracy, solution = 0.0, -1.0, None
    for l2 in sorted(l2_grid, reverse=True):
        solution = fit_logistic_regression(
            fit_x, fit_y, l2, num_classes, initial=solution, max_iterations=max_iterations
        )
        accuracy = float(_correct(solution, val_x, val_y).double().mean())
        if accuracy > best_accuracy:
            best, best_accuracy = l2, accuracy
    return best, best_accuracy


def _split(
    features: Tensor,
    labels: Tensor,
    validation: tuple[Tensor, Tensor] | None,
    fraction: float,
    seed: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features and labels to fit and to choose on, all on the features' device."""
    x = as_matrix(features, "train_features")
    y = as_labels(labels, len(x), "train_labels").cpu()
    if validation is not None:
        val_x = as_matrix(validation[0], "validation features")
        val_y = as_labels(validation[1], len(val_x), "validation labels")
        return x, y.to(x.device), val_x, val_y.to(x.device)
    if not 0 < fraction < 1:
        raise ValueError(f"validation_fraction must lie in (0, 1), got {fraction}")
    generator = torch.Generator().manual_seed(seed)
    held_out = torch.zeros(len(x), dtype=torch.bool)
    for label in np.unique(y.numpy()):
        members = (y == label).nonzero()[:, 0]
        order = members[torch.randperm(len(members), generator=generator)]
        # At least one sample of a class stays for the fit.
        held_out[order[: min(round(fraction * len(members)), len(members) - 1)]] = True
    if not bool(held_out.any()):
        raise ValueError(
            f"a validation_fraction of {fraction} leaves no sample to choose l2 on "
            f"({len(x)} train samples); raise it or give validation data"
        )
    held_out, y = held_out.to(x.device), y.to(x.device)
    return x[~held_out], y[~held_out], x[held_out], y[held_out]


def _moments(x: Tensor, standardize: bool) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per feature; 1 where a feature is constant."""
    if not standardize:
        return x.new_zeros(x.shape[1]), x.new_ones(x.shape[1])
    # Block by block (Chan et al. 1979): a copy of ImageNet's features in double takes 21 GB.
    mean = var = x.new_zeros(x.shape[1], dtype=torch.float64)
    for rows in blocks(len(x), _MOMENT_ROWS):
        own_var, mean_of_rows = torch.var_mean(x[rows].double(), dim=0, correction=0)
        share, shift = (rows.stop - rows.start) / rows.stop, mean_of_rows - mean
        var = (1 - share) * var + share * own_var + share * (1 - share) * shift.square()
        mean = mean + share * shift
    std = var.sqrt()
    # Below this a feature only holds the rounding of a constant.
    constant = std <= 1e-6 * mean.abs()
    return mean.to(x.dtype), std.masked_fill(constant | (std == 0), 1.0).to(x.dtype)


def _correct(solution: tuple[Tensor, Tensor], x: Tensor, y: Tensor) -> Tensor:
    """Whether each sample's own logit is strictly the largest, (N,) bool; ties count as wrong."""
    y = y.to(x.device)
    with exact_math(x.device):
        logits = torch.cat([F.linear(x[rows], *solution) for rows in blocks(len(x), 65_536)])
    true_logit = logits.gather(1, y[:, None])
    return (logits.scatter(1, y[:, None], -float("inf")) < true_logit).all(dim=1)
