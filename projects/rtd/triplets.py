"""Text triplets (reference caption, condition, target caption): files, cleaning, rules."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from common.config import UserError
from common.damage import reading
from common.data.samplers import Rng
from common.data.tables import text_of
from common.files import write_text
from projects.rtd.key_phrases import Tagger, key_phrase_spans
from projects.rtd.pseudo_tokens import without_placeholder

MAX_WORDS = 75  # tokens of a caption at most, start and end left out; a word has one or more
# A is what the reference shows, B what is asked for
SWAPS = (
    "replace {A} with {B}",
    "turn {A} into {B}",
    "{B} instead of {A}",
    "change {A} to {B}",
    "swap {A} for {B}",
    "has {B} in place of {A}",
)
COLUMNS = ("reference_caption", "conditioning_caption", "target_caption")


class Triplet(NamedTuple):
    """One row of training data."""

    reference: str  # T_r
    condition: str  # T_c
    target: str  # T_t


def clean(caption: str) -> str:
    """As the release cleans captions: persons named, lower case, no placeholder, at most 75 words.

    >>> clean("<PERSON> pays $5")
    'person pays 5'
    """
    text = without_placeholder(caption.replace("<PERSON>", "person")).lower()
    return " ".join(text.split()[:MAX_WORDS])


def read_triplets(path: Path) -> list[Triplet]:
    """A JSON list, or JSON lines, with the columns of the released ``LLM_triplets.json``.

    Raises:
        UserError: no file, no JSON, a record without one of the columns, or no record.
    """
    if not path.is_file():
        raise UserError(
            f"{path} does not exist: give data.triplets a JSON list of records with"
            f" {', '.join(COLUMNS)} (make run TASK=triplets writes one)"
        )
    with reading(path, "triplets in UTF-8"):
        text = path.read_text(encoding="utf-8-sig")
    try:
        rows = (
            json.loads(text)
            if text.lstrip().startswith("[")
            else [json.loads(line) for line in text.split("\n") if line.strip()]
        )
        triplets = [Triplet(*(clean(text_of(row[name])) for name in COLUMNS)) for row in rows]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: needs records with {', '.join(COLUMNS)}; {error!r}") from error
    if not triplets:
        raise UserError(f"{path} has no triplet")
    return triplets


def write_triplets(path: Path, triplets: Sequence[Triplet]) -> None:
    """Write the format that `read_triplets` reads."""
    rows = [dict(zip(COLUMNS, triplet, strict=True)) for triplet in triplets]
    write_text(path, json.dumps(rows, ensure_ascii=False, indent=0) + "\n")


def key_phrases(captions: Sequence[str], tagger: Tagger) -> list[str]:
    """Distinct key phrases of captions, sorted."""
    places = zip(captions, key_phrase_spans(captions, tagger), strict=True)
    phrases = {caption[a:b] for caption, spans in places for a, b in spans}
    return sorted(phrases)


def rule_triplet(caption: str, phrases: Sequence[str], tagger: Tagger, rng: Rng) -> Triplet | None:
    """Swap one key phrase of a caption for another of a list; None if it has no key phrase.

    Source: arXiv 2406.09188, rule-based triplets (keywords and templates instead of an LLM).

    Args:
        caption: T_r.
        phrases: what is swapped in.
        tagger: finds the key phrases.
        rng: chooses place, phrase and template.

    >>> import numpy as np
    >>> from projects.rtd.key_phrases import LemmaTagger
    >>> tagger = LemmaTagger(["dog", "cat"])
    >>> rule_triplet("a dog runs", ["a cat"], tagger, np.random.default_rng(0)).target
    'a cat runs'
    """
    (spans,) = key_phrase_spans([caption], tagger)
    if not spans or not phrases:
        return None
    start, end = spans[rng.integers(len(spans))]
    old, new = caption[start:end], phrases[int(rng.integers(len(phrases)))]
    if new.lower() == old.lower():
        return None
    template = SWAPS[rng.integers(len(SWAPS))]
    return Triplet(caption, template.format(A=old, B=new), caption[:start] + new + caption[end:])


def same_text(first: str, second: str) -> bool:
    """Whether two captions are equal up to case, white space and final punctuation."""
    plain = [re.sub(r"[\s.!?]+$", "", " ".join(t.split()).lower()) for t in (first, second)]
    return plain[0] == plain[1]
