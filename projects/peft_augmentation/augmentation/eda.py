"""Easy data augmentation as released: four word operations on cleaned text, with Python's generator.

The operations draw in the order of the official code, so that a seeded generator gives its texts
(but for what `synonym_replacement` and `random_insertion` say).
`common.data.text.augment.Eda` is the one for views in training: one operation a call, case kept.
"""

import random
from collections.abc import Callable, Mapping, Sequence

from common.data.text.augment import STOP_WORDS

Synonyms = Mapping[str, Sequence[str]]
Words = Sequence[str]
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz ")
_SWAP_TRIES, _INSERT_TRIES = 3, 10


def clean_text(text: str) -> str:
    """Lower case and letters only: apostrophes vanish, everything else becomes one space.

    Source: Wei and Zou 2019, released code, arXiv 1901.11196.

    >>> clean_text("It's a well-known film - 10/10!")
    'its a well known film '
    """
    lowered = text.replace("\u2019", "").replace("'", "").lower()
    kept = "".join(c if c in _LETTERS else " " for c in lowered)
    parts = kept.split(" ")
    joined = " ".join(part for part in parts if part)
    return joined + (" " if joined and kept.endswith(" ") else "")


def random_swap(words: Words, swaps: int, rng: random.Random) -> list[str]:
    """Exchange two words, that many times.

    A draw that hits the same word four times changes nothing.

    Source: Wei and Zou 2019, section 2 (RS), arXiv 1901.11196.
    """
    found = list(words)
    for _ in range(swaps):
        first = second = rng.randint(0, len(found) - 1)
        tries = 0
        while second == first and tries <= _SWAP_TRIES:
            second = rng.randint(0, len(found) - 1)
            tries += 1
        if tries <= _SWAP_TRIES:
            found[first], found[second] = found[second], found[first]
    return found


def random_deletion(words: Words, probability: float, rng: random.Random) -> list[str]:
    """Drop each word with a probability; a random one stays where all would go.

    Source: Wei and Zou 2019, section 2 (RD), arXiv 1901.11196.
    """
    if len(words) == 1:
        return list(words)
    kept = [word for word in words if rng.uniform(0, 1) > probability]
    return kept or [words[rng.randint(0, len(words) - 1)]]


def synonym_replacement(
    words: Words, count: int, rng: random.Random, synonyms: Synonyms
) -> list[str]:
    """Replace that many content words, wherever they stand, by one of their synonyms.

    The candidates are sorted before they are shuffled: the released order is that of a set, which
    differs from process to process.

    Source: Wei and Zou 2019, section 2 (SR), arXiv 1901.11196.
    """
    found, replaced = list(words), 0
    candidates = sorted({word for word in words if word not in STOP_WORDS})
    rng.shuffle(candidates)
    for candidate in candidates:
        if options := synonyms.get(candidate):
            new = rng.choice(list(options))
            found = [new if word == candidate else word for word in found]
            replaced += 1
        if replaced >= count:
            break
    return " ".join(found).split(" ")  # a synonym may be a phrase


def random_insertion(words: Words, count: int, rng: random.Random, synonyms: Synonyms) -> list[str]:
    """Insert the first synonym of a random word at a random place, that many times.

    Source: Wei and Zou 2019, section 2 (RI), arXiv 1901.11196.

    Deviation: up to ten words are drawn, and any that has a synonym is used; the released loop
    gives up at the tenth draw, also where that one has a synonym. About 1 % of the copies differ.
    """
    found = list(words)
    for _ in range(count):
        for _ in range(_INSERT_TRIES):
            if options := synonyms.get(found[rng.randint(0, len(found) - 1)]):
                found.insert(rng.randint(0, len(found) - 1), options[0])
                break
    return found


def eda(
    text: str, synonyms: Synonyms, rng: random.Random, *, alpha: float = 0.1, copies: int = 4
) -> list[str]:
    """Altered copies of a text: floor(copies / 4) + 1 of each operation, shuffled, the first ones kept.

    n = max(1, floor(alpha L)) words are replaced, inserted or swapped, and each is deleted with
    probability alpha. The released generator appends the cleaned text itself; that is left out.

    Source: Wei and Zou 2019, section 2 and released code, arXiv 1901.11196.

    Args:
        text: as it was written.
        synonyms: lower-case word -> replacements.
        rng: seeded generator.
        alpha: share of the words, in [0, 1].
        copies: that are returned.

    Returns:
        Cleaned texts; none of a text without letters.

    >>> eda("10/10", {}, random.Random(0))
    []
    """
    words = clean_text(text).split()
    if not words:
        return []
    count = max(1, int(alpha * len(words)))
    operations: list[Callable[[], list[str]]] = [
        lambda: synonym_replacement(words, count, rng, synonyms),
        lambda: random_insertion(words, count, rng, synonyms),
        lambda: random_swap(words, count, rng),
        lambda: random_deletion(words, alpha, rng),
    ]
    each = copies // 4 + 1
    found = [clean_text(" ".join(change())).strip() for change in operations for _ in range(each)]
    rng.shuffle(found)
    return found[:copies]


def altered(text: str, alpha: float, rng: random.Random) -> str:
    """A text with max(1, floor(alpha L)) swaps, and then each word deleted with probability alpha.

    For the analysis of heavily altered data; 0 only cleans. A text without letters stays as it is.
    """
    words = clean_text(text).split()
    if not words:
        return text
    if alpha > 0:
        swapped = random_swap(words, max(1, int(alpha * len(words))), rng)
        words = random_deletion(swapped, alpha, rng)
    return " ".join(words)
