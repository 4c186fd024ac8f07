"""Contrastive search: batches, padding and caches change nothing; greedy and trivial decoders
beside it.
"""

import itertools

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from common.config import UserError
from common.data.samplers import sample_rng
from common.decoding.contrastive_search import SHARING, contrastive_search, rerank
from common.decoding.language_model import LanguageModel
from common.decoding.options import Policy
from common.encoders.text.tiny_tokenizer import tiny_tokenizer

SMALL = {"vocab_size": 120, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
LLAMA = {**SMALL, "num_key_value_heads": 1, "intermediate_size": 48, "max_position_embeddings": 64}
SIZES = {
    "gpt2": {"vocab_size": 120, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "llama": LLAMA,
    "qwen2": LLAMA,
    "gpt_neox": {**SMALL, "intermediate_size": 48, "max_position_embeddings": 64},
    "opt": {**SMALL, "ffn_dim": 48, "max_position_embeddings": 64, "word_embed_proj_dim": 32},
}
ROWS = [[3, 9, 4], [7, 2, 8, 60, 5, 99], [11]]


def tiny_model(kind="gpt2"):
    """Random weights in float64, so that nothing depends on rounding."""
    torch.manual_seed(0)
    ids = {"bos_token_id": 2, "eos_token_id": None, "pad_token_id": 1}
    config = AutoConfig.for_model(kind, initializer_range=0.5, **ids, **SIZES[kind])
    return AutoModelForCausalLM.from_config(config).double().eval()


def padded(rows):
    """Ids with a frequent token as padding on the left, and the mask."""
    width = max(map(len, rows))
    ids = torch.tensor([[7] * (width - len(row)) + row for row in rows])
    return ids, torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])


def cache_free(model, row, steps, candidates, penalty, exclude=0):
    """The definition: every candidate in a forward pass of its own, nothing is remembered."""
    seen = list(row)
    for _ in range(steps):
        probability = torch.softmax(model(torch.tensor([seen])).logits[0, -1], -1)
        actual = []
        for token in probability.topk(candidates).indices.tolist():
            out = model(torch.tensor([[*seen, token]]), output_hidden_states=True)
            states = out.hidden_states[-1][0]
            near = torch.cosine_similarity(states[-1:], states[exclude:-1])
            worst = near.max() if len(near) else 0.0
            actual.append((float((1 - penalty) * probability[token] - penalty * worst), token))
        seen.append(max(actual, key=lambda pair: pair[0])[1])
    return seen[len(row) :]


@pytest.mark.parametrize("kind", SHARING)
@torch.no_grad()
def test_a_padded_batch_equals_the_definition_row_by_row(kind):
    model = tiny_model(kind)
    ids, mask = padded(ROWS)
    actual = contrastive_search(
        model, ids, attention_mask=mask, max_new_tokens=8, candidates=4, penalty=0.6
    )
    assert actual.tolist() == [cache_free(model, row, 8, 4, 0.6) for row in ROWS]


@pytest.mark.parametrize("passes", ["shared", "expanded", "sequential"])
@torch.no_grad()
def test_all_ways_to_encode_candidates_give_the_same_tokens(passes):
    model = tiny_model()
    ids, mask = padded(ROWS)
    options = {"attention_mask": mask, "max_new_tokens": 8, "candidates": 4, "passes": passes}
    assert contrastive_search(model, ids, **options).tolist() == [
        cache_free(model, row, 8, 4, 0.6) for row in ROWS
    ]
    without = contrastive_search(model, ids, exclude_prefix=True, penalty=0.9, **options)
    expected = [cache_free(model, row, 8, 4, 0.9, exclude=len(row)) for row in ROWS]
    assert without.tolist() == expected


@torch.no_grad()
def test_the_penalty_matters_and_the_prefix_counts():
    model = tiny_model()
    ids = torch.tensor([ROWS[1]])
    options = {"max_new_tokens": 8, "candidates": 4}
    greedy = contrastive_search(model, ids, penalty=0.0, **options).tolist()
    full = contrastive_search(model, ids, penalty=0.9, **options).tolist()
    without = contrastive_search(model, ids, penalty=0.9, exclude_prefix=True, **options).tolist()
    assert greedy != full != without


def test_each_new_token_costs_one_pass_of_k_candidates():
    model, shapes = tiny_model(), []
    hook = model.register_forward_hook(
        lambda module, args, kwargs, out: shapes.append(tuple(kwargs["input_ids"].shape)),
        with_kwargs=True,
    )
    contrastive_search(model, torch.tensor([ROWS[0]] * 2), max_new_tokens=3, candidates=4)
    hook.remove()
    assert shapes == [(2, 3), (2, 4), (2, 4), (2, 4)]


