"""Repeated n-grams within texts, and diversity."""

from collections.abc import Sequence

ORDERS = (2, 3, 4)


def repeated_ngrams(texts: Sequence[str], n: int, *, official_ngram_count: bool = False) -> float:
    """Share of n-grams that repeat one of the same text (rep-n), in percent.

        rep-n = 100 (1 - sum_x unique n-grams of x / sum_x n-grams of x)

    Source: Welleck et al. 2020, section 6, arXiv 1908.04319; Su & Collier 2023, arXiv 2210.14140.

    Args:
        texts: words are what stands between white space.
        n: >= 1.
        official_ngram_count: leave out the last n-gram of each text, as the released code does.

    Returns:
        In [0, 100]; 0 without any n-gram.

    >>> repeated_ngrams(["a b a b a"], 2)
    50.0
    >>> round(repeated_ngrams(["a b a b a"], 2, official_ngram_count=True), 2)
    33.33
    """
    unique = total = 0
    for text in texts:
        words = text.split()
        last = len(words) - n + (0 if official_ngram_count else 1)
        grams = [tuple(words[i : i + n]) for i in range(last)]
        unique, total = unique + len(set(grams)), total + len(grams)
    return 100 * (1 - unique / total) if total else 0.0


def diversity(texts: Sequence[str], *, official_ngram_count: bool = False) -> float:
    """Product of what does not repeat, over n-grams of two to four words.

        diversity = prod_{n = 2..4} (1 - rep-n / 100), each rep-n rounded to two decimals before

    Source: Su & Collier 2023, section 5.1.2, arXiv 2210.14140, and the released code.

    Args:
        texts: one corpus; the counts are summed over it.
        official_ngram_count: see `repeated_ngrams`.

    Returns:
        In [0, 1].

    Deviation: the released counter leaves out the last n-gram of each text; here only if asked.

    >>> round(diversity(["a b a b a"]), 4)  # 0.5, 0.6667, 1
    0.3334
    """
    value = 1.0
    for n in ORDERS:
        value *= (
            1 - round(repeated_ngrams(texts, n, official_ngram_count=official_ngram_count), 2) / 100
        )
    return value
