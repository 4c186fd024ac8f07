"""Metrics of slots, parses and states against cases worked out by hand."""

import pytest

from projects.space2.dialog_metrics import (
    exact_match,
    joint_goal,
    slot_macro_f1,
    spans_of,
    told_value,
)


@pytest.mark.parametrize(
    ("tags", "spans"),
    [
        (["O", "B-a", "I-a", "B-a"], ["a:1-3", "a:3-4"]),
        (["I-a", "I-a"], []),  # nothing began
        (["B-a", "I-b", "I-a"], ["a:0-1"]),  # another slot ends it, and nothing goes on after that
        (["B-a", "[PAD]", "B-date-time"], ["a:0-1", "date-time:2-3"]),
    ],
)
def test_spans_of_iob_tags(tags, spans):
    assert spans_of(tags) == spans


def test_macro_f1_counts_utterances_by_slot():
    gold = [["B-a", "O"], ["B-a", "B-b"], ["O", "B-b"], ["O", "O"]]
    told = [["B-a", "O"], ["O", "B-b"], ["B-b", "B-b"], ["B-a", "O"]]
    # a: 1 right of 2 told and of 2 there; b: 1 right (an extra span spoils the other) of 2 and of 2
    want = sum(2 * p * r / (1e-5 + p + r) for p, r in [(1 / 2.00001, 1 / 2.00001)] * 2) / 2
    assert slot_macro_f1(told, gold) == pytest.approx(want, abs=1e-9)
    # a span belongs to every slot whose name its own contains
    assert slot_macro_f1([["B-time"], ["B-datetime"]], [["B-time"], ["O"]]) < 0.8
    with pytest.raises(ValueError, match="no slot"):
        slot_macro_f1([["O"]], [["O"]])
    with pytest.raises(ValueError, match="lengths"):
        slot_macro_f1([["O"]], [["O", "O"]])


def test_a_parse_is_right_as_a_whole():
    gold = [("get", ["O", "B-a"]), ("get", ["O"]), ("set", ["O"])]
    told = [("get", ["O", "B-a"]), ("get", ["B-a"]), ("get", ["O"])]
    assert exact_match(told, gold) == [1.0, 0.0, 0.0]


def test_joint_goals_are_right_for_all_slots_and_variants_of_gold_values_count():
    gold = [{"a": "10:15", "b": "Guest House"}] * 4 + [{}]
    told = [
        {"a": "10 : 15", "b": "guest house"},
        {"a": "10:15"},
        {"a": "10:15", "b": "guesthouse"},
        {"a": "10:15", "b": "guest house", "c": "x"},
        {"a": "none"},
    ]
    assert joint_goal(told, gold) == [1.0, 0.0, 0.0, 0.0, 1.0]
    assert joint_goal(told, gold, {"guest house": ["guesthouse"]})[2] == 1.0
    # the variant of a value that was told is not an excuse
    assert joint_goal([{"a": "y"}], [{"a": "x"}], {"y": ["x"]}) == [0.0]


def test_what_the_system_told_is_read_as_the_gold_value_if_it_can_be():
    assert told_value("the ritz hotel", "ritz") == "the ritz hotel"
    assert told_value("ritz", "the ritz hotel") == "ritz"
    assert told_value("art", "start") == "start"  # words, not letters
    assert told_value("guest house", "lodge", {"lodge": ["guest house"]}) == "guest house"
    assert told_value("x", "y", {"x": ["y z"]}) == "x"
