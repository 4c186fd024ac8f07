"""Multiple choice: measures by hand, underflow as released, ties."""

import math

import pytest

from projects.lol.multiple_choice import (
    chooses_first,
    listed_answers,
    truthful_choice,
)


def test_measures_by_hand():
    actual = truthful_choice([-1.0, -4.0, -2.5], [-3.0, -5.0], best=2)
    mass = [math.exp(x) for x in (-1.0, -4.0, -2.5)]
    rest = math.exp(-3.0) + math.exp(-5.0)
    assert actual["mc1"] == 1.0
    assert actual["mc2"] == pytest.approx(sum(mass) / (sum(mass) + rest), rel=1e-12)
    assert actual["mc3"] == pytest.approx(2 / 3)
    assert truthful_choice([-3.0], [-3.0], best=0)["mc1"] == 0.0  # above, not as good as


def test_each_side_that_vanishes_is_halved_by_itself():
    """-1600 is halved to -400 (exp > 0 in float64), the other side stays."""
    actual = truthful_choice([-1600.0], [-400.0, -5.0], best=0)
    expected = math.exp(-400) / (math.exp(-400) + math.exp(-400) + math.exp(-5))
    assert actual["mc2"] == pytest.approx(expected, rel=1e-12)
    both = truthful_choice([-2000.0], [-3000.0], best=0)  # to -500 and -375
    assert both["mc2"] == pytest.approx(1 / (1 + math.exp(125)), rel=1e-9)


@pytest.mark.parametrize("value", [-math.inf, math.nan])
def test_scores_that_are_no_numbers_are_refused(value):
    """A side of -inf has no halves."""
    with pytest.raises(ValueError, match="finite"):
        truthful_choice([value], [-1.0], best=0)
    with pytest.raises(ValueError, match="finite"):
        truthful_choice([-1.0], [value], best=0)


def test_large_contrasts_do_not_overflow():
    assert truthful_choice([900.0], [899.0], best=0)["mc2"] == pytest.approx(1 / (1 + math.exp(-1)))


def test_equal_completions_count_as_right():
    assert chooses_first([-2.0, -2.0, -3.0, -4.0])
    assert not chooses_first([-2.0, -1.9, -3.0, -4.0])


def test_answers_of_a_cell():
    assert listed_answers(" A; b. ;; ") == ["A.", "b."]
