"""What is done to titles and skills before they are embedded, the same in training and after it."""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence

from projects.vacancysbert.normalisation import title_key
from projects.vacancysbert.phrases import without_phrases

_REMOVED = re.compile(
    r"https?://\S+|www\.\S+"
    r"|\((?:[mfwdx]\s*/\s*)+[mfwdx]\)"  # (m/f/d)
    r"|[$€£]\s?\d[\d.,]*\s*k?(?:\s*(?:-|to)\s*[$€£]?\s?\d[\d.,]*\s*k?)?"
    r"(?:\s*(?:per|an?|/)\s*(?:hour|hr|day|week|month|year|annum))?"
    r"|\b(?:job|ref|req|vacancy)?\s*(?:id|no|ref|nr)?\s*[:#]\s*[a-z]*-?\d[\w-]*"
    r"|\b(?:ref|req|id)\s+\d[\w-]*"
    r"|#\s?[a-z]*-?\d[\w-]*"
    r"|\((?:remote|hybrid|on-?site|full[- ]time|part[- ]time)\)",
    re.I,
)
_PLACE = re.compile(r"\s[-|]\s*(?:[A-Z][\w.]*\s?)+,\s*[A-Z]{2}(?=\s|$)")  # "- San Jose, CA"


def clean_title(title: str) -> str:
    """A title without links, gender markers, salaries, ids, places ("- City, XX") and emoji.

    What would leave nothing is returned as it was. Cleaning again changes nothing.

    >>> clean_title("Java Developer (m/f/d) - San Jose, CA #4711 $90k-$110k per year")
    'Java Developer'
    """
    text = _cleaned_once(title)
    while (again := _cleaned_once(text)) != text:  # a place may stand before what hid its end
        text = again
    return text


def _cleaned_once(title: str) -> str:
    text = _REMOVED.sub(" ", _PLACE.sub(" ", title))
    text = "".join(c for c in text if unicodedata.category(c) not in ("So", "Cn", "Cs", "Cf"))
    text = " ".join(text.replace("\ufe0f", "").split()).strip(" -|,;:/()")
    return text or " ".join(title.split())


def skill_text(skills: Iterable[str]) -> str:
    """Skills joined with ", " in the given order."""
    return ", ".join(skills)


def without_title(skills: Sequence[str], titles: Sequence[str]) -> tuple[str, ...]:
    """Skills without the words of the titles where these stand together; empty ones go.

    A title in the skills would give the answer away. Only the whole title is removed: its single
    words are what skills are about.

    Args:
        skills: of an advert.
        titles: of the advert, and the standard one where it is known to stand in the description.

    >>> without_title(["manage a web shop", "web shop managers", "Web shop manager duties"],
    ...               ["web shop manager"])
    ('manage a web shop', 'duties')
    """
    kept: dict[str, None] = {}
    for skill in skills:
        left = without_phrases(skill, titles).strip(" -,;:")
        if left:
            kept[left] = None
    return tuple(kept)


def text_hash(text: str) -> int:
    """A text as an integer in [0, 2**62), equal in every process."""
    digest = hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 2


def title_hash(title: str) -> int:
    """Equal for titles that differ in case and spaces only."""
    return text_hash(title_key(title))


def skills_hash(skills: Iterable[str]) -> int:
    """Equal for equal sets of skills in any order."""
    return text_hash("\n".join(sorted({title_key(skill) for skill in skills})))
