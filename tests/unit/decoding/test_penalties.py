"""Penalties on what was written, and samples under them."""

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from common.decoding.language_model import LanguageModel
from common.decoding.options import Policy
from common.decoding.penalties import WrittenPenalty, penalized_samples
from common.encoders.text.tiny_tokenizer import tiny_tokenizer


def test_penalty_counts_what_follows_the_prompt():
    ids = torch.tensor([[3, 3, 1, 1, 2]])  # the prompt is 3 3
    found = WrittenPenalty(2, 2.0, 1.0)(ids, torch.zeros(1, 5))
    assert found.tolist() == [[0.0, -5.0, -3.0, 0.0, 0.0]]


def test_a_frequency_penalty_ends_repetition_and_rows_do_not_depend_on_neighbours():
    torch.manual_seed(1)
    tokenizer = tiny_tokenizer(400)
    settings = AutoConfig.for_model("gpt2", vocab_size=400, n_embd=16, n_layer=1, n_head=2, n_positions=64, eos_token_id=None)  # fmt: skip
    lm = LanguageModel(AutoModelForCausalLM.from_config(settings), tokenizer, "cpu")
    greedy = Policy("greedy")
    prompts = ["the man of the", "it was"]
    texts = penalized_samples(
        lm, prompts, greedy, [np.random.default_rng(0)] * 2, 12, frequency=1e3
    )
    for text in texts:
        words = tokenizer.tokenize(text)
        assert len(words) <= len(set(words)) + 1  # pieces join to others when they are read again
    policy = Policy("nucleus", top_p=1.0)

    def rngs(*seeds):
        return [np.random.default_rng(s) for s in seeds]

    both = penalized_samples(lm, prompts, policy, rngs(1, 2), 8, frequency=2.0, presence=1.0)
    alone = penalized_samples(lm, prompts[1:], policy, rngs(2), 8, frequency=2.0, presence=1.0)
    assert both[1:] == alone
