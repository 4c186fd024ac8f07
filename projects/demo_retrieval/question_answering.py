"""Answers to questions: exact match and token F1 as SQuAD and MRQA score them.

Source: Rajpurkar et al. 2016, "SQuAD", section 6.1 and released evaluation (version 1.1), arXiv
1606.05250; Fisch et al. 2019, "MRQA", whose evaluation is the same. (Version 2.0 differs where both
answers are empty: F1 is 1 there and 0 here.)
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    """Lower case without ASCII punctuation and articles, single spaces.

    >>> normalize_answer("The  16,000 RPM.")
    '16000 rpm'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def answer_f1(prediction: str, gold: str) -> float:
    """Harmonic mean of precision and recall of normalised words, counted with repetition.

    Args:
        prediction: any text.
        gold: one accepted answer.

    Returns:
        In [0, 1]; 0 without a common word.

    >>> round(answer_f1("New York", "New York City"), 3)
    0.8
    """
    predicted, expected = normalize_answer(prediction).split(), normalize_answer(gold).split()
    same = sum((Counter(predicted) & Counter(expected)).values())
    if same == 0:
        return 0.0
    precision, recall = same / len(predicted), same / len(expected)
    return 2 * precision * recall / (precision + recall)


def answer_exact(prediction: str, gold: str) -> float:
    """1 if both are equal after normalisation, else 0.

    >>> answer_exact("16000 RPM", "The 16,000 rpm")
    1.0
    """
    return float(normalize_answer(prediction) == normalize_answer(gold))


def best_answer(score: Callable[[str, str], float], prediction: str, golds: Sequence[str]) -> float:
    """The largest score over the accepted answers; 0 without one.

    >>> best_answer(answer_f1, "a cat", ["dog", "the cat"])
    1.0
    """
    return max((score(prediction, gold) for gold in golds), default=0.0)
