"""Text augmentation with a generator: EDA, word dropout, span masking, repetition."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, get_args

import numpy as np

from common.data.samplers import Rng

_STOP_WORDS = """
a about after all an and any are as at be been before but by can did do does for from had has
have he her here him his how i if in into is it its me my no not of off on one only or our out
over she so some such than that the their them then there these they this those to too under up
was we were what when where which who why will with would you your
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())

T = TypeVar("T")
Operation = Literal["replace", "insert", "swap", "delete", "keep"]


@dataclass(frozen=True)
class Eda:
    """Easy data augmentation: one of four word operations per call, each equally likely.

    An operation changes max(1, alpha * words) words (deletion: each word with probability alpha,
    never all). A text of one word can only be changed by synonyms.

    Source: Wei and Zou, EMNLP 2019, Section 2 (arXiv 1901.11196).

    Attributes:
        synonyms: lower-case word -> replacements (see `synonyms_from_synsets`).
        alpha: share of the words that are changed, in (0, 1).
        operations: the choice, some of "replace", "insert", "swap", "delete" and "keep" (identity).
        weights: >= 0, proportional to the probabilities of the operations; None: equally likely.
    """

    synonyms: Mapping[str, Sequence[str]] = field(default_factory=dict)
    alpha: float = 0.1
    operations: tuple[Operation, ...] = ("replace", "insert", "swap", "delete")
    weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha must be in (0, 1), got {self.alpha}")
        if not self.operations or set(self.operations) - set(get_args(Operation)):
            raise ValueError(f"operations must be among {get_args(Operation)}")
        if self.weights is not None:
            fits = len(self.weights) == len(self.operations) and min(self.weights) >= 0
            if not fits or not sum(self.weights) > 0:
                raise ValueError(f"one weight >= 0 for each of {self.operations}, not all 0")

    def __call__(self, text: str, rng: Rng) -> str:
        """Altered text; white space between words becomes single spaces."""
        words = text.split()
        if not words:
            return text
        chosen = self._operation(rng)
        changes = max(1, int(self.alpha * len(words)))
        changed: list[str] = getattr(self, f"_{chosen}")(words, changes, rng)
        return " ".join(changed)

    def _operation(self, rng: Rng) -> Operation:
        if self.weights is None:
            return self.operations[int(rng.integers(len(self.operations)))]
        bounds = np.cumsum(self.weights)
        place = np.searchsorted(bounds, rng.random() * bounds[-1], side="right")
        return self.operations[int(place)]

    def _keep(self, words: list[str], changes: int, rng: Rng) -> list[str]:
        return words

    def _candidates(self, words: Sequence[str]) -> list[int]:
        return [i for i, w in enumerate(words) if w.lower() not in STOP_WORDS and self._of(w)]

    def _of(self, word: str) -> Sequence[str]:
        return self.synonyms.get(word.lower(), ())

    def _replace(self, words: list[str], changes: int, rng: Rng) -> list[str]:
        """Synonym replacement of content words; a replaced word is replaced everywhere."""
        for position in rng.permutation(self._candidates(words))[:changes]:
            word = words[int(position)]
            if options := self._of(word):
                new = options[int(rng.integers(len(options)))]
                words = [new if w == word else w for w in words]
        return words

    def _insert(self, words: list[str], changes: int, rng: Rng) -> list[str]:
        """Insertion of a synonym of some content word at a random place."""
        for _ in range(changes):
            if not (candidates := self._candidates(words)):
                break
            options = self._of(words[candidates[int(rng.integers(len(candidates)))]])
            place = int(rng.integers(len(words) + 1))
            words = [*words[:place], options[int(rng.integers(len(options)))], *words[place:]]
        return words

    def _swap(self, words: list[str], changes: int, rng: Rng) -> list[str]:
        """Exchange of two words."""
        words = list(words)
        if len(words) >= 2:
            for _ in range(changes):
                i, j = (int(k) for k in rng.permutation(len(words))[:2])
                words[i], words[j] = words[j], words[i]
        return words

    def _delete(self, words: list[str], changes: int, rng: Rng) -> list[str]:
        return _dropped(words, self.alpha, rng)


@dataclass(frozen=True)
class WordDropout:
    """Removes each word with a probability; at least one word is kept.

    Attributes:
        drop_prob: probability per word, in [0, 1).
    """

    drop_prob: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.drop_prob < 1:
            raise ValueError(f"drop_prob must be in [0, 1), got {self.drop_prob}")

    def __call__(self, text: str, rng: Rng) -> str:
        """Altered text; white space between words becomes single spaces."""
        words = text.split()
        return " ".join(_dropped(words, self.drop_prob, rng)) if words else text


