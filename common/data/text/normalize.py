"""Typographic variants of punctuation and spaces as their plain ASCII forms; letters stay."""

import unicodedata
from collections.abc import Callable

_PLAIN = {
    "'": "\u00b4\u02b9\u02bc\u2018\u2019\u201a\u201b\u2032\u2035\uff07",
    '"': "\u00ab\u00bb\u02ba\u201c\u201d\u201e\u201f\u2033\u2036\u300c\u300d\uff02",
    "-": "\u058a\u2010\u2011\u2012\u2013\u2014\u2015\u2043\u2212\ufe58\ufe63\uff0d",
    "...": "\u2026",
    "~": "\u02dc\u223c\uff5e",
    ".": "\u3002\uff0e",
    ",": "\u3001\uff0c",
    "?": "\uff1f",
    "!": "\uff01",
    ":": "\uff1a",
    ";": "\uff1b",
    "(": "\uff08",
    ")": "\uff09",
}
_DROPPED = "\u00ad\u200b\u200c\u200d\u2060\ufeff"  # soft hyphen, characters without width
_TABLE = {ord(c): plain for plain, group in _PLAIN.items() for c in group}
_TABLE |= {ord(c): "" for c in _DROPPED}


def normalize_text(text: str) -> str:
    r"""A text with plain punctuation, single spaces and composed letters (NFC).

    Source: ours, after Izacard et al. 2022, "Contriever", arXiv 2112.09118, whose smaller table
    leaves letters, spaces and other scripts unchanged.

    >>> normalize_text("\u201cA\u00a0b\u201d \u2013 c\u2026")
    '"A b" - c...'
    """
    return " ".join(unicodedata.normalize("NFC", text).translate(_TABLE).split())


def text_preparation(normalize: bool, lower: bool) -> Callable[[str], str]:
    """What is done to a text before it is tokenised.

    Args:
        normalize: see `normalize_text`.
        lower: lower-case letters (MKQA's protocol).
    """

    def prepare(text: str) -> str:
        text = normalize_text(text) if normalize else text
        return text.lower() if lower else text

    return prepare
