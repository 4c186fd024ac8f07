"""What is said about layers and about answers that the method turns, from made-up scores."""

import pytest

from projects.lol.config import MethodConfig
from projects.lol.decoder import Scored
from projects.lol.evaluate import compared, mechanism
from tests.projects.lol.conftest import GREEDY, ICD


def test_layers_and_divergences_by_hand():
    """The largest divergence of each place, mean over the places of all answers."""
    rows = [([2, 4], [[3e-6, 1e-6], [1e-6, 5e-6]]), ([2], [[7e-6, 2e-6]])]
    seen = [Scored([], [], layers, spread, {}) for layers, spread in rows]
    assert mechanism(seen, [2, 4, 6]) == pytest.approx(
        {
            "chosen_layer": 8 / 3,
            "divergence_1e6": 5.0,
            "layer_2_percent": 200 / 3,
            "layer_4_percent": 100 / 3,
            "layer_6_percent": 0.0,
        }
    )
    assert mechanism([], []) == {}


def test_turned_answers_and_the_gain_by_hand():
    """Right and wrong are the first method's, against greedy scores; the gain is over the better
    baseline.
    """
    methods = {
        "lol": MethodConfig(omega=0.3),
        "greedy": MethodConfig(**GREEDY),
        "icd": MethodConfig(**ICD),
    }
    firsts = {
        "lol": [100, 100, 100, 0, 0],
        "greedy": [100, 0, 0, 100, 0],
        "icd": [100, 100, 0, 0, 0],
    }
    others = {"lol": 50.0, "greedy": 20.0, "icd": 30.0}
    items = {n: {"mc1": mc1, "mc2": [others[n]], "mc3": [others[n]]} for n, mc1 in firsts.items()}
    actual = compared(methods, items, list(methods))
    assert actual == pytest.approx(
        {"turned_right": 40.0, "turned_wrong": 20.0, "gain_over_best": 20.0}
    )
