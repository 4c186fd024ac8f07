"""Open-domain question answering: does a retrieved passage contain an answer?

Source: Karpukhin et al. 2020, "DPR", section 5 and released evaluation, arXiv 2004.04906.
"""

import unicodedata
from collections.abc import Sequence

import regex

# letters, numbers and the marks on them; any other character but spaces and invisible ones
_TOKEN = regex.compile(r"[\p{L}\p{N}\p{M}]+|[^\p{Z}\p{C}]")


def answer_tokens(text: str) -> list[str]:
    """Lower-cased words and single punctuation marks of a text in NFD."""
    tokens: list[str] = _TOKEN.findall(unicodedata.normalize("NFD", text).lower())
    return tokens


def has_answer(passage: str, answers: Sequence[str]) -> bool:
    """Whether a passage contains the words of an answer one after the other.

    >>> has_answer("He died in Sao Paulo.", ["sao paulo"]), has_answer("Paulos", ["Paulo"])
    (True, False)
    """
    words = answer_tokens(passage)
    for answer in answers:
        expected = answer_tokens(answer)
        for i in range(len(words) - len(expected) + 1) if expected else ():
            if words[i : i + len(expected)] == expected:
                return True
    return False


def answer_recall(
    passages: Sequence[Sequence[str]], answers: Sequence[Sequence[str]], ks: Sequence[int]
) -> dict[str, list[float]]:
    """Per question, whether one of the first k passages contains an answer.

    Args:
        passages: of each question, best first.
        answers: accepted ones of each question.
        ks: cut-offs.

    Returns:
        ``recall_at_k`` -> 0 or 1 of each question.

    >>> answer_recall([["x", "a cat"]], [["cat"]], (1, 2))
    {'recall_at_1': [0.0], 'recall_at_2': [1.0]}
    """
    first = []
    for retrieved, right in zip(passages, answers, strict=True):
        places = (i for i, passage in enumerate(retrieved, 1) if has_answer(passage, right))
        first.append(next(places, None))
    return {f"recall_at_{k}": [float(rank is not None and rank <= k) for rank in first] for k in ks}
