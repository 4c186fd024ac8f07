"""Bootstrap over seeds and test items of several arms, for any combination of scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
MEAN_SAMPLES, RANK_SAMPLES = 10_000, 2_000  # bootstrap samples of means, of rank correlations
BLOCK = 2**18  # items that are averaged at a time: two megabytes an array


@dataclass(frozen=True)
class Scores:
    """One arm on one test set.

    Attributes:
        values: (S, I) per seed and item; one row for what has no seed, such as a baseline. Without
            gold values the score is their mean.
        gold: (I,); with them the score is Spearman's correlation of each row with it.
    """

    values: Floats
    gold: Floats | None = None
    _ranks: list["_Ranks"] = field(default_factory=list, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.size == 0 or not np.isfinite(self.values).all():
            raise ValueError(f"scores must be finite (seeds, items), got {self.values.shape}")
        if self.gold is not None:
            if self.gold.shape != self.values.shape[1:] or not np.isfinite(self.gold).all():
                raise ValueError(f"{self.values.shape[1]} predictions, gold {self.gold.shape}")
            self._ranks.extend(_Ranks(row) for row in (self.gold, *self.values))

    @property
    def num_seeds(self) -> int:
        """S."""
        return len(self.values)

    @property
    def num_items(self) -> int:
        """I."""
        return int(self.values.shape[1])

    def scores(self, seeds: NDArray[np.int64], items: NDArray[np.int64]) -> Floats:
        """Mean over some seeds of the score on some items, for B samples with repetitions.

        Args:
            seeds: (B, S).
            items: (B, I).

        Returns:
            (B,)
        """
        rows = seeds if self.num_seeds > 1 else np.zeros((len(seeds), 1), dtype=np.int64)
        times = (rows[:, :, None] == np.arange(self.num_seeds)).sum(1)  # (B, S)
        if self.gold is None:
            means = times / rows.shape[1] @ self.values
            drawn: Floats = np.take_along_axis(means, items, axis=1).mean(1)
            return drawn
        return np.array([self._correlation(t, i) for t, i in zip(times, items, strict=True)])

    def _correlation(self, times: NDArray[np.int64], items: NDArray[np.int64]) -> float:
        counts = np.bincount(items, minlength=self.num_items).astype(np.float64)
        gold = self._ranks[0].centred(counts)
        seeds = np.flatnonzero(times)
        correlations = [
            _correlation(self._ranks[1 + s].centred(counts), gold, counts) for s in seeds
        ]
        return float(np.dot(correlations, times[seeds]) / times.sum())


class _Ranks:
    """Midranks of a fixed row under changing multiplicities, without sorting again."""

    def __init__(self, row: Floats) -> None:
        distinct, self.group = np.unique(row, return_inverse=True)
        self.num_groups = len(distinct)

    def centred(self, counts: Floats) -> Floats:
        """Midrank minus mean rank of each item, where item i stands counts[i] times."""
        sizes = np.bincount(self.group, weights=counts, minlength=self.num_groups)
        midranks = np.cumsum(sizes) - sizes / 2 + 0.5
        ranks: Floats = (midranks - (counts.sum() + 1) / 2)[self.group]
        return ranks


def _correlation(x: Floats, y: Floats, counts: Floats) -> float:
    weighted = counts * x
    scale = np.sqrt((weighted @ x) * ((counts * y) @ y))
    return float(weighted @ y) / float(scale) if scale > 0 else 0.0


def resample(
    arms: Mapping[str, Sequence[Scores]],
    *,
    seeds: bool = True,
    num_samples: int | None = None,
    seed: int = 0,
) -> tuple[dict[str, float], dict[str, Floats]]:
    """Scores of all arms, and their values under the same draws of seeds and items.

    A sample draws seeds and, within each test set, items with replacement; an arm's score is the
    unweighted mean of its sets. Since all arms see the same draws, any combination of the samples
    is the paired bootstrap of that combination. What the intervals mean: see `paired_bootstrap`.

    Source: Owen 2007, "The pigeonhole bootstrap", arXiv 0712.1111 (crossed factors).

    Args:
        arms: per arm its test sets, in the same order with the same items.
        seeds: whether seeds are drawn too; False keeps them and resamples the items alone.
        num_samples: None: 10,000, or 2,000 where a score is a rank correlation.
        seed: of the resampling.

    Returns:
        Per arm the score, and (num_samples,) scores of the samples.

    Raises:
        ValueError: arms whose seeds, sets or items don't fit.

    >>> a, b = Scores(np.array([[1.0], [2.0]])), Scores(np.array([[0.0], [1.0]]))
    >>> point, samples = resample({"a": [a], "b": [b]}, num_samples=5)
    >>> point, (samples["a"] - samples["b"]).tolist()
    ({'a': 1.5, 'b': 0.5}, [1.0, 1.0, 1.0, 1.0, 1.0])
    """
    first = next(iter(arms.values()))
    num_seeds = max(s.num_seeds for sets in arms.values() for s in sets)
    sizes = [s.num_items for s in first]
    for name, sets in arms.items():
        if [s.num_items for s in sets] != sizes or any(
            s.num_seeds not in (1, num_seeds) for s in sets
        ):
            raise ValueError(f"'{name}' has other items or seeds than '{next(iter(arms))}'")
    ranked = any(s.gold is not None for sets in arms.values() for s in sets)
    number = num_samples or (RANK_SAMPLES if ranked else MEAN_SAMPLES)

    def scores(rows: NDArray[np.int64], items: Sequence[NDArray[np.int64]]) -> dict[str, Floats]:
        return {
            name: np.mean([s.scores(rows, i) for s, i in zip(sets, items, strict=True)], axis=0)
            for name, sets in arms.items()
        }

    everything = np.arange(num_seeds)[None], [np.arange(n)[None] for n in sizes]
    point = {name: float(values[0]) for name, values in scores(*everything).items()}
    samples = {name: np.empty(number) for name in arms}
    rng = np.random.default_rng(seed)
    block = max(1, BLOCK // sum(sizes))
    for start in range(0, number, block):
        part = slice(start, min(start + block, number))
        rows = np.tile(everything[0], (part.stop - start, 1))
        items = [np.zeros((part.stop - start, n), dtype=np.int64) for n in sizes]
        for i in range(part.stop - start):  # sample by sample, so that blocks don't matter
            if seeds:
                rows[i] = rng.integers(num_seeds, size=num_seeds)
            for drawn in items:
                if drawn.shape[1] > 1:
                    drawn[i] = rng.integers(drawn.shape[1], size=drawn.shape[1])
        for name, values in scores(rows, items).items():
            samples[name][part] = values
    return point, samples
