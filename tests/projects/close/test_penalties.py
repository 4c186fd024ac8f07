"""Penalties on what was written, and samples under them."""

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from common.decoding.language_model import LanguageModel
from common.decoding.options import Policy
from common.encoders.text.tiny_tokenizer import tiny_tokenizer
from projects.close.penalties import WrittenPenalty


def test_penalty_counts_what_follows_the_prompt():
    ids = torch.tensor([[3, 3, 1, 1, 2]])  # the prompt is 3 3
    actual = WrittenPenalty(2, 2.0, 1.0)(ids, torch.zeros(1, 5))
    assert actual.tolist() == [[0.0, -5.0, -3.0, 0.0, 0.0]]


@pytest.fixture(scope="module")
def lm():
    torch.manual_seed(1)
    settings = AutoConfig.for_model(
        "gpt2", vocab_size=400, n_embd=16, n_layer=1, n_head=2, n_positions=64, eos_token_id=None
    )
    return LanguageModel(AutoModelForCausalLM.from_config(settings), tiny_tokenizer(400), "cpu")


def rngs(*seeds):
    return [np.random.default_rng(seed) for seed in seeds]


def penalty(frequency, presence=0.0):
    return lambda _, columns: [WrittenPenalty(columns, frequency, presence)]


PROMPTS = ["the man of the", "it was"]


def test_a_frequency_penalty_ends_repetition_and_rows_do_not_depend_on_neighbours(lm):
    actual = lm.continuations(PROMPTS, Policy("greedy"), rngs(0, 0), 12, further=penalty(1e3))
    for answer in actual:
        words = lm.tokenizer.tokenize(answer.text)
        assert len(words) <= len(set(words)) + 1  # pieces join to others when they are read again
    policy, own = Policy("nucleus", top_p=1.0), penalty(2.0, 1.0)
    both = lm.continuations(PROMPTS, policy, rngs(1, 2), 8, further=own)
    assert both[1:] == lm.continuations(PROMPTS[1:], policy, rngs(2), 8, further=own)


def test_further_processors_are_told_the_places_of_their_rows(lm):
    """Batches, and rows that the longest budget does not fit and that go alone."""
    seen = []

    def further(rows, columns):
        seen.append((rows, columns))
        return []

    long = "the man " * 40
    prompts = ["it was", "the", long, "of the man"]
    plain = lm.continuations(
        prompts, Policy("greedy"), rngs(0, 0, 0, 0), [4, 30, 4, 4], batch_size=3
    )
    actual = lm.continuations(
        prompts, Policy("greedy"), rngs(0, 0, 0, 0), [4, 30, 4, 4], batch_size=3, further=further
    )
    assert actual == plain
    assert sorted(place for rows, _ in seen for place in rows) == [0, 1, 2, 3]
    assert [2] in [rows for rows, _ in seen]
    widths = {tuple(rows): columns for rows, columns in seen}
    assert widths[(2,)] == 60  # what its own four tokens leave of the context


def test_contrastive_search_takes_no_further_processors(lm):
    with pytest.raises(ValueError, match="no further processors"):
        lm.continuations(["it"], Policy("contrastive_search"), rngs(0), 4, further=penalty(1.0))
