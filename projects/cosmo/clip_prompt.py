"""What a language model is told of a clip, within the length that it reads."""

from collections.abc import Callable, Mapping
from typing import Any

from common.config import UserError

INPUTS = ("frames", "regions", "asr", "tags")  # of a clip, from the user's own tools


def clip_prompt(clip: Mapping[str, Any], previous: str) -> str:
    """What a language model is told of a clip, and what it is asked.

    >>> print(clip_prompt({"clip": "0:00:00 - 0:00:05", "asr": "now cut it"}, "He washes it."))
    Describe what happens in a part of a video in one sentence.
    Time: 0:00:00 - 0:00:05
    Speech: now cut it
    Before: He washes it.
    Sentence:
    """
    named = {
        "clip": "Time",
        "frames": "Frames",
        "regions": "Regions",
        "tags": "Tags",
        "asr": "Speech",
    }
    lines = ["Describe what happens in a part of a video in one sentence."]
    for key, name in named.items():
        value = clip.get(key)
        if value:
            lines.append(
                f"{name}: {value if isinstance(value, str) else '; '.join(map(str, value))}"
            )
    if previous:
        lines.append(f"Before: {previous}")
    return "\n".join([*lines, "Sentence:"])


def fitted(clip: Mapping[str, Any], previous: str, fits: Callable[[str], bool]) -> tuple[str, bool]:
    """The prompt of a clip with so much of its inputs as fits.

    The sentence before and the question always stay.

    Args:
        clip: time and inputs.
        previous: the caption before.
        fits: whether a text is short enough.

    Returns:
        The prompt, and whether an input was shortened.

    Raises:
        UserError: it does not fit even without inputs.

    >>> clip = {"clip": "0:00:00 - 0:00:05", "asr": "one two three four"}
    >>> fitted(clip, "", lambda text: len(text.split()) < 22)[0].splitlines()[2]
    'Speech: one two three'
    """
    left = dict(clip)
    while not fits(prompt := clip_prompt(left, previous)):
        longest = max(INPUTS, key=lambda name: len(str(left.get(name) or "")))
        value = left.get(longest)
        if not value:
            raise UserError(
                "the prompt of a clip is too long for video.model even without frames, regions,"
                " tags and speech: lower video.max_new_tokens or take another model"
            )
        parts = value.split() if isinstance(value, str) else list(value)
        kept = parts[: len(parts) * 7 // 8]
        left[longest] = " ".join(kept) if isinstance(value, str) else kept
    return prompt, left != dict(clip)
