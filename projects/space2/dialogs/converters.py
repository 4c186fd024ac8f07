"""Three kinds of annotation as one semantic tree: intents, spans, states with acts.

Source: He et al. 2022, "SPACE-2", section 3.1 (unified annotations), arXiv 2209.06638.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from common.config import UserError
from projects.space2.dialogs.trees import DEFAULT_DOMAIN, DEFAULT_INTENT, Frame

Value = dict[str, Any]


def from_intent(intent: str, domain: str | None = None) -> Frame:
    """{domain or a placeholder: {intent: {}}}.

    >>> from_intent("card_arrival")
    {'DEFAULT_DOMAIN': {'card_arrival': {}}}
    """
    return {domain or DEFAULT_DOMAIN: {intent: {}}}


def from_spans(
    text: str,
    spans: Iterable[tuple[str, int, int]],
    domain: str | None = None,
    intent: str | None = None,
) -> Frame:
    """{domain: {intent: {slot: [its values]}}} of character spans.

    Placeholders for what there is not.

    Args:
        text: of the turn.
        spans: (slot, start, end) with text[start:end] the value.
        domain: None: a placeholder.
        intent: None: a placeholder.

    Raises:
        UserError: a span outside the text, or an empty one.

    >>> from_spans("a table for two", [("people", 12, 15)], "restaurant")
    {'restaurant': {'DEFAULT_INTENT': {'people': [{'value': 'two', 'span': [12, 15]}]}}}
    """
    slots: dict[str, list[Value]] = {}
    for slot, start, end in spans:
        if not 0 <= start < end <= len(text):
            raise UserError(f"slot {slot}: [{start}, {end}) is not a span of {text!r}")
        slots.setdefault(slot, []).append({"value": text[start:end], "span": [start, end]})
    return {domain or DEFAULT_DOMAIN: {intent or DEFAULT_INTENT: slots}}


def from_acts(
    acts: Iterable[tuple[str, str, str]], values: Mapping[str, Mapping[str, str]]
) -> Frame:
    """{domain: {act: {slot: [value]}}} of acts, with the values that the turn's state has for them.

    Args:
        acts: (domain, act, slot), slot "" where the act has none.
        values: of the slots by domain, such as a dialogue state; only acts that tell a value carry
            it.

    >>> from_acts([("hotel", "INFORM", "area"), ("hotel", "REQUEST", "phone")], {"hotel": {"area": "north"}})
    {'hotel': {'INFORM': {'area': [{'value': 'north', 'span': None}]}, 'REQUEST': {'phone': []}}}
    """
    frame: dict[str, dict[str, dict[str, list[Value]]]] = {}
    for domain, act, slot in acts:
        slots = frame.setdefault(domain, {}).setdefault(act, {})
        if slot:
            value = values.get(domain, {}).get(slot)
            stated = value is not None and not act.upper().startswith("REQUEST")
            slots[slot] = [{"value": value, "span": None}] if stated else []
    return frame


def from_tags(
    words: Sequence[str], tags: Sequence[str], intent: str, domain: str | None = None
) -> Frame:
    """{domain: {intent: {slot: [its values]}}} of words with IOB tags, as of a parse.

    Args:
        words: of an utterance whose text is the words with spaces between them.
        tags: B-slot, I-slot or O, one a word; an I- that continues with nothing begins a value.
        intent: of the utterance.
        domain: None: a placeholder.

    >>> from_tags(["call", "my", "mum"], ["O", "B-who", "I-who"], "CALL")
    {'DEFAULT_DOMAIN': {'CALL': {'who': [{'value': 'my mum', 'span': [5, 11]}]}}}
    """
    spans: list[tuple[str, int, int]] = []
    start, before = 0, "O"
    for word, tag in zip(words, tags, strict=True):
        kind, _, slot = tag.partition("-")
        end = start + len(word)
        if kind == "I" and before.partition("-")[2] == slot:
            spans[-1] = (slot, spans[-1][1], end)
        elif kind in ("B", "I"):
            spans.append((slot, start, end))
        start, before = end + 1, tag
    return from_spans(" ".join(words), spans, domain, intent)


def check_frame(frame: object, where: str) -> Frame:
    """A tree as it was read.

    Raises:
        UserError: not of the form {domain: {intent: {slot: [{"value": ..., "span": [start, end]},
            ...]}}}; a span may be left out or null.
    """
    if _is_frame(frame):
        return frame  # type: ignore[return-value]
    raise UserError(
        f"{where}: a label must be {{domain: {{intent: {{slot: [{{value: ..., span: [start, end] or"
        " null}]}}}"
    )


def _is_frame(frame: object) -> bool:
    if not isinstance(frame, Mapping):
        return False
    for intents in frame.values():
        if not isinstance(intents, Mapping):
            return False
        for slots in intents.values():
            if not isinstance(slots, Mapping) or not all(_is_values(v) for v in slots.values()):
                return False
    return True


def _is_values(values: object) -> bool:
    return (
        isinstance(values, Sequence)
        and not isinstance(values, str)
        and all(isinstance(v, Mapping) and "value" in v and _is_span(v.get("span")) for v in values)
    )


def _is_span(span: object) -> bool:
    return not span or (
        isinstance(span, Sequence)
        and len(span) == 2
        and all(isinstance(place, int) for place in span)
    )
