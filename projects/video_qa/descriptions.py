"""Descriptions of one's own clip for `TASK=answer`, read and checked."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from common.config import UserError
from common.damage import reading
from projects.video_qa.clips.clips import Clip, ordered, read_subtitles, sentences_of

FORM = (
    '{"frames": "frames/", "fps": 3, "subtitles": "clip.srt", "questions": [{"question": "...",'
    ' "candidates": ["...", "..."]}]}'
)
KEYS = ("frames", "fps", "objects", "subtitles", "questions")


class Description(NamedTuple):
    """A clip and what is asked about it.

    Attributes:
        clip: its subtitles and labels of objects.
        frames: folder of pictures; None: nothing is seen.
        fps: pictures a second; None: as the model was trained.
        questions: (question, candidates), of each.
    """

    clip: Clip
    frames: Path | None
    fps: float | None
    questions: list[tuple[str, list[str]]]


def read_description(name: str | None) -> Description:
    """A JSON file of a clip; paths in it are relative to it.

    ``subtitles`` is an .srt or .json file or a list of {start, end, text}; ``frames`` a folder of
    pictures, ``fps`` how many of them are shown a second, ``objects`` a list of labels for each of
    them.

    Raises:
        UserError: none, or one of another form; says which part.
    """
    if name is None:
        raise UserError(f"set answer.clip, a JSON file such as {FORM}")
    place = Path(name).expanduser()
    if not place.is_file():
        raise UserError(
            f"the clip description {place} does not exist: write a JSON file such as {FORM}"
        )
    with reading(place, "description of a clip"):
        description = json.loads(place.read_text(encoding="utf-8-sig"))
    if not isinstance(description, dict) or not description.get("questions"):
        raise UserError(f"{place} has no questions: write a JSON file such as {FORM}")
    unknown = [key for key in description if key not in KEYS]
    _ask(not unknown, place, f"has '{''.join(unknown[:1])}', which is none of {', '.join(KEYS)}")
    subtitles, frames = description.get("subtitles", []), description.get("frames")
    _ask(frames is None or isinstance(frames, str), place, "needs a folder of pictures as 'frames'")
    with reading(place, "description of a clip"):
        said = (
            read_subtitles(place.parent / subtitles)
            if isinstance(subtitles, str)
            else ordered(sentences_of(subtitles))
        )
    clip = Clip("clip", said, objects=_objects(description.get("objects", []), place))
    folder = place.parent / frames if frames else None
    return Description(
        clip,
        folder,
        _fps(description.get("fps"), place),
        _questions(description["questions"], place),
    )


def _questions(rows: Any, place: Path) -> list[tuple[str, list[str]]]:
    _ask(isinstance(rows, list), place, "needs a list as 'questions'")
    questions = []
    for number, row in enumerate(rows, start=1):
        text = row.get("question") if isinstance(row, Mapping) else None
        _ask(
            isinstance(text, str),
            place,
            f"needs a 'question' and 'candidates' in question {number}",
        )
        answers = row.get("candidates")
        fits = _is_texts(answers) and len(answers) > 1
        _ask(fits, place, f"needs a list of two or more texts as 'candidates' of question {number}")
        questions.append((str(text), list(answers)))
    return questions


def _objects(value: Any, place: Path) -> tuple[tuple[str, ...], ...]:
    fits = isinstance(value, list) and all(_is_texts(labels) for labels in value)
    _ask(fits, place, "needs a list of labels for each frame as 'objects', such as [[\"cup\"], []]")
    return tuple(tuple(labels) for labels in value)


def _fps(value: Any, place: Path) -> float | None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    _ask(
        value is None or (number and 0 < value < math.inf), place, "needs a number above 0 as 'fps'"
    )
    return None if value is None else float(value)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _ask(holds: bool, place: Path, what: str) -> None:
    if not holds:
        raise UserError(f"{place} {what}: write a JSON file such as {FORM}")
