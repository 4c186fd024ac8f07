"""What an utterance means and says; transcripts in one spelling."""

import string
from typing import NamedTuple

_QUOTES = "\u2018\u2019\u201c\u201d"  # curly ones, single and double
_PUNCTUATION = str.maketrans("", "", string.punctuation + _QUOTES)


class SpokenTarget(NamedTuple):
    """What an utterance means and says."""

    intent: str
    slots: tuple[tuple[str, str], ...]  # (type, value)
    transcript: str


def normalize_transcript(text: str) -> str:
    """Lower case, no ASCII punctuation or curly quotes, single spaces.

    >>> normalize_transcript("What's  on, today?")
    'whats on today'
    """
    return " ".join(text.lower().translate(_PUNCTUATION).split())
