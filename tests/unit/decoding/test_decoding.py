"""Decoding policies, seeded streams, contrastive methods and likelihoods on a tiny model."""

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from common.config import UserError
from common.data.samplers import sample_rng
from common.decoding.contrastive import ContrastiveDecoding
from common.decoding.language_model import LanguageModel
from common.decoding.options import STRATEGIES, Policy
from common.decoding.policies import SeededSampling, processors
from common.encoders.text.tiny_tokenizer import tiny_tokenizer

SIZES = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 48},
    "llama": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 64,
        "max_position_embeddings": 48,
    },
}
PROMPTS = ["the state of the world", "a man and his time in the house of the state"]


def tiny_lm(kind="gpt2", eos=None, seed=0):
    """A random model with the built-in tokenizer."""
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer(300)
    tokenizer.eos_token = eos
    config = AutoConfig.for_model(
        kind,
        vocab_size=300,
        bos_token_id=2,
        eos_token_id=None,
        initializer_range=0.5,
        **SIZES[kind],
    )
    return LanguageModel(AutoModelForCausalLM.from_config(config), tokenizer, "cpu")


def streams(count, seed=0):
    return [sample_rng(seed, 0, i) for i in range(count)]


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_continues_and_rows_do_not_depend_on_neighbours(kind, strategy):
    """RankGen checklist 14: one harness for all strategies; padding and batching change nothing."""
    lm, policy = tiny_lm(kind), Policy(strategy)
    both = lm.continuations(PROMPTS, policy, streams(2), 6)
    alone = [
        lm.continuations([p], policy, [rng], 6)[0]
        for p, rng in zip(PROMPTS, streams(2), strict=True)
    ]
    assert [c.num_tokens for c in both] == [6, 6]
    if strategy != "contrastive_decoding" or kind == "llama":
        assert both == alone
    again = lm.continuations(PROMPTS, policy, streams(2, seed=1), 6)
    assert (both != again) == policy.samples


def test_sampling_frequencies_are_the_model_s_probabilities():
    scores = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))
    rngs = [np.random.default_rng(0)] * 4000

    def frequencies(policy):
        actual = scores.expand(4000, 4)
        for step in processors(policy, rngs):
            actual = step(torch.zeros(4000, 1, dtype=torch.long), actual)
        return torch.bincount(actual.argmax(1), minlength=4) / 4000

    torch.testing.assert_close(frequencies(Policy("ancestral")), scores.exp()[0], atol=0.03, rtol=0)
    nucleus = frequencies(Policy("nucleus", top_p=0.75))
    torch.testing.assert_close(nucleus, torch.tensor([0.625, 0.375, 0, 0]), atol=0.03, rtol=0)
    assert frequencies(Policy("top_k", top_k=1))[0] == 1
    hot = frequencies(Policy("ancestral", temperature=10.0))
    assert hot[3] > 0.15


def test_a_stream_is_used_once_per_token():
    draw = SeededSampling([np.random.default_rng(0)])
    tokens = [int(draw(torch.zeros(1, 1), torch.zeros(1, 100)).argmax()) for _ in range(3)]
    expected = [int(u * 100) for u in np.random.default_rng(0).random(3)]
    assert tokens == expected


def test_contrastive_decoding_by_hand():
    class Amateur:
        def __call__(self, input_ids):
            logits = torch.tensor([0.7, 0.1, 0.2]).log().expand(*input_ids.shape, 3)
            return type("Out", (), {"logits": logits})

    expert = torch.tensor([[0.6, 0.35, 0.05]]).log()
    actual = ContrastiveDecoding(Amateur(), 0.5)(torch.zeros(1, 2, dtype=torch.long), expert)
    assert actual[0, 0].exp() == pytest.approx(6 / 7)
    assert actual[0, 1].exp() == pytest.approx(3.5)
    assert actual[0, 2] == -torch.inf  # less than half as likely as the best
    assert int(actual.argmax()) == 1
    with pytest.raises(UserError, match="needs an amateur"):
        processors(Policy("contrastive_decoding"), [])


