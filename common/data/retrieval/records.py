"""Training examples of embedding tasks: one query, its positives and its hard negatives."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

TaskKind = Literal["retrieval", "sts", "classification", "clustering"]

STS_POSITIVE = 4.0  # least score, of 5, of a pair that counts as a positive


@dataclass(frozen=True)
class EmbeddingRecord:
    """One example.

    Attributes:
        query: text that is searched with.
        positives: at least one text that it should find.
        negatives: texts that it should not find; may be empty.
        label: class of the query in a labelled set, else None.
        instruction: of this example, in a set of many tasks; None: the set's.

    Raises:
        ValueError: no positive, or something else than texts.
    """

    query: str
    positives: tuple[str, ...]
    negatives: tuple[str, ...] = ()
    label: str | None = None
    instruction: str | None = None

    def __post_init__(self) -> None:
        if not self.positives:
            raise ValueError(f"a record needs a positive: {self.query[:60]!r}")
        for text in (self.query, *self.positives, *self.negatives):
            if not isinstance(text, str):
                raise ValueError(f"expected a text, got {text!r} in a record of {self.query!r:.60}")


def sts_records(
    first: Sequence[str],
    second: Sequence[str],
    scores: Sequence[float],
    *,
    threshold: float = STS_POSITIVE,
) -> list[EmbeddingRecord]:
    """Both directions of every pair of at least `threshold`; other pairs are dropped.

    Source: Lee et al. 2024, section 4.2.
    """
    kept = [
        (a, b) for a, b, s in zip(first, second, scores, strict=True) if s >= threshold and a != b
    ]
    return [EmbeddingRecord(q, (d,)) for a, b in kept for q, d in ((a, b), (b, a))]


def nli_records(rows: Sequence[tuple[str, str, str]]) -> list[EmbeddingRecord]:
    """Premise -> entailed sentences, with what contradicts or stays open as negatives.

    Args:
        rows: (premise, hypothesis, label); labels entailment, neutral, contradiction.
    """
    grouped: dict[str, tuple[list[str], list[str]]] = {}
    for premise, hypothesis, label in rows:
        sides = grouped.setdefault(premise, ([], []))
        if label in ("entailment", "neutral", "contradiction"):
            sides[label != "entailment"].append(hypothesis)
    return [
        EmbeddingRecord(premise, tuple(right), tuple(wrong))
        for premise, (right, wrong) in grouped.items()
        if right
    ]


# -- on disk -------------------------------------------------------------------------------------


def as_texts(value: str | Iterable[str]) -> tuple[str, ...]:
    """Texts of a field that holds one text or several."""
    return (value,) if isinstance(value, str) else tuple(value)
