"""Several readings side by side: padding, caches and positions change nothing."""

from contextlib import contextmanager

import pytest
import torch

from common.config import UserError
from projects.lol.tracks import Track, read, write
from tests.unit.decoding.test_contrastive_search import SIZES, tiny_model

PROMPTS = [[3, 9, 4], [7, 2, 8, 60, 5, 99], [11]]
LONGER = [[50, *row, 51] for row in PROMPTS]
ANSWERS = [[5, 6, 7], [8], [9, 10]]
PAD = 7  # a frequent token: the mask alone tells padding


@pytest.mark.parametrize("kind", sorted(SIZES))
def test_a_batch_reads_what_its_rows_read_alone(kind):
    model = tiny_model(kind)
    readings = read([Track(model, PROMPTS, (1,)), Track(model, LONGER)], ANSWERS, PAD)
    for reading, prompts in zip(readings, (PROMPTS, LONGER), strict=True):
        for i, (prompt, answer) in enumerate(zip(prompts, ANSWERS, strict=True)):
            out = model(torch.tensor([prompt + answer]), output_hidden_states=True)
            place = slice(len(prompt) - 1, -1)  # what is said of the answer's tokens
            torch.testing.assert_close(reading.logits[i, -len(answer) :], out.logits[0, place])
            if reading.states:
                own = reading.states[1][i, -len(answer) :]
                torch.testing.assert_close(own, out.hidden_states[1][0, place])
    assert not readings[1].states


@pytest.mark.parametrize("kind", ["gpt2", "llama", "opt"])
def test_writing_with_caches_is_reading_anew_at_every_step(kind):
    """Each track keeps its own cache and positions; all are given the same tokens."""
    model = tiny_model(kind)

    def both(readings, new):
        return (readings[0].logits - 0.7 * readings[1].logits)[:, 0].argmax(-1)

    actual = write([Track(model, PROMPTS), Track(model, LONGER)], both, 5, pad=PAD)
    for row, prompt, longer in zip(actual.tolist(), PROMPTS, LONGER, strict=True):
        seen: list[int] = []
        for _ in range(5):
            one, two = (model(torch.tensor([p + seen])).logits[0, -1] for p in (prompt, longer))
            seen.append(int((one - 0.7 * two).argmax()))
        assert row == seen


def test_writing_stops_when_all_rows_have_ended():
    model, ends = tiny_model(), torch.zeros(120, dtype=torch.bool)
    plan = iter([[3, 5, 5], [5, 3, 3], [1, 1, 1]])
    ends[5] = True
    actual = write(
        [Track(model, PROMPTS)], lambda *_: torch.tensor(next(plan)), 3, pad=PAD, ends=ends
    )
    assert actual.tolist() == [[3, 5], [5, 3], [5, 3]]


def test_what_is_around_a_track_is_entered_at_every_pass():
    entered = []

    @contextmanager
    def switch():
        entered.append("in")
        yield
        entered.append("out")

    track = Track(tiny_model(), PROMPTS, around=switch)
    write([track], lambda readings, _: readings[0].logits[:, 0].argmax(-1), 2, pad=PAD)
    assert entered == ["in", "out"] * 2


def test_what_does_not_fit_the_context_is_refused():
    track = Track(tiny_model(), [[3] * 60, [4], [5]])
    with pytest.raises(UserError, match="context of 64"):
        read([track], [[1] * 5] * 3, PAD)
    with pytest.raises(UserError, match="fewer new tokens"):
        write([track], lambda *_: torch.zeros(3), 5, pad=PAD)
