"""Paired bootstrap intervals and the verdict on a claim."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Verdict = Literal["supported", "not shown", "contradicted"]


@dataclass(frozen=True)
class Interval:
    """A mean paired difference and its bootstrap percentile interval."""

    mean: float
    low: float
    high: float
    confidence: float


def paired_bootstrap(
    differences: ArrayLike,
    *,
    confidence: float = 0.95,
    num_samples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Percentile interval of a mean paired difference, over seeds or over seeds x test items.

    Seeds and items are crossed (every seed is scored on the same items), so each bootstrap sample
    draws seeds and, independently, items with replacement and averages the chosen rows and columns.
    Source: Efron & Tibshirani 1993, chapter 13 (percentile interval); Owen 2007, "The pigeonhole
    bootstrap", arXiv 0712.1111 (crossed factors).

    What the interval means:
        - seeds x items: variation of training *and* of the test set, the case to aim for;
        - seeds only, (S,): 3 seeds have 27 resamples, the smallest mean comes up in 1/27 = 3.7%,
          so the 95% interval is simply the range [min, max] of the three differences. It is above
          0 when all three are, which happens with probability 1/8 if there is no effect: a sign
          test of size 0.125, not a 95% statement. Even 5 seeds cover clearly less than 95%;
        - one seed x items, (1, I): the test set only; another seed may differ.

    Args:
        differences: (S,) or (S, I), method minus baseline for seed s (and item i).
        confidence: in (0, 1).
        num_samples: bootstrap samples.
        seed: of the resampling.

    Returns:
        Mean, ``low`` and ``high``; equal input gives an equal interval.

    Raises:
        ValueError: empty, not finite, wrong number of axes, or a single number.

    >>> paired_bootstrap([1.0, 2.0, 3.0])
    Interval(mean=2.0, low=1.0, high=3.0, confidence=0.95)
    """
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim not in (1, 2) or values.size == 0:
        raise ValueError(f"differences must be (seeds,) or (seeds, items), got {values.shape}")
    _check(values, confidence, num_samples)
    values = values.reshape(len(values), -1)
    rng = np.random.default_rng(seed)
    num_seeds, num_items = values.shape
    means = np.empty(num_samples)
    for i in range(num_samples):
        rows = values[rng.integers(num_seeds, size=num_seeds)].mean(axis=0)
        means[i] = (
            rows[rng.integers(num_items, size=num_items)].mean() if num_items > 1 else rows[0]
        )
    return _interval(float(values.mean()), means, confidence)


def verdict(
    differences: ArrayLike | Interval, margin: float = 0.0, at_least: float = 0.0
) -> Verdict:
    """Judge the claim "the method is better than the baseline by more than ``at_least - margin``".

    Args:
        differences: an `Interval`, or what `paired_bootstrap` takes (95%, its defaults); positive
            means that the claim's direction holds.
        margin: 0 for "better"; m > 0 for "not worse by more than m".
        at_least: m > 0 for "better by at least m".

    Returns:
        "supported": the interval lies above the threshold; "contradicted": it lies below;
        otherwise "not shown". With seeds only read the note in `paired_bootstrap`.

    Raises:
        ValueError: a negative margin, or as `paired_bootstrap`.

    >>> verdict([0.1, 0.2, 0.3]), verdict([-0.1, 0.2, 0.3]), verdict([-0.1, 0.2, 0.3], margin=0.2)
    ('supported', 'not shown', 'supported')
    >>> verdict([0.1, 0.2, 0.3], at_least=0.15), verdict([0.1, 0.2, 0.3], at_least=0.5)
    ('not shown', 'contradicted')
    """
    if margin < 0 or at_least < 0:
        raise ValueError(f"margin and at_least must be >= 0, got {margin} and {at_least}")
    interval = differences if isinstance(differences, Interval) else paired_bootstrap(differences)
    threshold = at_least - margin
    if interval.low > threshold:
        return "supported"
    return "contradicted" if interval.high < threshold else "not shown"


def _check(values: NDArray[np.float64], confidence: float, num_samples: int) -> None:
    if values.size < 2:
        raise ValueError("one number has no interval; run more seeds or give values per item")
    if not np.isfinite(values).all():
        raise ValueError("the values hold NaN or infinity; a run has failed")
    if not 0 < confidence < 1 or num_samples < 1:
        raise ValueError("confidence must lie in (0, 1) and num_samples be >= 1")


def _interval(mean: float, samples: NDArray[np.float64], confidence: float) -> Interval:
    tail = (1 - confidence) / 2
    low, high = np.quantile(samples, [tail, 1 - tail])
    return Interval(mean, float(low), float(high), confidence)
