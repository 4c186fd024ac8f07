"""What can be chosen without a trained ranker: positions, lengths, words; and the oracle.

A selection is a list of texts for every row; figures of a row are means over its texts.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from common.evaluation.generation.reference import rouge, rouge_f
from common.evaluation.retrieval.runs import tfidf_vectors
from projects.wikides.data import Row

LEAD_WORDS = 5
Selection = list[list[str]]
Score = Callable[[str, Row], float]


def best(rows: Sequence[Row], score: Score) -> Selection:
    """The candidate of the highest score in every row, the earlier one of equals."""
    return [[max(row.candidates, key=lambda c, row=row: score(c, row))] for row in rows]  # type: ignore[misc]


def first(rows: Sequence[Row]) -> Selection:
    """The candidate that the file has first; in the release their order is arbitrary."""
    return [[row.candidates[0]] for row in rows]


def random(rows: Sequence[Row]) -> Selection:
    """All candidates: the mean is what a random choice is expected to have."""
    return [list(row.candidates) for row in rows]


def shortest(rows: Sequence[Row]) -> Selection:
    """Fewest words."""
    return best(rows, lambda c, row: -len(c.split()))


def longest(rows: Sequence[Row]) -> Selection:
    """Most words."""
    return best(rows, lambda c, row: len(c.split()))


def rouge_1(rows: Sequence[Row]) -> Selection:
    """ROUGE-1 F1 with the paragraph: word overlap."""
    return best(rows, lambda c, row: rouge_f(c, row.source))


def tfidf(rows: Sequence[Row]) -> Selection:
    """Cosine of TF-IDF vectors with the paragraph."""
    _, vectors = tfidf_vectors([row.source for row in rows])
    sources = vectors([row.source for row in rows])
    texts = vectors([c for row in rows for c in row.candidates])
    owner = np.repeat(np.arange(len(rows)), [len(row.candidates) for row in rows])
    scores = iter(np.asarray(texts.multiply(sources[owner]).sum(1)).ravel().tolist())
    similarities = [[next(scores) for _ in row.candidates] for row in rows]
    return [[row.candidates[int(np.argmax(s))]] for row, s in zip(rows, similarities, strict=True)]


def medoid(rows: Sequence[Row]) -> Selection:
    """The candidate that is most like the others, by ROUGE-L."""
    return best(rows, lambda c, row: sum(rouge_f(c, o, "rouge_l") for o in row.candidates))


def lead(rows: Sequence[Row]) -> Selection:
    """No candidate, but the first words of the paragraph."""
    return [[" ".join(row.source.split()[:LEAD_WORDS])] for row in rows]


def oracle(rows: Sequence[Row]) -> Selection:
    """ROUGE-L with the description: the upper bound."""
    return best(rows, lambda c, row: rouge_f(c, row.target, "rouge_l"))


SELECTORS: dict[str, Callable[[Sequence[Row]], Selection]] = {
    "first": first,
    "random": random,
    "shortest": shortest,
    "longest": longest,
    "rouge_1": rouge_1,
    "tfidf": tfidf,
    "medoid": medoid,
    "lead": lead,
    "oracle": oracle,
}


def surface_features(text: str, row: Row) -> list[float]:
    """What is seen of a candidate without understanding it: length, overlap, place, likeness."""
    words, source = text.split(), row.source.lower().split()
    precision, recall, f1 = rouge(text, row.source, ("rouge_1",))["rouge_1"]
    bigrams = rouge(text, row.source, ("rouge_2",))["rouge_2"][0]
    places = [source.index(w) for w in text.lower().split() if w in source]
    others = [rouge_f(text, c, "rouge_1") for c in row.candidates if c != text]
    lengths = [len(c.split()) for c in row.candidates]
    return [
        len(words),
        len(text),
        precision,
        recall,
        f1,
        bigrams,
        min(places, default=len(source)),
        float(np.mean(places)) if places else len(source),
        float(np.mean(others)) if others else 1.0,
        max(others, default=1.0),
        len(words) - float(np.mean(lengths)),
        sorted(lengths).index(len(words)),
        len(lengths),
        sum(w[0].isupper() for w in words) / max(1, len(words)),
        text.count(","),
        sum(w in ("in", "of", "by", "from") for w in words),
        any(w.isdigit() for w in words),
    ]


def surface(train: Sequence[Row], rows: Sequence[Row], seed: int) -> Selection:
    """Boosted trees on `surface_features`, trained to tell ROUGE-L with the description.

    Args:
        train: rows with descriptions.
        rows: what is chosen in.
        seed: of the trees.
    """
    from sklearn.ensemble import HistGradientBoostingRegressor

    def table(part: Sequence[Row]) -> NDArray[np.float64]:
        return np.array([surface_features(c, row) for row in part for c in row.candidates])

    quality = []
    for row in train:
        rouge = np.array([rouge_f(c, row.target, "rouge_l") for c in row.candidates])
        quality.append(rouge - rouge.mean())  # what tells candidates of a row apart
    model = HistGradientBoostingRegressor(max_iter=150, learning_rate=0.05, random_state=seed)
    model.fit(table(train), np.concatenate(quality))
    scores = iter(model.predict(table(rows)).tolist())
    predicted = [[next(scores) for _ in row.candidates] for row in rows]
    return [[row.candidates[int(np.argmax(s))]] for row, s in zip(rows, predicted, strict=True)]