def test_budgets_per_row_and_long_prompts():
    lm = tiny_lm()
    actual = lm.continuations(PROMPTS, Policy("greedy"), streams(2), [2, 5])
    assert [c.num_tokens for c in actual] == [2, 5]
    long = " ".join(["state"] * 100)
    (cut,) = lm.continuations([long], Policy("greedy"), streams(1), 8)
    (short,) = lm.continuations([" ".join(["state"] * 39)], Policy("greedy"), streams(1), 8)
    assert cut.num_tokens == 8
    assert len(lm.fitting(lm.token_ids(long), 8)) == 40
    assert isinstance(short.text, str)
    mixed = lm.continuations([long, PROMPTS[0]], Policy("greedy"), streams(2), [2, 20])
    assert [c.num_tokens for c in mixed] == [2, 20]  # 46 + 20 tokens would not fit
    with pytest.raises(UserError, match="no room for a prompt"):
        lm.continuations([long], Policy("greedy"), streams(1), 48)


def test_end_of_text_ends_a_row():
    lm = tiny_lm(eos="[SEP]")
    actual = lm.continuations(
        [PROMPTS[0]] * 60, Policy("ancestral", temperature=9.0), streams(60), 30
    )
    ended = [c for c in actual if c.ended]
    assert ended
    assert all(c.ended == (c.num_tokens < 30) for c in actual if c.num_tokens < 30)
    assert all("[SEP]" not in c.text for c in actual)


def test_log_likelihood_is_the_mean_over_the_continuation_s_tokens():
    """By single passes without padding; the wrong prefix gives another value."""
    lm = tiny_lm()
    lm.tokenizer.backend_tokenizer.post_processor = None  # no [CLS] and [SEP], as causal models
    texts = ["is well made.", "he"]
    actual = lm.log_likelihood(PROMPTS, texts)
    for prompt, text, value in zip(PROMPTS, texts, actual, strict=True):
        before, whole = lm.token_ids(prompt, True), lm.token_ids(f"{prompt} {text}", True)
        assert whole[: len(before)] == before
        logits = torch.log_softmax(lm.model(torch.tensor([whole])).logits[0], -1)
        each = [logits[i - 1, whole[i]] for i in range(len(before), len(whole))]
        assert float(value) == pytest.approx(float(torch.stack(each).mean()), abs=1e-5)
    assert not torch.allclose(lm.log_likelihood(PROMPTS[::-1], texts), actual)


def test_an_empty_continuation_has_likelihood_0():
    lm = tiny_lm()
    lm.tokenizer.backend_tokenizer.post_processor = None
    actual = lm.log_likelihood([PROMPTS[0]] * 2, ["", "he"], joint=" the ")  # a joint is not a text
    assert float(actual[0]) == 0
    assert float(actual[1]) < 0


OWN = {
    "repetition_penalty": 50.0,
    "no_repeat_ngram_size": 1,
    "num_beams": 3,
    "length_penalty": 9.0,
    "early_stopping": True,
}


@pytest.mark.parametrize("strategy", ["greedy", "nucleus", "beam_search"])
def test_a_model_s_own_settings_do_not_change_a_policy(strategy):
    """`generate` fills what is left open from the model's generation config."""
    plain, own = tiny_lm(), tiny_lm()
    own.model.generation_config.update(**OWN)
    actual = [lm.continuations(PROMPTS, Policy(strategy), streams(2), 12) for lm in (plain, own)]
    assert actual[0] == actual[1]


