"""Names of tasks, and how a labelled set becomes questions: family, question, words."""

from collections.abc import Sequence
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from common.config import UserError, nearest
from projects.demo_retrieval.template import Example

DOMAINS = (
    "auto_and_commute",
    "banking",
    "credit_cards",
    "home",
    "kitchen_and_dining",
    "meta",
    "small_talk",
    "travel",
    "utility",
    "work",
)
BUNDLED = ("snips", "banking20", "restaurant", "qnli", "choices", *(f"clinc_{d}" for d in DOMAINS))
MADE_UP = ("made_up_qa", "made_up_nli", "made_up_topic", "made_up_other")
MOST_CLASSES, CLASS_WORDS, CLASS_SIZE = 20, 4, 4


@cache
def _questions() -> dict[str, dict[str, Any]]:
    path = Path(__file__).with_name("questions.yaml")
    content: dict[str, dict[str, Any]] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return content


def about(name: str) -> dict[str, Any]:
    """Family, question and words of a task, whatever its letters' case.

    Raises:
        UserError: an unknown name.
    """
    for pattern, entry in _questions().items():
        if fnmatch(name.lower(), pattern):
            # one name in two collections is one data set
            return {"same": (name.partition("/")[2] or name).lower(), **entry}
    raise UserError(
        f"unknown task '{name}'{nearest(name, [*BUNDLED, *MADE_UP])}, or mrqa/<set>,"
        " unifiedqa/<set>, crossfit/<task>"
    )


@cache
def data_set(name: str) -> str:
    """The data set that a task belongs to; of an unknown task, as a user's bank may hold, its name.

    >>> data_set("unifiedqa/squad2"), data_set("my own")
    ('squad', 'my own')
    """
    try:
        return str(about(name)["same"])
    except UserError:
        return name


def are_classes(examples: Sequence[Example]) -> bool:
    """Whether the answers are labels, of a task whose questions do not say so.

    At most twenty different ones, none of more than four words, each that of four examples on
    average: CrossFit has 16 of each class, and hardly any answer to an open question twice.

    >>> yes, no = Example("t", "q", ("yes",)), Example("t", "q", ("no",))
    >>> are_classes([yes, no] * 4), are_classes([yes, no])
    (True, False)
    """
    answers = {e.answers[0] for e in examples}
    short = all(len(answer.split()) <= CLASS_WORDS for answer in answers)
    return short and 2 <= len(answers) <= min(MOST_CLASSES, len(examples) // CLASS_SIZE)
