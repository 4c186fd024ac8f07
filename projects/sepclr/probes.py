"""Linear probes of common and salient codes: what is in which space, and what leaked."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from common.evaluation.features.accuracy import mean_per_class_accuracy
from common.evaluation.features.linear_probe import fit_logistic_regression, l2_of
from common.losses.functional.geometry import joint_entropy
from common.losses.output import unit
from projects.sepclr.networks import Codes
from projects.sepclr.objective import masked
from projects.sepclr.paired_sets.pairs import SetPair

SPACES = ("common", "salient")
_ENTROPY_ROWS = 2048


@dataclass(frozen=True)
class ProbeResult:
    """One probe.

    Attributes:
        value: accuracy, or mean absolute error of a number.
        chance: of uniform guessing, or the error of the training mean.
        scores: (M,) 1.0 or 0.0, or the absolute error, for each test sample.
        is_class: whether the factor is a class.
    """

    value: float
    chance: float
    scores: Tensor
    is_class: bool


def _standardized(train: Tensor, test: Tensor, standardize: bool) -> tuple[Tensor, Tensor]:
    train, test = train.double(), test.double()
    if not standardize:
        return train, test
    mean, std = train.mean(0), train.std(0).clamp(min=1e-9)
    return (train - mean) / std, (test - mean) / std


def default_fit(x: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Weight (C, F) and bias (C,) that predict as scikit-learn's LogisticRegression() (C = 1).

    Args:
        x: (N, F).
        labels: (N,) in [0, num_classes).
        num_classes: C.
    """
    return fit_logistic_regression(x, labels, l2_of(1.0, len(x), num_classes), num_classes)


def class_probe(
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    num_classes: int,
    *,
    balanced: bool = False,
    standardize: bool = True,
) -> ProbeResult:
    """Logistic regression with scikit-learn's default strength (C = 1), see `default_fit`.

    Args:
        train: features (N, F) and labels (N,).
        test: features (M, F) and labels (M,).
        num_classes: C.
        balanced: mean over classes instead of over samples.
        standardize: by the training features' mean and deviation.
    """
    x, test_x = _standardized(train[0], test[0], standardize)
    weight, bias = default_fit(x, train[1], num_classes)
    correct = (test_x @ weight.T + bias).argmax(1) == test[1]
    value = mean_per_class_accuracy(correct, test[1]) if balanced else float(correct.float().mean())
    return ProbeResult(value, 1 / num_classes, correct.float(), True)


def number_probe(
    train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], *, standardize: bool = True
) -> ProbeResult:
    """Least squares, judged by the mean absolute error. Arguments as `class_probe`."""
    x, test_x = _standardized(train[0], test[0], standardize)
    y, test_y = train[1].double(), test[1].double()
    x, test_x = (torch.cat([part, torch.ones(len(part), 1)], 1) for part in (x, test_x))
    solution = torch.linalg.lstsq(x, y[:, None], driver="gelsd").solution
    errors = ((test_x @ solution)[:, 0] - test_y).abs()
    return ProbeResult(float(errors.mean()), float((y.mean() - test_y).abs().mean()), errors, False)


def known(values: Tensor) -> Tensor:
    """Which samples have the factor, (N,) bool."""
    return ~values.isnan() if values.is_floating_point() else values >= 0


def space_probes(
    train: tuple[SetPair, Codes],
    test: tuple[SetPair, Codes],
    *,
    balanced: bool = False,
    standardize: bool = True,
    domain_from_heads: bool = False,
) -> dict[str, ProbeResult]:
    """Every factor from both spaces on targets, and X versus Y from both spaces on all samples.

    Source: Louiset et al. 2024, section 4, arXiv 2402.11928.

    Args:
        train: the training part and its codes.
        test: the test part and its codes.
        balanced: see `class_probe`.
        standardize: see `class_probe`.
        domain_from_heads: the X-versus-Y probe reads projected codes.

    Returns:
        ``<factor>_from_<space>`` and ``domain_from_<space>``.
    """
    results = {}
    for space in SPACES:
        for name, values in train[0].factors.items():
            rows = train[0].target & known(values)
            test_values = test[0].factors[name]
            test_rows = test[0].target & known(test_values)
            if not rows.any() or not test_rows.any():
                continue
            a = getattr(train[1], f"{space}_rep")[rows], values[rows]
            b = getattr(test[1], f"{space}_rep")[test_rows], test_values[test_rows]
            key = f"{name}_from_{space}"
            if values.is_floating_point():
                results[key] = number_probe(a, b, standardize=standardize)
                continue
            classes = 1 + int(max(a[1].max(), b[1].max()))
            if classes > 1:
                results[key] = class_probe(
                    a, b, classes, balanced=balanced, standardize=standardize
                )
        kind = "head" if domain_from_heads else "rep"
        a, b = (
            (getattr(codes, f"{space}_{kind}"), pair.target.long()) for pair, codes in (train, test)
        )
        results[f"domain_from_{space}"] = class_probe(
            a, b, 2, balanced=balanced, standardize=standardize
        )
    return results


def separation_error(probes: Mapping[str, ProbeResult], salient: Mapping[str, Tensor]) -> float:
    """Mean distance of the accuracies from the ideal ones.

    Ideal: salient factors and X versus Y are certain from the salient code and at chance from the
    common one; common factors the other way round. Numbers are left out.
    """
    distances = []
    for key, probe in probes.items():
        name, _, space = key.rpartition("_from_")
        home = "salient" if name in salient or name == "domain" else "common"
        if probe.is_class:
            distances.append(abs(probe.value - (1.0 if space == home else probe.chance)))
    return sum(distances) / len(distances)


def auc(scores: Tensor, positive: Tensor) -> float:
    """Area under the ROC curve: how often a positive scores above a negative, ties half.

    >>> auc(torch.tensor([0.1, 0.4, 0.4]), torch.tensor([False, True, False]))
    0.75
    """
    high, low = scores[positive][:, None], scores[~positive][None, :]
    return float(((high > low).double() + 0.5 * (high == low).double()).mean())


def code_entropies(codes: Codes, target: Tensor, tau: float) -> dict[str, float]:
    """Kernel entropies of the projected codes, and their difference, the mutual information.

    All estimates count a sample as its own neighbour, so they are at most log of the rows.

    Args:
        codes: of N samples; at most 2,048 of them, evenly spaced, are used.
        target: (N,) bool.
        tau: squared bandwidth.
    """
    rows = torch.arange(0, len(target), max(1, -(-len(target) // _ENTROPY_ROWS)))
    c = unit(codes.common_head[rows].double())
    s = masked(codes.salient_head[rows].double(), target[rows])
    joint = -float(joint_entropy(c, s, tau))
    common = -float(joint_entropy(c, torch.zeros_like(c), tau))
    salient = -float(joint_entropy(torch.zeros_like(s), s, tau))
    return {
        "joint_entropy": joint,
        "common_entropy": common,
        "salient_entropy": salient,
        "kernel_mutual_information": common + salient - joint,
    }


def dimension_correlations(salient: Tensor, factors: Mapping[str, Tensor]) -> Tensor:
    """|Pearson correlation| of each attribute with each salient dimension, (A, S).

    Args:
        salient: (N, S) of targets.
        factors: (N,) each.
    """
    y = torch.stack([values.double() for values in factors.values()], 1)
    s = salient.double()
    y, s = ((z - z.mean(0)) / z.std(0, correction=0).clamp(min=1e-9) for z in (y, s))
    correlations: Tensor = (y.T @ s / len(s)).abs()
    return correlations
