"""Exits at lower layers: which layers, with and without the last norm, and the choice among
them."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from common.config import UserError
from projects.lol.early_exit import (
    at_layer,
    candidate_layers,
    exit_logits,
    final_norm,
    furthest_layer,
    js_divergence,
    num_blocks,
)
from tests.unit.decoding.test_contrastive_search import LLAMA, SIZES, tiny_model

AFTER_HEAD = {
    "cohere": ({"logit_scale": 0.25}, lambda x: 0.25 * x),
    "gemma2": (
        {"final_logit_softcapping": 0.5, "head_dim": 8, "layer_types": ["full_attention"] * 2},
        lambda x: 0.5 * (x / 0.5).tanh(),
    ),
    "granite": ({"logits_scaling": 3.0}, lambda x: x / 3),
}


@pytest.mark.parametrize("kind", sorted(SIZES))
def test_the_last_exit_is_the_model_itself_with_and_without_the_flag(kind):
    """A lower exit is the head on the raw state, or on the normed one."""
    model = tiny_model(kind)
    out = model(torch.tensor([[3, 9, 4]]), output_hidden_states=True)
    last, first = num_blocks(model), out.hidden_states[1]
    assert len(out.hidden_states) == last + 1
    for norm in (False, True):
        actual = exit_logits(model, out.hidden_states[last], last, norm=norm)
        torch.testing.assert_close(actual, out.logits)
    head = model.get_output_embeddings()
    assert torch.equal(exit_logits(model, first, 1), head(first))
    assert torch.equal(exit_logits(model, first, 1, norm=True), head(final_norm(model)(first)))
    assert not torch.allclose(exit_logits(model, first, 1), exit_logits(model, first, 1, norm=True))


@pytest.mark.parametrize("kind", AFTER_HEAD)
def test_exits_are_scaled_and_bounded_as_the_model_s_logits_are(kind):
    """The contrast with the last layer would be one of two temperatures otherwise."""
    own, after = AFTER_HEAD[kind]
    torch.manual_seed(0)
    ids = {"bos_token_id": 2, "eos_token_id": None, "pad_token_id": 1}
    config = AutoConfig.for_model(kind, **{**LLAMA, **ids, "initializer_range": 0.5, **own})
    model = AutoModelForCausalLM.from_config(config).double().eval()
    out = model(torch.tensor([[3, 9, 4]]), output_hidden_states=True)
    for norm in (False, True):
        actual = exit_logits(model, out.hidden_states[2], 2, norm=norm)
        torch.testing.assert_close(actual, out.logits)
    first = out.hidden_states[1]
    expected = after(model.get_output_embeddings()(first))
    torch.testing.assert_close(exit_logits(model, first, 1), expected)


def test_an_unknown_norm_is_refused():
    model = tiny_model("llama")
    del model.model.norm
    with pytest.raises(UserError, match="early_exit_norm"):
        final_norm(model)


def test_buckets_of_other_depths():
    assert candidate_layers("dola_low", 32) == list(range(0, 16, 2))
    assert candidate_layers("pli_mid", 32) == [12, 16, 20]
    assert candidate_layers("dola_high", 5) == [2, 4]
    assert candidate_layers("pli_low", 4) == [1]
    assert candidate_layers([3, 1], 4) == [3, 1]
    for wrong in ([], [4], [1, 1], "upper"):
        with pytest.raises(UserError, match="layers"):
            candidate_layers(wrong, 4)


def test_the_choice_is_made_at_every_place_of_every_row():
    """A batch gives what its places give alone, and values follow the choice."""
    draw = torch.Generator().manual_seed(0)
    mature = 2 * torch.randn(3, 4, 7, generator=draw).double()
    exits = 2 * torch.randn(5, 3, 4, 7, generator=draw).double()
    chosen, spread = furthest_layer(mature, exits)
    taken = at_layer(exits, chosen)
    assert len(set(chosen.flatten().tolist())) > 1
    for b in range(3):
        for t in range(4):
            alone = torch.stack([js_divergence(mature[b, t], exits[c, b, t]) for c in range(5)])
            torch.testing.assert_close(spread[:, b, t], alone)
            assert int(alone.argmax()) == int(chosen[b, t])
            assert torch.equal(taken[b, t], exits[chosen[b, t], b, t])


def test_the_divergence_by_hand():
    p = torch.tensor([0.5, 0.5], dtype=torch.float64)
    q = torch.tensor([0.9, 0.1], dtype=torch.float64)
    m = (p + q) / 2
    by_hand = ((m * (m / p).log()).sum() + (m * (m / q).log()).sum()) / 4
    torch.testing.assert_close(js_divergence(p.log(), q.log()), by_hand)
