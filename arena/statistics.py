"""Who is better than whom: paired bootstrap over seeds and items, corrected for many pairs."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.evaluation.resampling import MEAN_SAMPLES, Scores, resample

LEVEL = 0.05


@dataclass(frozen=True)
class Standing:
    """A contestant next to the best one.

    Attributes:
        name: of the contestant.
        score: mean over seeds and items.
        rank: 1 for the highest score.
        low: of the 95 % interval of the score minus the best contestant's.
        high: of the same.
        worse_than: contestants that are better by the corrected test.
    """

    name: str
    score: float
    rank: int
    low: float
    high: float
    worse_than: list[str]


def standings(items: Mapping[str, Sequence[Scores]]) -> list[Standing]:
    """All contestants, the best first.

    The two-sided p-value of a pair is twice the smaller share of bootstrap samples, of seeds and
    items, on one side of zero; Holm's method corrects for the number of pairs.

    Source: Owen 2007, arXiv 0712.1111 (bootstrap of crossed factors); Holm 1979, "A simple
    sequentially rejective multiple test procedure".

    Args:
        items: contestant -> scores of its seeds by item, on each test set.

    >>> a, b = [Scores(np.zeros((2, 20)))], [Scores(np.ones((2, 20)))]
    >>> [one.worse_than for one in standings({"a": a, "b": b})]
    [[], ['b']]
    """
    count = math.comb(len(items), 2)
    means, samples = resample(items, num_samples=_num_samples(count))
    order = sorted(means, key=lambda name: -means[name])
    pairs = list(itertools.combinations(order, 2))
    values = [_p_value(samples[a] - samples[b]) for a, b in pairs]
    worse: dict[str, list[str]] = {name: [] for name in order}
    for (a, b), rejected in zip(pairs, holm(values), strict=True):
        if rejected:
            worse[b].append(a)
    rows = []
    for rank, name in enumerate(order, 1):
        low, high = np.quantile(samples[name] - samples[order[0]], [LEVEL / 2, 1 - LEVEL / 2])
        rows.append(Standing(name, means[name], rank, float(low), float(high), worse[name]))
    return rows


@dataclass(frozen=True)
class Difference:
    """A contestant minus another one.

    Attributes:
        name: of the first.
        other: of the second.
        value: mean over seeds and items.
        low: of the 95 % interval, corrected for the number of differences.
        high: of the same.
    """

    name: str
    other: str
    value: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """Whether the first is above the second."""
        return "holds" if self.low > 0 else "reversed" if self.high < 0 else "inconclusive"


def differences(
    items: Mapping[str, Sequence[Scores]], pairs: Sequence[tuple[str, str]]
) -> list[Difference]:
    """Pairs that were declared before the study, with Bonferroni's correction for their number.

    >>> a, b = [Scores(np.zeros((2, 20)))], [Scores(np.ones((2, 20)))]
    >>> [one.verdict for one in differences({"a": a, "b": b}, [("a", "b"), ("b", "a")])]
    ['reversed', 'holds']
    """
    means, samples = resample(items, num_samples=_num_samples(len(pairs)))
    tail = LEVEL / 2 / max(1, len(pairs))
    rows = []
    for name, other in pairs:
        low, high = np.quantile(samples[name] - samples[other], [tail, 1 - tail])
        value = means[name] - means[other]
        rows.append(Difference(name, other, value, float(low), float(high)))
    return rows


def _num_samples(comparisons: int) -> int:
    """Bootstrap samples that resolve half of the level of one of several comparisons."""
    return max(MEAN_SAMPLES, math.ceil(4 * comparisons / LEVEL))


def _p_value(differences: NDArray[np.float64]) -> float:
    """Never below what the number of samples resolves."""
    one_side = min((differences <= 0).mean(), (differences >= 0).mean())
    return float(min(1.0, 2 * max(one_side, 1 / len(differences))))


def holm(p_values: Sequence[float], level: float = LEVEL) -> list[bool]:
    """Which hypotheses are rejected at a family-wise level.

    >>> holm([0.01, 0.04, 0.03])
    [True, False, False]
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    rejected = [False] * len(p_values)
    for step, i in enumerate(order):
        if p_values[i] > level / (len(p_values) - step):
            break
        rejected[i] = True
    return rejected


def seed_agreement(values: Mapping[str, Sequence[float]]) -> float:
    """Mean Spearman correlation of the order of contestants between two seeds.

    Args:
        values: contestant -> score of each seed.

    >>> round(seed_agreement({"a": [1, 2], "b": [2, 3], "c": [3, 4]}), 3)
    1.0
    """
    ranks = np.argsort(np.argsort(np.array(list(values.values())), axis=0), axis=0)
    matrix = np.corrcoef(ranks.T)
    return float(matrix[np.triu_indices(len(matrix), 1)].mean())
