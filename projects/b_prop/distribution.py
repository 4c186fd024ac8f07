"""Term distributions of a document, and the pairs of word sets that are drawn from them."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
MOST = 100.0  # of a contrastive weight: a word that the collection never attends to
WordSet = tuple[list[str], float]  # words and their score


class Candidates(NamedTuple):
    """What sets of one document are drawn from.

    Attributes:
        words: V candidates.
        probabilities: (V,) of being drawn.
        scores: (V,) what each adds to the score of a set.
        replace: whether a word may be drawn twice.
    """

    words: list[str]
    probabilities: Floats
    scores: Floats
    replace: bool


def saturate(
    attention: Floats, kind: Literal["ratio", "sqrt", "logistic", "none"] = "ratio", k: float = 0.01
) -> Floats:
    """A'(w): one often attended word should not outweigh all others.

    Equation: ``A' = A / (A + k)`` (ratio), ``sqrt(A)`` or ``1 / (1 + exp(-200 (A - 0.02)))``.
    Source: Ma et al. 2021, "B-PROP", section 4.1, arXiv 2104.09791; the others: released code.

    Args:
        attention: (V,) A(w) >= 0, summed over the places of a word.
        kind: of the saturation.
        k: > 0.

    >>> saturate(np.array([0.01, 0.0])).tolist()
    [0.5, 0.0]
    """
    if kind == "ratio":
        return np.asarray(attention / (attention + k))
    if kind == "sqrt":
        return np.asarray(np.sqrt(attention))
    if kind == "logistic":
        return np.asarray(1 / (1 + np.exp(-200 * (attention - 0.02))))
    return attention


def term_distribution(weights: Floats) -> Floats:
    """P(w|D) = A'(w) / sum A': weights (V,) >= 0 that are not all 0 -> probabilities (V,).

    >>> term_distribution(np.array([1.0, 3.0])).tolist()
    [0.25, 0.75]
    """
    return np.asarray(weights / weights.sum())


def random_distribution(totals: Mapping[str, float], num_documents: int) -> dict[str, float]:
    """P(w|R): mean saturated weight over all documents (0 where absent), normalised to sum 1.

    Source: Ma et al. 2021, "B-PROP", section 4.2, arXiv 2104.09791; divergence from randomness:
    Amati & van Rijsbergen 2002.

    Args:
        totals: word -> sum of A' over the documents that hold it.
        num_documents: of the collection, also those without the word.

    >>> random_distribution({"a": 1.0, "b": 3.0}, 2)
    {'a': 0.25, 'b': 0.75}
    """
    means = {word: total / num_documents for word, total in totals.items()}
    whole = sum(means.values())
    return {word: mean / whole for word, mean in means.items()}


def contrastive_weights(
    distribution: Floats, background: Floats, method: Literal["entropy", "subtract"] = "entropy"
) -> Floats:
    """gamma(w): what a document attends to more than documents at large.

    Equations: ``min(-P(w|D) log2 P(w|R), 100)`` (entropy), ``max(P(w|D) - P(w|R), 0)`` (subtract).
    Source: Ma et al. 2021, "B-PROP", section 4.2, arXiv 2104.09791, and released code.

    Args:
        distribution: (V,) P(w|D).
        background: (V,) P(w|R), 0 of words that the collection has not.
        method: "entropy" or "subtract".
    """
    if method == "subtract":
        return np.maximum(distribution - background, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        weights = np.minimum(distribution * -np.log2(background), MOST)
    # attention can round to 0, here and in the collection: 0 times infinity is not a weight
    kept: Floats = np.where(distribution > 0, weights, 0.0)
    return kept


def sampling_distribution(weights: Floats, temperature: float = 1.0) -> Floats:
    """Softmax of weights (V,) over a temperature > 0."""
    logits = weights / temperature
    e = np.exp(logits - logits.max())
    return term_distribution(e)


def contrastive_distribution(
    weights: Mapping[str, float],
    background: Mapping[str, float],
    method: Literal["entropy", "subtract"] = "entropy",
    temperature: float | None = None,
) -> tuple[dict[str, float], dict[str, float]]:
    """The contrastive term distribution of one document, by word.

    Words that are not alphabetic take part in P(w|D) and are then left out.

    Args:
        weights: word -> A'(w), saturated.
        background: P(w|R).
        method: "entropy" or "subtract".
        temperature: of the softmax; None: 1 for entropy, 0.1 for subtract.

    Returns:
        Contrastive weights and sampling probabilities, in the order of `weights`.
    """
    distribution = term_distribution(np.array(list(weights.values())))
    kept = [(w, p) for w, p in zip(weights, distribution, strict=True) if w.isalpha()]
    words = [w for w, _ in kept]
    gamma = contrastive_weights(
        np.array([p for _, p in kept]), np.array([background.get(w, 0.0) for w in words]), method
    )
    sharpness = temperature or (0.1 if method == "subtract" else 1.0)
    chances = sampling_distribution(gamma, sharpness)
    return dict(zip(words, gamma.tolist(), strict=True)), dict(
        zip(words, chances.tolist(), strict=True)
    )


def set_lengths(num_pairs: int, mean: float, rng: Any) -> list[int]:
    """Lengths x ~ Poisson(mean), drawn again until they are above 0; the sets of a pair share one.

    Args:
        num_pairs: M.
        mean: lambda > 0.
        rng: generator of NumPy, of the old or the new kind.
    """
    lengths = [int(x) for x in rng.poisson(mean, size=num_pairs)]
    for i, length in enumerate(lengths):
        while not length:
            length = int(rng.poisson(mean))
        lengths[i] = length
    return lengths


def sample_word_sets(
    candidates: Candidates, num_pairs: int, poisson_mean: float, rng: Any
) -> list[tuple[WordSet, WordSet]]:
    """Pairs of word sets of one document, in the order in which they were drawn.

    Words of a set are distinct if `candidates` says so and more of them can be drawn than the set
    holds.

    Source: Ma et al. 2021, "PROP", section 3.1 (sets of one length), arXiv 2010.10137.

    Args:
        candidates: see there.
        num_pairs: M.
        poisson_mean: lambda of the length.
        rng: see `set_lengths`.
    """
    size = np.count_nonzero(candidates.probabilities)  # attention can round to 0

    def draw(length: int) -> WordSet:
        replace = candidates.replace or size <= length
        places = rng.choice(
            len(candidates.words), length, replace=replace, p=candidates.probabilities
        )
        words = [candidates.words[i] for i in places]
        return words, float(candidates.scores[places].sum())

    lengths = set_lengths(num_pairs, poisson_mean, rng)
    return [(draw(length), draw(length)) for length in lengths]


def ordered(pair: tuple[WordSet, WordSet]) -> tuple[WordSet, WordSet]:
    """The set with the higher score first; of equal scores the one that was drawn first.

    >>> ordered(((["a"], 1.0), (["b"], 2.0)))
    ((['b'], 2.0), (['a'], 1.0))
    """
    first, second = pair
    return (second, first) if second[1] > first[1] else (first, second)


def top_words(candidates: Candidates, scores: Sequence[float] | Floats, k: int) -> list[str]:
    """The k candidates with the highest scores, ties in their order."""
    best = np.argsort(-np.asarray(scores), kind="stable")[:k]
    return [candidates.words[i] for i in best]
