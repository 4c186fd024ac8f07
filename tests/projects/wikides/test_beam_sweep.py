"""Beam searches of several widths: one output each; candidates are none twice and none that is
empty.
"""

import pytest

from projects.wikides.beam_sweep import beam_sweep, distinct


class Searches:
    """In place of a model: what each width writes."""

    def __init__(self, outputs):
        self.outputs, self.asked = outputs, []

    def beam_search(self, texts, num_beams, max_new_tokens, *, batch_size):
        self.asked.append((num_beams, max_new_tokens, batch_size))
        return [
            f"{text}{self.outputs[num_beams]}" if self.outputs[num_beams] else " " for text in texts
        ]


def test_an_output_a_width_and_the_distinct_ones():
    model = Searches({1: " x", 2: " y", 3: " x ", 4: ""})
    assert beam_sweep(model, ["a", "b"], [1, 2, 3, 4], 9, batch_size=6) == [
        ["a x", "a y", "a x", ""],
        ["b x", "b y", "b x", ""],
    ]
    assert model.asked == [(1, 9, 6), (2, 9, 3), (3, 9, 2), (4, 9, 1)]
    assert distinct(["", "b ", "b", "a"]) == ["b", "a"]
    with pytest.raises(ValueError, match="at least 1"):
        beam_sweep(model, ["a"], [1, 0], 9)
