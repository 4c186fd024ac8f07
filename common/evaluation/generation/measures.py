"""Measures of generated continuations: repetition, overlap with the prefix, MAUVE.

Source: Krishna et al. 2022, "RankGen", section 4 and appendix, arXiv 2205.09726, and its released
code; the word rules are those of SQuAD's official evaluation.
"""

import importlib.util
import re
import string
from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.config import UserError

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
ENDS = ".?!;"


def truncate(text: str, ends: str = ENDS) -> str:
    """Text up to its last sentence end; unchanged where there is none (or only at the beginning).

    >>> truncate("Is it? Yes; maybe"), truncate("No end")
    ('Is it? Yes;', 'No end')
    """
    last = max((text.rfind(mark) for mark in ends), default=-1)
    return text[: last + 1] if last > 0 else text


def normalized_words(text: str) -> list[str]:
    """Lower-case words without ASCII punctuation and English articles.

    >>> normalized_words("The cat's mat.")
    ['cats', 'mat']
    """
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def repetition(prefix: str, continuation: str, window: int = 20, *, wrap: bool = False) -> float:
    """Share of the continuation's words that are among the `window` words before them (rep).

    The words before may belong to the prefix.

    Args:
        prefix: what was continued.
        continuation: generated text.
        window: words that are looked back.
        wrap: the released code's rule for words with fewer than `window` words before them, whose
            window begins at a negative index and therefore counts from the end of the text; with
            prefixes of at least `window` words it makes no difference.

    Returns:
        In [0, 1]; 0 for an empty continuation.

    >>> repetition("one two three", "one four")
    0.5
    """
    before, words = normalized_words(prefix), normalized_words(continuation)
    text = before + words
    starts = [i - window if wrap else max(0, i - window) for i in range(len(before), len(text))]
    seen = [text[i] in text[start:i] for i, start in enumerate(starts, len(before))]
    return float(np.mean(seen)) if seen else 0.0


def word_overlap(prediction: str, reference: str) -> tuple[float, float, float]:
    """Unigram precision, recall and F1 of a text against another one, counted with multiplicity.

    All words count; RankGen's released scripts leave stop words out of both texts.

    Args:
        prediction: its words are what precision counts.
        reference: the other text.

    Returns:
        Each in [0, 1]; 1 for two empty texts.

    >>> word_overlap("one two", "one three four five")
    (0.5, 0.25, 0.3333333333333333)
    """
    a, b = Counter(normalized_words(prediction)), Counter(normalized_words(reference))
    if not a and not b:
        return 1.0, 1.0, 1.0
    common = sum((a & b).values())
    if not common:
        return 0.0, 0.0, 0.0
    precision, recall = common / a.total(), common / b.total()
    return precision, recall, 2 * precision * recall / (precision + recall)


def mauve(
    human: NDArray[np.float32],
    machine: NDArray[np.float32],
    *,
    num_buckets: int | str = "auto",
    seed: int = 25,
) -> float:
    """MAUVE between features of human and of machine texts, by the library ``mauve-text``.

    Source: Pillutla et al. 2021, arXiv 2102.01454.

    Args:
        human: (N, D) features, for instance a language model's state at the last token.
        machine: (M, D) features of the same model.
        num_buckets: clusters; "auto" takes a tenth of the texts.
        seed: of the clustering.

    Returns:
        In [0, 1]. Values depend on the features, on the length and on the number of texts (the
        paper has 7,713 texts of 70 to 80 words): compare only what shares them.

    Raises:
        UserError: the library is not installed.
    """
    if importlib.util.find_spec("mauve") is None:
        raise UserError("MAUVE needs the package mauve-text; install the 'eval' group")
    import mauve as library

    result: Any = library.compute_mauve(
        p_features=human, q_features=machine, num_buckets=num_buckets, seed=seed, verbose=False
    )
    return float(result.mauve)
