"""Sentences of running text in any script, by the marks that end them."""

import re

# full stop, question and exclamation marks of Latin, CJK, Arabic, Devanagari, Armenian, Ethiopic,
# Khmer, Myanmar, Tibetan
_WIDE = "\u3002\uff01\uff1f\uff61\u0964\u0965\u1362\u1367\u17d4\u104b\u0f0d"
_NARROW = ".!?\u2026\u061f\u06d4\u0589"
_CLOSING = "\"'\u2019\u201d\u00bb)\\]\u300d\u300f\uff09"
_END = re.compile(rf"(?:[{_WIDE}]+[{_CLOSING}]*\s*|[{_NARROW}]+[{_CLOSING}]*\s+(?![a-z]))")


def split_any(text: str) -> list[str]:
    """Sentences of a text, split after a mark that ends one; white space is collapsed.

    Marks of Latin script and the like need a following space and no lower-case Latin letter after
    it. Scripts without such marks (Thai) come back whole: bring them as lines.

    >>> split_any("It is 3.5 m long. Why? e.g. this.")
    ['It is 3.5 m long.', 'Why? e.g. this.']
    >>> [len(s) for s in split_any("\u5929\u6c14\u5f88\u597d\u3002\u6211\u4eec\u8d70\u5427\u3002")]
    [5, 5]
    """
    text = " ".join(text.split())
    sentences, begin = [], 0
    for match in _END.finditer(text):
        sentences.append(text[begin : match.end()].strip())
        begin = match.end()
    return [s for s in [*sentences, text[begin:].strip()] if s]
