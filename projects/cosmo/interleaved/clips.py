"""Clips of videos, ``{"clips": [{"clip": "0:00:00 - 0:00:05", "caption": "..."}]}``.

The list may be a JSON string, as in the files of Howto-Interlink7M.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

from common.data.samplers import Rng

_CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d+(?:\.\d+)?)")
REPAIRED = 2.0  # seconds of a clip whose start is after its end


def adjacent_clips(stored: str | Sequence[Any], most: int, rng: Rng) -> list[Any]:
    """2 to `most` clips of a video that follow one another.

    If it has fewer, the last one is repeated.

    Source: the COSMO release (showlab/cosmo), which reads tar shards so.

    Args:
        stored: clips, or a JSON string of them.
        most: largest number.
        rng: of this access.

    Raises:
        TypeError, ValueError: no list, or an empty one.

    >>> import numpy as np
    >>> adjacent_clips('["a", "b"]', 2, np.random.default_rng(0))
    ['a', 'b']
    """
    clips = list(json.loads(stored) if isinstance(stored, str) else stored)
    if not clips:
        raise ValueError("a video without clips")
    count = int(rng.integers(2, most + 1))
    clips += clips[-1:] * (count - len(clips))
    start = int(rng.integers(len(clips) - count + 1))
    return clips[start : start + count]


def clip_seconds(clip: str, speed: float = 1.0, *, repair: bool = False) -> tuple[float, float]:
    """Start and end of a clip such as ``0:00:05 - 0:00:10`` in seconds of the stored video.

    Args:
        clip: in seconds of the event.
        speed: of the video.
        repair: read clips that do not end after their start as the COSMO release does: one that
            ends before it is the two seconds before its end (from 0 to two seconds after its end
            where that is before 0), one without length a moment.

    Raises:
        ValueError: another form, or an end that is not after the start.

    >>> clip_seconds("0:01:00 - 0:01:05", speed=5)
    (12.0, 13.0)
    >>> clip_seconds("0:01:10 - 0:01:05", speed=5, repair=True)
    (12.6, 13.0)
    """
    clocks = [_CLOCK.fullmatch(part.strip()) for part in clip.split(" - ")]
    if len(clocks) != 2 or None in clocks:
        raise ValueError(f"a clip is written 0:00:00 - 0:00:05, got {clip!r}")
    start, end = (int(m[1] or 0) * 3600 + int(m[2]) * 60 + float(m[3]) for m in clocks if m)
    if end <= start and not repair:
        raise ValueError(f"clip {clip!r} ends before it begins")
    if end < start:
        start = end - REPAIRED
        if start < 0:
            start, end = 0.0, end + REPAIRED
    return start / speed, end / speed


def clip_text(start: float, end: float) -> str:
    """The written form of a clip, in whole seconds.

    >>> clip_text(0, 65)
    '0:00:00 - 0:01:05'
    """

    def clock(seconds: float) -> str:
        whole = round(seconds)
        return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"

    return f"{clock(start)} - {clock(end)}"