def test_what_ends_texts_of_the_model_ends_them_here():
    """Chat models end a turn with another token than the tokenizer's end of text."""
    for strategy in ("greedy", "contrastive_search"):
        lm, policy = tiny_lm(eos="[SEP]"), Policy(strategy)
        row = lm.fitting(lm.token_ids(PROMPTS[0], True), 12)
        (free,) = lm.continue_ids([row], policy, streams(1), 12)
        place = next(i for i in range(2, 12) if free[i] not in free[:i])
        lm.model.generation_config.eos_token_id = [free[place], 50256]  # no row of this table
        assert lm.ends == (lm.eos, free[place])
        (ended,) = lm.continue_ids([row], policy, streams(1), 12)
        assert ended == free[: place + 1]
        assert lm.finished(row, ended).ended


def test_a_stop_character_is_held_back_too():
    lm = tiny_lm("llama")
    (free,) = lm.continuations(PROMPTS[:1], Policy("ancestral"), streams(1), 12)
    stop = free.text.strip()[0]
    options = {"batch_size": 2, "stop": stop}
    (short,) = lm.continuations(PROMPTS[:1], Policy("ancestral"), streams(1), 12, **options)
    assert short.num_tokens < 6
    held = Policy("ancestral", min_new_tokens=6)
    (actual,) = lm.continuations(PROMPTS[:1], held, streams(1), 12, **options)
    assert actual.num_tokens > 6
    assert stop not in actual.text


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("context", [None, 3, 30])
def test_an_amateur_reads_no_padding(kind, context):
    lm = tiny_lm(kind)
    lm.amateur = tiny_lm(kind, seed=1).model
    policy = Policy("contrastive_decoding", amateur_context=context)
    prompts = ["the", PROMPTS[1]]
    both = lm.continuations(prompts, policy, streams(2), 8)
    assert both == [lm.continuations([p], policy, streams(1), 8)[0] for p in prompts]


def test_tables_of_logits_may_be_padded_to_other_sizes():
    lm = tiny_lm()
    for experts, amateurs in ((300, 304), (304, 300)):
        lm.model.resize_token_embeddings(experts)
        lm.amateur = tiny_lm(seed=1).model
        lm.amateur.resize_token_embeddings(amateurs)
        (actual,) = lm.continue_ids([[5, 6, 7]], Policy("contrastive_decoding"), streams(1), 8)
        assert max(actual) < 300


def test_features_are_the_last_token_s_state():
    lm = tiny_lm()
    actual = lm.features(PROMPTS)
    ids = torch.tensor([lm.token_ids(PROMPTS[0], True)])
    state = lm.model(ids, output_hidden_states=True).hidden_states[-1][0, -1]
    torch.testing.assert_close(actual[0], state.detach(), rtol=1e-5, atol=1e-5)


def test_features_take_no_more_of_the_head_than_one_place():
    lm, seen = tiny_lm(), []
    lm.model.lm_head.register_forward_hook(lambda module, args, out: seen.append(out.shape[1]))
    assert len(lm.features(PROMPTS)) == len(PROMPTS)
    assert len(list(lm.states([[5, 6, 7]]))) == 1
    assert set(seen) == {1}


def test_bundled_model_loads():
    lm = LanguageModel.from_pretrained("bundled:stories260k", "cpu")
    (actual,) = lm.continuations(["Once upon a time, there was a"], Policy("greedy"), streams(1), 8)
    assert actual.text.startswith(" ")
    assert lm.count_tokens("a little girl") > 2


@pytest.mark.parametrize(
    "options",
    [
        {"strategy": "beams"},
        {"temperature": 0.0},
        {"top_p": 1.5},
        {"top_k": 0},
        {"typical_p": 1.0},
        {"penalty": 2.0},
        {"plausibility": 0.0},
        {"nucleus_tokens": -1},
        {"num_beams": 0},
        {"min_new_tokens": -1},
        {"repetition_penalty": 0.0},
        {"exclude_prefix": True, "nucleus_tokens": 2},
    ],
)
def test_wrong_options_are_refused(options):
    with pytest.raises(UserError):
        Policy(**options)
