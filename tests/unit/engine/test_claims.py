"""The language of claims: what it reads, what it refuses, what the expressions are worth."""

import numpy as np
import pytest

from common.config import UserError
from common.engine.comparison.claims import parse
from common.engine.comparison.expressions import arms_of, evaluate, favoured

ARMS = [
    "a",
    "b",
    "c",
    "both",
    "raw",
    "random_both",
    "random",
    "mean",
    "penalty_1e-3",
    "dcl@lr1",
    "dcl@lr2",
    "infonce@lr1",
    "infonce@lr2",
]
VALUES = {
    "a": 3.0,
    "b": 1.0,
    "c": 2.0,
    "both": 0.7,
    "raw": 0.5,
    "random_both": 0.4,
    "random": 0.3,
    "mean": 0.0,
    "penalty_1e-3": 9.0,
    "dcl@lr1": 4.0,
    "dcl@lr2": 6.0,
    "infonce@lr1": 1.0,
    "infonce@lr2": 5.0,
}


def difference(text):
    ((part,),) = parse(text, ARMS)
    return evaluate(part.left, VALUES) - evaluate(part.right, VALUES)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a > b", 2.0),
        ("b > a", -2.0),
        ("(both - raw) > (random_both - random)", 0.1),
        ("both - raw > random_both - random", 0.1),
        ("both - (raw - random_both) > random", 0.3),
        ("dcl@lr* > infonce@lr*", 2.0),
        ("spread(dcl@lr*) < spread(infonce@lr*)", -2.0),
        ("spread(a, b, c) < 0.5", 1.5),
        ("mean(a, b) > c", 0.0),
        ("mean > b", -1.0),  # an arm may have the name of a function
        ("a > 0.5 * b + 1e-1", 2.4),
        ("-b > -a", 2.0),
        ("penalty_1e-3 > a-b", 7.0),  # a hyphen is a minus unless it is in the name of an arm
    ],
)
def test_expressions(text, expected):
    assert difference(text) == pytest.approx(expected)


def test_expressions_work_on_samples():
    ((part,),) = parse("spread(dcl@lr*) < spread(infonce@lr*)", ARMS)
    samples = {name: np.array([value, 0.0]) for name, value in VALUES.items()}
    assert evaluate(part.left, samples).tolist() == [2.0, 0.0]
    assert part.has_spread
    assert not parse("a > b", ARMS)[0][0].has_spread


def test_chains_are_several_claims_and_conjunctions_are_one():
    assert [len(claim) for claim in parse("a > b > c", ARMS)] == [1, 1]
    (claim,) = parse("a > b > c and a > raw", ARMS)
    assert [part.text for part in claim] == [("a", "b"), ("b", "c"), ("a", "raw")]
    assert [part.text for (part,) in parse("(both - raw) > a", ARMS)] == [("(both - raw)", "a")]


def test_the_favoured_arms_are_those_with_a_positive_weight():
    ((part,),) = parse("(both - raw) > (random_both - random)", ARMS)
    assert favoured(part.left) == ["both"]
    assert arms_of(part.left, part.right) == ["both", "raw", "random_both", "random"]
    assert favoured(parse("a - (b - c) > raw", ARMS)[0][0].left) == ["a", "c"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a", "expected 'arm > arm' at its end"),
        ("", "expected an arm"),
        ("a > bot", "no arm 'bot'; did you mean 'both'"),
        ("a >= b", "write '>' with a margin"),
        ("a > (b", r"expected '\)' at its end"),
        ("a > b c", "expected 'and', '>' or the end at 'c'"),
        ("a > b and", "expected an arm"),
        ("a > b and c", "expected 'arm > arm'"),
        ("dlc@* > a", r"no arm fits 'dlc@\*'"),
        ("a > b %", "at '%'"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(text, message):
    with pytest.raises(UserError, match=message):
        parse(text, ARMS)


def test_both_sides_of_a_factor_have_the_same_levels():
    assert parse("dcl@lr* > infonce@lr*", ARMS)
    with pytest.raises(UserError, match=r"'infonce@lr\*' has no level 3"):
        parse("dcl@lr* > infonce@lr*", [*ARMS, "dcl@lr3"])
