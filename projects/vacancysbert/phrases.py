"""Phrases, sentences and clauses of texts."""

import re
from collections.abc import Iterable, Mapping

_TERM = re.compile(r"[^\W_]+[+#]*")  # C++ and C# are words
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_BORDER = re.compile(r"[,;:()]|[.!?](?:\s|$)|\s+(?:and|or|as well as|such as|including)\s+", re.I)
_LEADING = re.compile(
    r"(?:they|and|or|also|as well|the|a|an|to|in|of|are|is|have|may|can)\s+(?=\S)", re.I
)


class PhraseMatcher:
    """Finds the entries of a dictionary in a text: whole words, any case, the longest first.

    A word belongs to one hit at most; what stands between words (hyphens, line breaks) is ignored.

    Args:
        labels: spelling -> name of the entry; spellings without a word are ignored.

    >>> find = PhraseMatcher({"Java": "Java", "machine learning": "ML", "learning": "learning"})
    >>> find("Machine-learning in Java, not JavaScript; java again")
    ['ML', 'Java']
    """

    def __init__(self, labels: Mapping[str, str]) -> None:
        spelled = ((tuple(_TERM.findall(label.lower())), name) for label, name in labels.items())
        self.names = {words: name for words, name in spelled if words}
        self.longest: dict[str, int] = {}  # first word -> words of the longest entry
        for words in self.names:
            self.longest[words[0]] = max(len(words), self.longest.get(words[0], 0))

    def __call__(self, text: str) -> list[str]:
        """Distinct entries in the order of their first occurrence."""
        words = _TERM.findall(text.lower())
        phrases: dict[str, None] = {}
        i = 0
        while i < len(words):
            size = min(self.longest.get(words[i], 0), len(words) - i)
            while size and tuple(words[i : i + size]) not in self.names:
                size -= 1
            if size:
                phrases[self.names[tuple(words[i : i + size])]] = None
            i += max(size, 1)
        return list(phrases)


def sentences(text: str) -> list[str]:
    """Sentences, ended by a full stop, an exclamation or a question mark.

    >>> sentences("One. Two!")
    ['One.', 'Two!']
    """
    return [part for part in _SENTENCE.split(text.strip()) if part]


def clauses(text: str, max_words: int = 12) -> list[str]:
    """Lower-cased pieces between commas, conjunctions and the like, without leading function words.

    A rough stand-in for phrases of a text where no list of them and no parser is available.

    Args:
        text: of any length.
        max_words: longer pieces are dropped.

    >>> clauses("They repair pumps, valves and the pipes. They drive.")
    ['repair pumps', 'valves', 'pipes', 'drive']
    """
    kept: dict[str, None] = {}
    for part in _BORDER.split(text):
        piece = " ".join(part.split()).strip(" .!?").lower()
        while (shorter := _LEADING.sub("", piece, count=1)) != piece and _LEADING.match(piece):
            piece = shorter
        if len(piece) > 2 and len(piece.split()) <= max_words:
            kept[piece] = None
    return list(kept)


def without_phrases(text: str, phrases: Iterable[str]) -> str:
    """A text without some phrases, in any case and with a plural's ending; single spaces.

    Longer phrases go first. Parts of words stay.

    >>> without_phrases("Fishers fish. A fisher at sea", ["fisher"])
    'fish. A at sea'
    """
    for phrase in sorted({p.strip() for p in phrases if p.strip()}, key=len, reverse=True):
        if phrase.lower() in text.lower():  # few texts have it: compiling is what costs
            text = re.sub(rf"(?<!\w){re.escape(phrase)}(?:e?s)?(?!\w)", " ", text, flags=re.I)
    return " ".join(text.split())
