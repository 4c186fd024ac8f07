"""Key phrases of captions, which LinCIR hides: runs of nouns, adjectives and determiners.

The tagger is WordNet's list of lemmas by part of speech, so that it needs no model; any other one
fits in its place, see `key_phrase_spans`.
"""

import re
from collections.abc import Callable, Collection, Sequence
from functools import lru_cache

from common.data.lookup import bundled
from common.data.tables import read_jsonl
from common.data.text.stop_words import FUNCTION_WORDS
from projects.rtd.pseudo_tokens import PLACEHOLDER

Tagger = Callable[
    [Sequence[str]], Sequence[bool]
]  # words of a caption -> which belong to key phrases
DETERMINERS = frozenset(
    ["a", "an", "the", "this", "that", "these", "those", "some", "any", "each", "every", "no"]
)
_WORD = re.compile(r"[\w'-]+")


class LemmaTagger:
    """Nouns, adjectives and determiners by a list of lemmas; plural s is removed.

    Args:
        lemmas: lower-case nouns and adjectives.
    """

    def __init__(self, lemmas: Collection[str]) -> None:
        self.lemmas = frozenset(lemmas)

    def __call__(self, words: Sequence[str]) -> list[bool]:
        """Whether each word belongs to a key phrase.

        >>> LemmaTagger(["dog", "red"])(["the", "red", "dogs", "run", "to", "it"])
        [True, True, True, False, False, False]
        """
        return [self._key(word.lower()) for word in words]

    def _key(self, word: str) -> bool:
        if word in DETERMINERS:
            return True
        return word not in FUNCTION_WORDS and (
            word in self.lemmas or word.removesuffix("s") in self.lemmas
        )


@lru_cache(1)
def wordnet_tagger(root: str | None = None) -> LemmaTagger:
    """The tagger of the bundled WordNet subset."""
    rows = read_jsonl(bundled("wordnet/synsets.jsonl.gz", root), ("pos", "lemmas"))
    return LemmaTagger(
        {lemma.lower() for row in rows if row["pos"] in "nas" for lemma in row["lemmas"]}
    )


def key_phrase_spans(caption: str, tagger: Tagger) -> list[tuple[int, int]]:
    """Places of the key phrases in a caption; a run of determiners alone is none.

    Words belong to one run where nothing but white space is between them.
    """
    matches = list(_WORD.finditer(caption))
    flags = tagger([match[0] for match in matches])
    spans: list[tuple[int, int]] = []
    words: list[list[str]] = []
    for match, flag in zip(matches, flags, strict=True):
        if not flag:
            continue
        if (
            spans
            and not caption[spans[-1][1] : match.start()].strip()
            and _touch(spans[-1][1], match.start(), caption)
        ):
            spans[-1] = (spans[-1][0], match.end())
            words[-1].append(match[0])
        else:
            spans.append((match.start(), match.end()))
            words.append([match[0]])
    return [
        s
        for s, run in zip(spans, words, strict=True)
        if not {w.lower() for w in run} <= DETERMINERS
    ]


def _touch(end: int, start: int, caption: str) -> bool:
    return end < start and caption[end:start].isspace()


def hide_key_phrases(caption: str, tagger: Tagger) -> str | None:
    """The caption with every key phrase replaced by the placeholder; None if it has no key phrase.

    >>> hide_key_phrases("a red dog runs to the tree", LemmaTagger(["dog", "red", "tree"]))
    '$ runs to $'
    """
    spans = key_phrase_spans(caption, tagger)
    if not spans:
        return None
    text, last = "", 0
    for start, end in spans:
        text += caption[last:start] + PLACEHOLDER
        last = end
    return text + caption[last:]
