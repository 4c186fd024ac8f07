"""Accuracy of chosen answers: over all questions, by type and by level of difficulty."""

import re
from collections.abc import Sequence

TYPES = ("what", "who", "where", "why", "how")
_ALIKE = {"whom": "who", "whose": "who"}


def question_type(text: str) -> str:
    """The first of what, who, where, why and how in a question; "other" without one.

    >>> question_type("Where was Leonard when Penny called?"), question_type("Is it late?")
    ('where', 'other')
    """
    for token in re.findall(r"[a-z]+", text.lower()):
        word = _ALIKE.get(token, str(token))
        if word in TYPES:
            return word
    return "other"


def accuracy_by(correct: Sequence[float], groups: Sequence[str]) -> dict[str, float]:
    """Accuracy of each group, and of all together as "".

    Args:
        correct: 1.0 or 0.0 for each question.
        groups: of each question.

    >>> accuracy_by([1.0, 0.0, 1.0], ["a", "a", "b"])
    {'': 0.6666666666666666, 'a': 0.5, 'b': 1.0}
    """
    accuracies = {"": sum(correct) / len(correct)}
    for group in sorted(set(groups)):
        group_hits = [c for c, g in zip(correct, groups, strict=True) if g == group]
        accuracies[group] = sum(group_hits) / len(group_hits)
    return accuracies
