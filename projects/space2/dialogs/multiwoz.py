"""MultiWOZ 2.1 in its own layout, with states and acts of both sides, as TripPy reads it.

Source: Heck et al. 2020, "TripPy", released `dataset_multiwoz21.py`, arXiv 2005.02877.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.config import UserError
from projects.space2.dialogs.converters import from_acts
from projects.space2.dialogs.trees import Frame
from projects.space2.dialogs.turns import Corpus, Dialog, Turn

ACTS_FILE = "dialogue_acts.json"  # alongside the dialogues; without it, acts of the log
UNKNOWN = "[UNK]"  # in place of each piece of a value that is taken out of an answer

_TRACKED = {
    "taxi": ("leaveAt", "destination", "departure", "arriveBy"),
    "restaurant": ("book_people", "book_day", "book_time", "food", "pricerange", "name", "area"),
    "hotel": (
        "book_people",
        "book_day",
        "book_stay",
        "name",
        "area",
        "parking",
        "pricerange",
        "stars",
        "internet",
        "type",
    ),
    "attraction": ("type", "name", "area"),
    "train": ("book_people", "leaveAt", "destination", "day", "arriveBy", "departure"),
}
SLOTS = tuple(f"{domain}-{slot}" for domain, slots in _TRACKED.items() for slot in slots)
"""The 30 slots of a state that is scored; the metadata has more (hospital, police, bus)."""

TELLING = ("inform", "recommend", "select", "book")
"""Acts by which the system tells a value that the user may take over."""

_WRITTEN = {"depart": "departure", "dest": "destination", "leave": "leaveAt", "arrive": "arriveBy"}
_BOOKED = {
    "restaurant": ("people", "day", "time"),
    "hotel": ("people", "day", "stay"),
    "train": ("people",),
    "booking": ("people", "day", "stay", "time"),
}
_ABSENT = ("", "none", "not mentioned", "not given")
_WHATEVER = ("dontcare", "don't care", "dont care", "do not care", "do n't care")


def multiwoz(path: Path, delexicalize: bool = False) -> Corpus:
    """Dialogues with trees: a user's acts and changed values, or a system's stated values.

        {id: {"log": [{"text",
                       "metadata": {domain: {"semi": {slot: value},
                                             "book": {"booked": [...], slot: value}}},
                       "dialog_act": {"Domain-Act": [[slot, value], ...]}}]}}

    The state after a user's turn stands in the metadata of the answer. Acts of the answers are
    those of `ACTS_FILE` ({id without .json: {"1": acts of the first answer, ...}}) where it lies
    alongside. Only "not mentioned" and the ways to write "dontcare" are normalised; TripPy also
    corrects some hundred spellings.

    Args:
        path: of the dialogues.
        delexicalize: put `UNKNOWN` in place of the tracked values that an answer tells.

    Raises:
        UserError: a file of another layout.
    """
    content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    beside = path.parent / ACTS_FILE
    acts = json.loads(beside.read_text("utf-8")) if beside.is_file() else None
    dialogs = []
    try:
        for name, dialog in content.items():
            dialog_acts = None if acts is None else acts.get(name.removesuffix(".json"), {})
            dialogs.append(Dialog(name, tuple(_turns(dialog["log"], dialog_acts, delexicalize))))
    except (AttributeError, TypeError, IndexError) as error:
        raise UserError(
            f"{path} is not in the layout of MultiWOZ 2.1 ({error}): see TASK=convert"
        ) from error
    return Corpus("multiwoz", tuple(dialogs))


def _turns(
    log: Sequence[dict[str, Any]], acts: Mapping[str, Any] | None, delexicalize: bool
) -> Iterator[Turn]:
    state: dict[str, dict[str, str]] = {}
    for t, entry in enumerate(log):
        text = str(entry["text"])
        if t % 2 == 0:
            new = belief(log[t + 1].get("metadata") or {}) if t + 1 < len(log) else state
            changed = [
                (d, "inform", s)
                for d, slots in new.items()
                for s, v in slots.items()
                if state.get(d, {}).get(s) != v
            ]
            said = [(domain, act, slot) for domain, act, slot, _ in _acts(entry.get("dialog_act"))]
            state = new
            yield Turn(True, text, from_acts([*said, *changed], new))
        else:
            slots = entry.get("dialog_act") if acts is None else acts.get(str((t + 1) // 2))
            frame = _answer(slots)
            if delexicalize:
                text = delexicalized(text, told_values(frame, SLOTS, booking=False).values())
            yield Turn(False, text, frame)


def belief(metadata: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """State {domain: {slot: value}}; slots of a booking begin with ``book_``.

    What was booked in fact stands for what was asked for.

    >>> belief({"hotel": {"semi": {"area": "north"}, "book": {"people": "2", "booked": [{"people": "3"}]}}})
    {'hotel': {'area': 'north', 'book_people': '3'}}
    """
    state: dict[str, dict[str, str]] = {}
    for domain, parts in metadata.items():
        book = parts.get("book", {})
        booked = (book.get("booked") or [{}])[0]
        for prefix, slots in (("", parts.get("semi", {})), ("book_", book)):
            for slot, asked in slots.items():
                value = booked.get(slot, asked)
                text = value.lower().strip() if isinstance(value, str) else ""
                if text not in _ABSENT:
                    filled = "dontcare" if text in _WHATEVER else text
                    state.setdefault(domain, {})[prefix + slot] = filled
    return state


def told_values(
    frame: Frame, slots: Sequence[str] | None = None, *, booking: bool = True
) -> dict[str, str]:
    """{domain-slot: value} that an answer tells: of several values the first.

    Args:
        frame: tree of the answer.
        slots: those that are tracked; None: all.
        booking: a booking names no domain, so its values count for every tracked domain that was
            not told one itself.

    >>> hotel = {"booking": {"book": {"book_day": [{"value": "monday"}, {"value": "friday"}]}}}
    >>> told_values(hotel, ["hotel-book_day", "train-day"])
    {'hotel-book_day': 'monday'}
    """
    values_of: dict[str, str] = {}
    for domain, acts in frame.items():
        for act, act_slots in acts.items():
            for slot, values in act_slots.items():
                if values and act.lower() in TELLING:
                    values_of.setdefault(f"{domain}-{slot}", str(values[0]["value"]))
    if slots is None:
        return values_of
    others = {s: values_of.get(f"booking-{s.split('-')[1]}") for s in slots} if booking else {}
    values_by_slot = {s: values_of.get(s) or others.get(s) for s in slots}
    return {slot: value for slot, value in values_by_slot.items() if value is not None}


def delexicalized(text: str, values: Iterable[str]) -> str:
    """A text with `UNKNOWN` in place of every word or mark of some values.

    >>> delexicalized("It leaves at 10:15.", ["10:15"])
    'It leaves at [UNK] [UNK] [UNK].'
    """
    for value in sorted(values, key=len, reverse=True):
        count = len([piece for piece in re.split(r"(\W+)", value) if piece.strip()])
        blank = " ".join([UNKNOWN] * count)
        text = re.sub(rf"(?<!\w){re.escape(value)}(?!\w)", blank, text, flags=re.IGNORECASE)
    return text


def _answer(acts: Any) -> Frame:
    frame: dict[str, Any] = {}
    for domain, act, slot, value in _acts(acts):
        if slot and value not in (*_ABSENT, "?"):
            slots = frame.setdefault(domain, {}).setdefault(act, {})
            slots.setdefault(slot, []).append({"value": value, "span": None})
    return frame


def _acts(acts: Any) -> Iterator[tuple[str, str, str, str]]:
    """(domain, act, slot as in states or "", value) of "Domain-Act": [[slot, value], ...].

    Others are no acts.
    """
    for name, pairs in acts.items() if isinstance(acts, dict) else ():
        domain, _, act = name.lower().partition("-")
        for slot, value in pairs:
            yield (
                domain,
                act,
                _as_in_states(domain, slot.lower().strip()),
                str(value).lower().strip(),
            )


def _as_in_states(domain: str, slot: str) -> str:
    """The name by which a state has a slot of an act: "leave" is leaveAt, "people" book_people."""
    if slot == "none":
        return ""
    if slot == "price" and domain in ("restaurant", "hotel"):
        return "pricerange"
    return f"book_{slot}" if slot in _BOOKED.get(domain, ()) else _WRITTEN.get(slot, slot)
