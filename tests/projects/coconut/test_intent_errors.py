"""Right intents and word errors, counted batch by batch and over ranks."""

import pytest

from common.data.speech.transcripts import SpokenTarget
from projects.coconut.speech.error_rates import IntentErrors
from tests.projects.coconut.workers import intent_errors_of_two_ranks


def target(intent, transcript, slots=()):
    return SpokenTarget(intent, tuple(slots), transcript)


def test_errors_are_counted_over_all_utterances_and_forgotten():
    errors = IntentErrors()
    errors.add(target("play", "play a song"), target("play", "play the song"))  # one edit of four
    errors.add(target("stop", "stop"), target("halt", "stop it"))  # the intent and a word of three
    accuracy, wer = errors.over_ranks()
    assert accuracy == 0.5
    assert wer == pytest.approx(3 / 7)
    errors.reset()
    assert errors.over_ranks() == (0.0, 0.0)


def test_slots_count_where_the_outputs_hold_them():
    predicted = target("set", "wake me at six", [("time", "seven")])
    expected = target("set", "wake me at six", [("time", "six")])
    rates = []
    for slots in (False, True):
        errors = IntentErrors(slots=slots)
        errors.add(predicted, expected)
        rates.append(errors.over_ranks()[1])
    assert rates[0] == 0 < rates[1]


def test_ranks_with_unequal_shares_agree(two_ranks):
    """One wrong intent on the first rank, two right ones on the second."""
    for rates in two_ranks.run(intent_errors_of_two_ranks, number=1):
        assert rates == pytest.approx((2 / 3, 1 / 6))  # the intent is a word of the output