def test_the_search_stops_when_all_rows_have_ended():
    model = tiny_model()
    ids, mask = padded(ROWS)
    full = contrastive_search(model, ids, attention_mask=mask, max_new_tokens=8, candidates=4)
    ends = torch.zeros(120, dtype=torch.bool)
    ends[full[:, 2]] = True
    short = contrastive_search(
        model, ids, attention_mask=mask, max_new_tokens=8, candidates=4, ends=ends
    )
    assert short.shape[1] <= 3
    torch.testing.assert_close(short, full[:, : short.shape[1]])


@pytest.mark.parametrize("strategy", ["contrastive_search", "greedy", "nucleus"])
def test_no_text_ends_before_the_least_number_of_tokens(strategy):
    lm = language_model()
    free = continued(lm, Policy(strategy), ROWS[:1])[0]
    lm.eos = free[1]
    assert len(continued(lm, Policy(strategy), ROWS[:1])[0]) <= 2
    held = continued(lm, Policy(strategy, min_new_tokens=5), ROWS[:1])[0]
    assert len(held) > 5
    assert lm.eos not in held[:5]


def test_rerank_breaks_ties_by_rank_and_ignores_masked_states():
    states, probability = torch.ones(1, 3, 2), torch.full((1, 3), 0.2)
    assert int(rerank(states, torch.ones(1, 1, 2), probability, 0.5).best) == 0
    context = torch.tensor([[[1.0, 1.0], [-1.0, -1.0]]])
    actual = rerank(states, context, probability, 0.5, torch.tensor([[0, 1]]))
    torch.testing.assert_close(actual.nearest, -torch.ones(1, 3))
    nothing = rerank(states, context, probability, 0.5, torch.tensor([[0, 0]]))
    torch.testing.assert_close(nothing.score, torch.full((1, 3), 0.1))


def test_wrong_options_are_refused():
    model, ids = tiny_model(), torch.tensor([[3]])
    with pytest.raises(ValueError, match="passes must be one of"):
        contrastive_search(model, ids, max_new_tokens=1, passes="fast")
    with pytest.raises(ValueError, match="121 candidates"):
        contrastive_search(model, ids, max_new_tokens=1, candidates=121)


def language_model(eos=None):
    """`tiny_model` with a tokenizer."""
    tokenizer = tiny_tokenizer(120)
    tokenizer.eos_token = eos
    return LanguageModel(tiny_model(), tokenizer, "cpu")


def continued(lm, policy, rows=ROWS, steps=10, **options):
    rngs = [sample_rng(0, 0, i) for i in range(len(rows))]
    return lm.continue_ids(rows, policy, rngs, steps, **options)


def test_beams_are_likelier_than_greedy_search():
    lm = language_model()

    def likelihood(rows):
        total = 0.0
        for row, new in zip(ROWS, rows, strict=True):
            logits = lm.model(torch.tensor([row + new])).logits[0].log_softmax(-1)
            total += sum(float(logits[len(row) + i - 1, t]) for i, t in enumerate(new))
        return total

    beams = continued(lm, Policy("beam_search", num_beams=6))
    assert likelihood(beams) > likelihood(continued(lm, Policy("greedy")))
    assert continued(lm, Policy("beam_search", num_beams=1)) == continued(lm, Policy("greedy"))


def test_no_repeat_and_repetition_penalty_hold_whatever_the_neighbours():
    lm = language_model()
    for policy in (Policy("greedy", no_repeat_ngram=2), Policy("greedy", repetition_penalty=1.5)):
        both = continued(lm, policy, steps=14)
        alone = [continued(lm, policy, [row], steps=14)[0] for row in ROWS]
        assert both == alone
        assert both != continued(lm, Policy("greedy"), steps=14)
        if policy.no_repeat_ngram:
            for row, new in zip(ROWS, both, strict=True):
                text = row + new
                pairs = list(itertools.pairwise(text))
                assert len(set(pairs)) == len(pairs)


def test_a_nucleus_beginning_is_followed_by_contrastive_search():
    lm = language_model()
    diverse = continued(lm, Policy("contrastive_search", nucleus_tokens=3))
    start = continued(lm, Policy("nucleus"), steps=3)
    assert [row[:3] for row in diverse] == start
    rest = continued(
        lm, Policy("contrastive_search"), [r + s for r, s in zip(ROWS, start, strict=True)], 7
    )
    assert [row[3:] for row in diverse] == rest
    assert Policy("contrastive_search", nucleus_tokens=3).samples


def test_rows_that_do_not_fit_are_refused_and_states_are_those_of_single_rows():
    lm = language_model()
    with pytest.raises(UserError, match="exceed this model's context of 64"):
        continued(lm, Policy("greedy"), [[3] * 60])
    ((states, mask),) = lm.states(ROWS)
    assert mask.sum(1).tolist() == [3, 6, 1]
    alone = lm.model(torch.tensor([ROWS[0]]), output_hidden_states=True).hidden_states[-1]
    np.testing.assert_allclose(states[0, :3], alone[0].detach(), atol=1e-10)
