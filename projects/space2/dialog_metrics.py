"""Metrics of dialogue understanding as DialoGLUE and TripPy compute them: slots, parses, states.

Source: Mehri et al. 2020, "DialoGLUE", released `run.py`, arXiv 2009.13570; Heck et al. 2020,
"TripPy", released `metric_bert_dst.py`, arXiv 2005.02877.
"""

import re
from collections.abc import Hashable, Mapping, Sequence

State = Mapping[str, str]
"""{slot: value}; a slot that is absent has the value "none"."""

LabelMaps = Mapping[str, Sequence[str]]
"""{value: other ways to write it}, of the annotated values."""

_SMOOTH = 1e-5  # added to every denominator by the released code


def spans_of(tags: Sequence[str]) -> list[str]:
    """Spans "slot:start-end" of IOB tags.

    An I- that does not continue with its slot ends it and counts as O.

    >>> spans_of(["B-time", "I-time", "O", "I-time", "B-date"])
    ['time:0-2', 'date:4-5']
    """
    spans, slot, start = [], None, -1
    for i, tag in enumerate([*tags, "O"]):
        kind, _, name = tag.partition("-")
        if kind == "I" and name == slot:
            continue
        if slot is not None:
            spans.append(f"{slot}:{start}-{i}")
        slot, start = (name, i) if kind == "B" else (None, -1)
    return spans


def slot_macro_f1(predicted: Sequence[Sequence[str]], gold: Sequence[Sequence[str]]) -> float:
    """Mean over slots of F1, an utterance being right for a slot if all its spans of it are.

    As in the released code, spans belong to a slot whose name is *contained* in theirs, and 1e-5 is
    added to the denominators.

    Args:
        predicted: IOB tags of N utterances.
        gold: of the same utterances and lengths; only slots that occur here count.

    Returns:
        In [0, 1]; a perfect answer has a little less than 1.

    Raises:
        ValueError: other lengths, or no slot in `gold`.

    >>> round(slot_macro_f1([["B-a", "O"]], [["B-a", "O"]]), 3)
    1.0
    """
    if [len(row) for row in predicted] != [len(row) for row in gold]:
        raise ValueError("predicted and gold tags must have the same lengths")
    spans, right = ([spans_of(row) for row in rows] for rows in (predicted, gold))
    slots = sorted({span.split(":")[0] for row in right for span in row})
    if not slots:
        raise ValueError("no slot occurs in the gold tags")
    scores = []
    for slot in slots:
        a = [[s for s in row if slot in s] for row in spans]
        b = [[s for s in row if slot in s] for row in right]
        hits = sum(bool(x) and x == y for x, y in zip(a, b, strict=True))
        precision = hits / (_SMOOTH + sum(map(bool, a)))
        recall = hits / (_SMOOTH + sum(map(bool, b)))
        scores.append(2 * precision * recall / (_SMOOTH + precision + recall))
    return sum(scores) / len(scores)


def exact_match(
    predicted: Sequence[tuple[Hashable, Sequence[str]]],
    gold: Sequence[tuple[Hashable, Sequence[str]]],
) -> list[float]:
    """1 for each utterance whose intent and all whose tags are right, else 0.

    >>> exact_match([("get", ["O", "B-a"]), ("get", ["O"])], [("get", ["O", "B-a"]), ("set", ["O"])])
    [1.0, 0.0]
    """
    if len(predicted) != len(gold):
        raise ValueError(f"{len(predicted)} answers for {len(gold)} utterances")
    return [
        float(p[0] == g[0] and list(p[1]) == list(g[1]))
        for p, g in zip(predicted, gold, strict=True)
    ]


def pieces(value: str) -> list[str]:
    """Words and punctuation of a value, as it is compared.

    >>> pieces("10:15 ")
    ['10', ':', '15']
    """
    return [part for part in map(str.strip, re.split(r"(\W+)", value)) if part]


def joint_goal(
    predicted: Sequence[State], gold: Sequence[State], label_maps: LabelMaps | None = None
) -> list[float]:
    """1 for each turn at which the value of every slot is right, else 0.

    Its mean is the joint goal accuracy.

    A value is right if it is written as the gold one, or as one of its variants in `label_maps`.

    Args:
        predicted: state after each turn.
        gold: of the same turns.
        label_maps: variants of gold values.

    >>> joint_goal([{"hotel-area": "North"}, {}], [{"hotel-area": "north"}, {"hotel-area": "north"}])
    [1.0, 0.0]
    """
    if len(predicted) != len(gold):
        raise ValueError(f"{len(predicted)} states for {len(gold)} turns")
    maps = {
        " ".join(pieces(k.lower())): {" ".join(pieces(v.lower())) for v in vs}
        for k, vs in (label_maps or {}).items()
    }
    hits = []
    for state, right in zip(predicted, gold, strict=True):
        slots = state.keys() | right.keys()
        values = [
            tuple(" ".join(pieces(s.get(slot, "none").lower())) for s in (state, right))
            for slot in slots
        ]
        hits.append(float(all(a == b or a in maps.get(b, ()) for a, b in values)))
    return hits


def told_value(gold: str, predicted: str, label_maps: LabelMaps | None = None) -> str:
    """The gold value if the system's value, or a variant, contains it or is contained.

    TripPy reads a value that is copied from the system's turn that way; else it is `told` as it
    stands.

    >>> told_value("the junction", "junction"), told_value("north", "south")
    ('the junction', 'south')
    """
    maps = label_maps or {}
    if gold == predicted or _contains(predicted, gold) or _contains(gold, predicted):
        return gold
    others = (
        [(gold, v) for v in maps.get(predicted, ())]
        if predicted in maps
        else [(v, predicted) for v in maps.get(gold, ())]
    )
    return (
        gold if any(a == b or _contains(a, b) or _contains(b, a) for a, b in others) else predicted
    )


def _contains(text: str, value: str) -> bool:
    whole, part = pieces(text), pieces(value)
    return any(whole[i : i + len(part)] == part for i in range(len(whole) + 1 - len(part)))