@dataclass(frozen=True)
class SpanMask:
    """Replaces one random span of characters by a mask string with a space on either side.

    A start is drawn evenly from 0 .. len - span_chars - 1; what is replaced is the *first* place
    where the drawn characters occur. Short texts stay as they are.

    Source: Liu et al. 2021, "Mirror-BERT", section 2, arXiv 2104.08027; the first-occurrence rule
    and the lower bound on the length are those of the official code.

    Attributes:
        span_chars: characters of the span, >= 0; 0 masks nothing.
        min_chars: texts with fewer characters are not changed.
        mask: what takes the place of the span.
    """

    span_chars: int = 5
    min_chars: int = 30
    mask: str = "[MASK]"

    def __post_init__(self) -> None:
        if self.span_chars < 0 or self.min_chars < 0:
            raise ValueError(
                f"span_chars and min_chars must be >= 0, got {self.span_chars}, {self.min_chars}"
            )

    def __call__(self, text: str, rng: Rng) -> str:
        """Altered text."""
        if not self.span_chars or len(text) <= self.span_chars or len(text) < self.min_chars:
            return text
        start = int(rng.integers(len(text) - self.span_chars))
        return text.replace(text[start : start + self.span_chars], f" {self.mask} ", 1)


@dataclass(frozen=True)
class Repetition:
    """Doubles randomly chosen elements of a sequence in place, so that only its length changes.

    With n elements the number of repetitions is drawn evenly from [0, bound), and as many places
    without replacement:

        sub-words:  bound = min(cap, floor(rate (n + 2)))          (2: the special tokens)
        words:      bound = min(cap, n, max(2, floor(rate n)))     (the last word stays single)
        paper rule: bound = max(2, floor(rate n)) + 1, at most n + 1; every element may be chosen

    Source: Wu et al. 2022, "ESimCSE", section 3.1, arXiv 2109.04380 (paper rule), and its
    official code (the first two).

    Attributes:
        rate: share of the elements, in (0, 1].
        level: what an element is.
        rule: "code" has the two bounds of the official code, "paper" that of the text.
        cap: >= 1, bounds the repetitions under rule "code".

    >>> import numpy as np
    >>> Repetition(rate=1.0)("abc", np.random.default_rng(0))
    ['a', 'a', 'b', 'b', 'c', 'c']
    """

    rate: float = 0.32
    level: Literal["subword", "word"] = "subword"
    rule: Literal["code", "paper"] = "code"
    cap: int = 10

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1 or self.cap < 1:
            raise ValueError(f"rate must be in (0, 1] and cap >= 1, got {self.rate}, {self.cap}")

    def bound(self, count: int) -> int:
        """Exclusive upper end of the number of repetitions among `count` elements."""
        if self.rule == "paper":
            bound = max(2, int(self.rate * count)) + 1
        elif self.level == "word":
            bound = min(self.cap, max(2, int(self.rate * count)))
        else:
            bound = min(self.cap, int(self.rate * (count + 2)))
        return min(bound, self._places(count) + 1)

    def __call__(self, elements: Sequence[T], rng: Rng) -> list[T]:
        """The elements in order, some of them twice in a row."""
        bound = self.bound(len(elements))
        number = int(rng.integers(bound)) if bound > 0 else 0
        places = self._places(len(elements))
        chosen = set(rng.choice(places, size=number, replace=False).tolist()) if number else set()
        return [x for i, x in enumerate(elements) for _ in range(1 + (i in chosen))]

    def _places(self, count: int) -> int:
        """Number of leading elements that may be doubled."""
        spared = self.level == "word" and self.rule == "code"
        return max(0, count - spared)


def synonyms_from_synsets(synsets: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Synonyms of each word: the other lemmas of all its synsets, in the order of the synsets.

    Args:
        synsets: rows with ``lemmas`` (list of words or phrases), e.g. the bundled WordNet subset.

    Returns:
        Lower-case lemma -> lower-case synonyms without itself; words without synonyms are left out.
    """
    table: dict[str, dict[str, None]] = {}
    for row in synsets:
        lemmas = [lemma.lower() for lemma in row["lemmas"]]
        for word in lemmas:
            table.setdefault(word, {}).update(dict.fromkeys(w for w in lemmas if w != word))
    return {word: list(others) for word, others in table.items() if others}


def _dropped(words: list[str], drop_prob: float, rng: Rng) -> list[str]:
    kept = [word for word in words if rng.random() >= drop_prob]
    return kept or [words[int(rng.integers(len(words)))]]
