"""Clips, their subtitles and questions about them.

Which frames and sentences a span of time covers.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.config import UserError
from common.damage import reading

Span = tuple[float, float]  # start and end in seconds
_CLOCK = re.compile(r"(?:(\d+):)?(\d{1,2}):(\d{1,2})[,.](\d{1,3})")


class Sentence(NamedTuple):
    """A subtitle: when it is said, in seconds from the beginning of the clip, and what."""

    start: float
    end: float
    text: str


class Clip(NamedTuple):
    """A clip without its frames.

    Attributes:
        name: unique in its set.
        sentences: subtitles, in the order of their starts.
        show: series that it belongs to.
        objects: labels of what is seen in each frame; empty where nobody looked.
    """

    name: str
    sentences: tuple[Sentence, ...]
    show: str = ""
    objects: tuple[tuple[str, ...], ...] = ()


class Question(NamedTuple):
    """A multiple-choice question.

    Attributes:
        qid: unique in its set.
        clip: name of its clip.
        text: the question.
        candidates: A answers.
        answer: index of the right one; None where the set keeps it back.
        span: part of the clip that answers it; None where nobody marked it.
        level: of difficulty, where a set has it.
        kind: type, where a set has it.
    """

    qid: str
    clip: str
    text: str
    candidates: tuple[str, ...]
    answer: int | None = None
    span: Span | None = None
    level: int | None = None
    kind: str = ""


def read_span(value: Any) -> Span | None:
    """A span as TVQA ("76.01-84.2") or TVQA+ ([76.01, 84.2]) writes it.

    None if a bound is NaN or absent.

    >>> read_span("76.01-84.2"), read_span("NaN-NaN"), read_span([1, 2.5])
    ((76.01, 84.2), None, (1.0, 2.5))
    """
    parts = value.split("-") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or len(parts) != 2:
        return None
    try:
        start, end = (float(part) for part in parts)
    except (TypeError, ValueError):
        return None
    return (start, end) if math.isfinite(start) and math.isfinite(end) and start <= end else None


def frame_times(count: int, fps: float) -> np.ndarray:
    """Seconds (count,) at which frames are shown: frame i at i / fps."""
    return np.arange(count) / fps


def frame_at(time: float, times: np.ndarray) -> int:
    """Index of the frame that is on the screen: floor(fps * time), within the clip.

    >>> frame_at(1.5, frame_times(9, 3)), frame_at(99, frame_times(9, 3))
    (4, 8)
    """
    return int(np.clip(np.searchsorted(times, time + 1e-9, "right") - 1, 0, len(times) - 1))


def frames_of_sentences(sentences: Sequence[Sentence], times: np.ndarray) -> np.ndarray:
    """Which frames belong to which sentences: those inside its span.

    If there is none, the one on the screen.

    A frame belongs to every sentence whose span covers it, and may belong to none.

    Args:
        sentences: N of them.
        times: (F,) seconds, increasing.

    Returns:
        (N, F) bool; all False where the clip has no frames.

    >>> said = [Sentence(0, 1, "a"), Sentence(1.1, 1.2, "b")]
    >>> frames_of_sentences(said, frame_times(6, 3)).astype(int).tolist()
    [[1, 1, 1, 1, 0, 0], [0, 0, 0, 1, 0, 0]]
    """
    shown = np.zeros((len(sentences), len(times)), dtype=bool)
    for row, sentence in zip(shown, sentences, strict=True):
        row |= (times >= sentence.start - 1e-9) & (times <= sentence.end + 1e-9)
        if len(times) and not row.any():
            row[frame_at((sentence.start + sentence.end) / 2, times)] = True
    return shown


def sentences_in_span(sentences: Sequence[Sentence], span: Span | None) -> tuple[int, int] | None:
    """First and last sentence that overlap a span; None without a span or without such a sentence.

    >>> said = [Sentence(0, 1, "a"), Sentence(1, 2, "b"), Sentence(3, 4, "c")]
    >>> sentences_in_span(said, (1.5, 3.2)), sentences_in_span(said, (2.2, 2.8))
    ((1, 2), None)
    """
    if span is None:
        return None
    inside = [i for i, s in enumerate(sentences) if s.start < span[1] and s.end > span[0]]
    return (inside[0], inside[-1]) if inside else None


def sentences_shown(sentences: Sequence[Sentence], span: Span) -> Sequence[Sentence]:
    """Those that overlap a span; else the three that start nearest to its start (TVQA's rule).

    >>> said = [Sentence(float(k), k + 0.5, str(k)) for k in range(9)]
    >>> [[s.text for s in sentences_shown(said, span)] for span in ((1.2, 3.2), (4.6, 4.9))]
    [['1', '2', '3'], ['4', '5', '6']]
    """
    kept = sentences_in_span(sentences, span)
    if kept is None:
        near = min(
            range(len(sentences)), key=lambda i: abs(sentences[i].start - span[0]), default=0
        )
        kept = max(0, near - 1), near + 1
    return sentences[kept[0] : kept[1] + 1]


def objects_of_sentence(clip: Clip, frames: np.ndarray, most: int) -> tuple[str, ...]:
    """Distinct labels of the frames of a sentence, the most frequent ones first.

    Args:
        clip: with `objects`, or without: then there are no labels.
        frames: (F,) bool, a row of `frames_of_sentences`.
        most: labels at most.
    """
    counts: dict[str, int] = {}
    for labels, inside in zip(clip.objects, frames, strict=False):
        for label in labels if inside else ():
            counts[label] = counts.get(label, 0) + 1
    return tuple(sorted(counts, key=lambda label: -counts[label])[:most])


# -- subtitles -----------------------------------------------------------------------------------


def read_subtitles(path: Path) -> tuple[Sentence, ...]:
    """Subtitles of one clip: SubRip (``.srt``), or JSON as a list of {start, end, text} in seconds.

    Raises:
        UserError: no such file, or one of another form.
    """
    if not path.is_file():
        raise UserError(f"the subtitles {path} do not exist: give an .srt or a .json file")
    with reading(path, "file of subtitles"):
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".srt":
            return ordered(parse_srt(text))
        return ordered(sentences_of(json.loads(text)))


def parse_srt(text: str) -> list[Sentence]:
    r"""Sentences of a SubRip file, none of an empty one; marks such as <i> are left out.

    Blank lines inside a sentence do not end it: a block that has neither number nor times continues
    the one before.

    Raises:
        ValueError: a block without its two times.

    >>> parse_srt("1\n00:00:01,500 --> 00:00:03,000\n<i>Hello</i>\nthere.\n")
    [Sentence(start=1.5, end=3.0, text='Hello there.')]
    """
    entries: list[tuple[float, float, list[str]]] = []
    for block in re.split(r"\n\s*\n", text.replace("\r\n", "\n").strip()):
        lines = [line.strip() for line in block.splitlines() if line.strip()]
        place = next((i for i, line in enumerate(lines) if "-->" in line), None)
        if place is None and (not lines or (entries and not lines[0].isdecimal())):
            if lines:
                entries[-1][2].extend(lines)
            continue
        clocks = [] if place is None else _CLOCK.findall(lines[place])
        if place is None or len(clocks) != 2:
            raise ValueError(f"no line '00:00:01,500 --> 00:00:03,000' in the block {block[:40]!r}")
        start, end = (_seconds(clock) for clock in clocks)
        entries.append((start, end, lines[place + 1 :]))
    said = [(s, e, re.sub(r"<[^>]*>", "", " ".join(lines)).strip()) for s, e, lines in entries]
    return [Sentence(*one) for one in said if one[2]]


def sentences_of(rows: Any) -> list[Sentence]:
    """Sentences of a list of {start, end, text}.

    Raises:
        ValueError: something else.
    """
    if not isinstance(rows, list) or not all(
        isinstance(row, Mapping)
        and {"start", "end", "text"} <= row.keys()
        and _is_number(row["start"])
        and _is_number(row["end"])
        and isinstance(row["text"], str)
        for row in rows
    ):
        raise ValueError("expected a list of {start, end, text}, times in seconds")
    return [Sentence(float(row["start"]), float(row["end"]), row["text"]) for row in rows]


def ordered(sentences: Sequence[Sentence]) -> tuple[Sentence, ...]:
    """Sentences by their starts.

    Raises:
        ValueError: one that ends before it starts.
    """
    for sentence in sentences:
        if not sentence.start <= sentence.end:
            raise ValueError(f"a sentence from {sentence.start} to {sentence.end} seconds")
    return tuple(sorted(sentences, key=lambda s: (s.start, s.end)))


def within(
    sentences: Sequence[Sentence], duration: float | None, most: int
) -> tuple[Sentence, ...]:
    """Sentences that begin inside a clip, the first `most` of them.

    Args:
        sentences: in order.
        duration: of the clip in seconds; None: unknown.
        most: N at most.
    """
    inside = [s for s in sentences if s.end >= 0 and (duration is None or s.start < duration)]
    return tuple(inside[:most])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | str) and not isinstance(value, bool)


def _seconds(clock: tuple[str, str, str, str]) -> float:
    hours, minutes, seconds, part = clock
    return (
        3600 * int(hours or 0) + 60 * int(minutes) + int(seconds) + int(part.ljust(3, "0")) / 1000
    )
