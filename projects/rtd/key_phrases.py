"""Key phrases of captions, which LinCIR hides: runs of nouns, adjectives and determiners."""

import re
from collections.abc import Collection, Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from common.config import UserError
from common.data.lookup import bundled
from common.data.tables import read_jsonl
from common.data.text.stop_words import FUNCTION_WORDS
from projects.rtd.pseudo_tokens import PLACEHOLDER

Span = tuple[int, int]  # first character, and one beyond the last
LEMMAS = "lemmas"  # data.tagger: the bundled list in place of a pipeline of spaCy
DETERMINERS = frozenset(
    ["a", "an", "the", "this", "that", "these", "those", "some", "any", "each", "every", "no"]
)
_WORD = re.compile(r"[\w'-]+")
_BATCH = 1000  # captions that a pipeline reads at a time


class Tagger(Protocol):
    """Finds the words that key phrases are made of."""

    def __call__(self, captions: Sequence[str]) -> list[list[Span]]:
        """Places of the nouns, adjectives and determiners of each caption, in order."""


class SpacyTagger:
    """Nouns, proper nouns, adjectives and determiners by a pipeline of spaCy, as released.

    Source: Gu et al. 2024, "LinCIR", release (`loader.py`, en_core_web_sm), arXiv 2312.01998.

    Args:
        pipeline: name of an installed package such as "en_core_web_sm", or a folder.

    Raises:
        UserError: spaCy or the pipeline is not there, or it does not tag.
    """

    PARTS = frozenset(["NOUN", "PROPN", "ADJ", "DET"])
    NEEDLESS = ("ner", "lemmatizer")  # parts of speech do not depend on them

    def __init__(self, pipeline: str) -> None:
        if missing := absent(pipeline):
            raise UserError(missing)
        import spacy

        self.pipeline: Any = spacy.load(pipeline, exclude=self.NEEDLESS)

    def __call__(self, captions: Sequence[str]) -> list[list[Span]]:
        """See `Tagger`."""
        spans = []
        for doc in self.pipeline.pipe(captions, batch_size=_BATCH):
            if len(doc) and not doc.has_annotation("POS"):
                raise UserError("data.tagger: this pipeline of spaCy reports no parts of speech")
            spans.append([(t.idx, t.idx + len(t)) for t in doc if t.pos_ in self.PARTS])
        return spans


@lru_cache(1)
def spacy_tagger(pipeline: str) -> SpacyTagger:
    """The tagger of a pipeline, loaded once."""
    return SpacyTagger(pipeline)


def absent(pipeline: str) -> str | None:
    """What is missing of a pipeline of spaCy; None if it is there."""
    if find_spec("spacy") is None:
        return f"data.tagger={pipeline} needs spaCy: pip install spacy, or set data.tagger={LEMMAS}"
    if not Path(pipeline).is_dir() and (not pipeline.isidentifier() or find_spec(pipeline) is None):
        return (
            f"data.tagger={pipeline} is no folder and no installed pipeline of spaCy: install one,"
            f" such as en_core_web_sm, or set data.tagger={LEMMAS}"
        )
    return None


class LemmaTagger:
    """Nouns, adjectives and determiners by a list of lemmas; plural s is removed.

    Args:
        lemmas: lower-case nouns and adjectives.
    """

    def __init__(self, lemmas: Collection[str]) -> None:
        self.lemmas = frozenset(lemmas)

    def __call__(self, captions: Sequence[str]) -> list[list[Span]]:
        """See `Tagger`.

        >>> LemmaTagger(["dog", "red"])(["the red dogs run to it"])
        [[(0, 3), (4, 7), (8, 12)]]
        """
        return [
            [match.span() for match in _WORD.finditer(caption) if self._key(match[0].lower())]
            for caption in captions
        ]

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


def key_phrase_spans(captions: Sequence[str], tagger: Tagger) -> list[list[Span]]:
    """Places of the key phrases of each caption; a run of determiners alone is none.

    Words belong to one run where nothing but white space is between them.
    """
    return [
        _runs(caption, words) for caption, words in zip(captions, tagger(captions), strict=True)
    ]


def _runs(caption: str, words: Sequence[Span]) -> list[Span]:
    runs: list[list[Span]] = []
    for word in words:
        if runs and not caption[runs[-1][-1][1] : word[0]].strip():
            runs[-1].append(word)
        else:
            runs.append([word])
    return [
        (run[0][0], run[-1][1])
        for run in runs
        if any(caption[start:end].lower() not in DETERMINERS for start, end in run)
    ]


def hide_key_phrases(captions: Sequence[str], tagger: Tagger) -> list[str | None]:
    """Captions with every key phrase replaced by the placeholder; None without a key phrase.

    >>> hide_key_phrases(["a red dog runs to the tree"], LemmaTagger(["dog", "red", "tree"]))
    ['$ runs to $']
    """
    return [
        _hidden(caption, spans) if spans else None
        for caption, spans in zip(captions, key_phrase_spans(captions, tagger), strict=True)
    ]


def _hidden(caption: str, spans: Sequence[Span]) -> str:
    text, last = "", 0
    for start, end in spans:
        text += caption[last:start] + PLACEHOLDER
        last = end
    return text + caption[last:]
