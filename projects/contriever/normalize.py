"""The release's normalisation: punctuation as the characters of BERT's vocabularies."""

from collections.abc import Callable

from common.data.text.normalize import text_preparation

_CHARACTERS = {
    "-": "\u2010\u2011\u2012\u2013\u2014\u2015\u2043\u207b\u2212\uff0d",
    "'": "`\u00b4\u055a\u2018\u2019\u201a\u201b\u2032\u2035\ua78b\ua78c\uff07",
    "''": "\u2033\u2036",
    "'''": "\u2034\u2037",
    "''''": "\u2057",
    '"': "\u201c\u201d\u201e\u201f",
    "...": "\u2026",
    "/": "\u2044\u2215",
    " ": "\u000b\u000c\u0085",
    # controls (U+0010, too, is left as it is there) and the soft hyphen
    "": "".join(map(chr, [*range(1, 9), 14, 15, *range(17, 28), 0xAD])),
}
_TABLE = {ord(c): plain for plain, group in _CHARACTERS.items() for c in group}


def plain_punctuation(text: str) -> str:
    r"""A text with plain hyphens, quotes, slashes and ellipses; all other characters stay.

    Letters are not composed, and full stops or brackets of other scripts are left: mContriever has
    seen them as they are.

    Source: Izacard et al. 2022, released code (normalize_text), arXiv 2112.09118.

    >>> plain_punctuation("\u201cA\u201d \u2013 b\u2026 \u3002")
    '"A" - b... \u3002'
    """
    return text.translate(_TABLE).replace(" . . . ", " ... ")


def preparation(normalize: bool, lower: bool = False) -> Callable[[str], str]:
    """What is done to a text before it is tokenised.

    Args:
        normalize: see `plain_punctuation`.
        lower: lower-case letters (MKQA's protocol).
    """
    cased = text_preparation(False, lower)
    return (lambda text: cased(plain_punctuation(text))) if normalize else cased
