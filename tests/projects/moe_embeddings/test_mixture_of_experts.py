"""Mixture layers: conversion, each routing against a loop over rows, gradients, shapes on meta."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from common.config import UserError
from common.encoders.text.tower import load_transformer
from projects.moe_embeddings.mixture_of_experts import (
    MixtureOfExperts,
    Routes,
    copies,
    feed_forwards,
    group_sizes,
    grouped,
    mixtures,
    parameter_counts,
    to_mixture,
)
from tests.unit.losses.golden import assert_close, fill, load

GOLDEN = load("moe_embeddings")["outputs"]
SMALL = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "vocab_size": 50,
    "max_position_embeddings": 32,
}
CONFIGS = {
    "bert": {"model_type": "bert", "num_hidden_layers": 3, "num_attention_heads": 2, **SMALL},
    "modernbert": {
        "model_type": "modernbert",
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "cls_token_id": 1,
        "sep_token_id": 2,
        **SMALL,
    },
    "distilbert": {
        "model_type": "distilbert",
        "n_layers": 3,
        "n_heads": 2,
        "dim": 16,
        "hidden_dim": 24,
        "vocab_size": 50,
        "max_position_embeddings": 32,
    },
}
IDS = torch.arange(5 * 6).view(5, 6) % 47 + 3
EXPERTS = torch.tensor([2, 0, 2, 1, 0])


def model_of(kind, device="cpu"):
    torch.manual_seed(0)
    with torch.device(device):
        return load_transformer("random", config=CONFIGS[kind]).eval()


def maps():
    """The golden experts x @ M_i."""
    actual = []
    for i in range(4):
        layer = nn.Linear(4, 4, bias=False).double()
        layer.weight.data = fill((4, 4), i).detach().T.contiguous()
        actual.append(layer)
    return actual


def golden_layer(routing, routes):
    layer = MixtureOfExperts(maps(), 4, routing, routes, top_k=2).double()
    if layer.gate is not None:
        layer.gate.weight.data = fill((4, 4), 0.6).detach()
    return layer


# -- golden --------------------------------------------------------------------------------------


def test_enforced_routing_equals_the_golden_values_by_any_way_of_telling_it():
    x, assignment, routes = fill((5, 2, 4), 0.5), torch.tensor([2, 0, 2, 1, 0]), Routes()
    layer = golden_layer("enforced", routes)
    routes.begin(assignment)
    out = layer(x)
    expected = GOLDEN["enforced_routing"]
    assert_close(out, expected["out_first8"])
    assert_close(out.abs().sum(), expected["out_abs_sum"])
    order = assignment.argsort(stable=True)
    routes.begin(sizes=[2, 1, 2, 0])  # rows side by side: no row is moved
    torch.testing.assert_close(layer(x[order])[order.argsort()], out)
    routes.begin(assignment[:, None].expand(5, 2))  # by token type
    torch.testing.assert_close(layer(x), out)
    routes.begin(assignment.roll(1))  # the comparison can fail
    assert not torch.allclose(layer(x), out)


@pytest.mark.parametrize("level", ["sentence", "token"])
def test_mixed_experts_equal_the_golden_values(level):
    routes = Routes()
    routes.begin()
    expected = GOLDEN["topk_blocks"]
    assert_close(golden_layer(level, routes)(fill((5, 2, 4), 0.5)), expected[f"{level}_first8"])
    assert_close(routes.logits[0][0], expected[f"{level}_router_logits_row0"], absolute=1e-10)


# -- routing -------------------------------------------------------------------------------------


def test_switch_takes_the_best_expert_unweighted_and_padding_has_no_say():
    routes = Routes()
    layer, x = golden_layer("switch", routes), fill((5, 3, 4), 0.9).detach()
    mask = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 1, 1], [1, 1, 0]])
    routes.begin(mask=mask)
    out = layer(x)
    for b in range(5):
        logits = layer.gate(x[b, : int(mask[b].sum())]).mean(0)
        torch.testing.assert_close(routes.logits[0][b], logits)
        torch.testing.assert_close(out[b], layer.experts[int(logits.argmax())](x[b]))
    changed = torch.where(mask[..., None].bool(), x, x + 7)
    routes.begin(mask=mask)
    layer(changed)
    torch.testing.assert_close(
        routes.logits[0], layer.gate(x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    )


def test_every_expert_runs_once_in_one_piece_and_idle_ones_get_a_zero_gradient():
    calls = []

    class Counting(nn.Linear):
        def forward(self, x):
            calls.append(len(x))
            return super().forward(x)

    experts = [Counting(4, 4) for _ in range(4)]
    out = grouped(experts, torch.randn(5, 2, 4), torch.tensor([2, 0, 2, 3, 0]))
    assert calls == [2, 0, 2, 1]
    out.sum().backward()
    assert [bool(e.weight.grad.abs().sum() > 0) for e in experts] == [True, False, True, True]
    assert experts[1].weight.grad is not None


def test_a_wrong_assignment_is_refused():
    routes = Routes()
    layer = golden_layer("enforced", routes)
    for given in (None, torch.zeros(4, dtype=torch.long)):
        routes.begin(given)
        with pytest.raises(ValueError, match="need an expert each"):
            layer(fill((5, 2, 4), 0.5))
    with pytest.raises(ValueError, match="routing must be one of"):
        MixtureOfExperts(maps(), 4, "soft", routes)
    with pytest.raises(ValueError, match="top_k must be in 1 to 4"):
        MixtureOfExperts(maps(), 4, "sentence", routes, top_k=5)


# -- conversion ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CONFIGS)
def test_outputs_stay_what_they_are_for_every_assignment(kind):
    """The experts are copies; one that is changed changes its own documents and no other."""
    model = model_of(kind)
    before = model(input_ids=IDS).last_hidden_state
    routes = to_mixture(model, 3)
    assert len(list(mixtures(model))) == 3
    for assignment in (EXPERTS, torch.zeros(5, dtype=torch.long), torch.tensor([2, 2, 2, 2, 2])):
        routes.begin(assignment)
        torch.testing.assert_close(model(input_ids=IDS).last_hidden_state, before)
    with torch.no_grad():
        for p in next(mixtures(model)).experts[1].parameters():
            p.add_(torch.randn_like(p))
    routes.begin(EXPERTS)
    moved = (model(input_ids=IDS).last_hidden_state - before).abs().amax((1, 2)) > 1e-5
    assert moved.tolist() == EXPERTS.eq(1).tolist()


def test_token_routing_preserves_outputs_at_the_start_and_sentence_routing_does_not():
    for routing, kept in (("token", True), ("sentence", False)):
        model = model_of("bert")
        before = model(input_ids=IDS).last_hidden_state
        routes = to_mixture(model, 4, routing=routing)
        routes.begin()
        after = model(input_ids=IDS).last_hidden_state
        assert torch.allclose(after, before, atol=1e-5) == kept
        assert len(routes.logits) == 3


def test_one_layer_is_the_one_in_the_middle():
    model = model_of("bert")
    to_mixture(model, 2, layers="middle")
    actual = [isinstance(f.block.intermediate, MixtureOfExperts) for f in feed_forwards(model)]
    assert actual == [False, True, False]


def test_parameters_in_all_and_of_a_document():
    model = model_of("modernbert")
    dense = parameter_counts(model)[0]
    layer = sum(p.numel() for p in feed_forwards(model)[0].module.parameters())
    assert parameter_counts(model) == (dense, dense)
    to_mixture(model, 5)
    assert parameter_counts(model) == (dense + 4 * 3 * layer, dense)
    mixed = model_of("bert")
    dense = parameter_counts(mixed)[0]
    layer = sum(p.numel() for p in feed_forwards(mixed)[0].module.parameters())
    to_mixture(mixed, 4, routing="sentence", top_k=2)
    gates = 3 * 4 * 16
    assert parameter_counts(mixed) == (dense + 3 * 3 * layer + gates, dense + 3 * layer + gates)


def test_a_pass_costs_the_arithmetic_of_the_dense_model():
    """Twin: a layer that evaluates all experts costs E times its share."""

    def flops(run):
        with FlopCounterMode(display=False) as counter:
            run().sum().backward()
        return counter.get_total_flops()

    model = model_of("bert")
    dense = flops(lambda: model(input_ids=IDS).last_hidden_state)
    routes = to_mixture(model, 4)
    routes.begin(torch.tensor([3, 0, 2, 1, 0]))
    assert flops(lambda: model(input_ids=IDS).last_hidden_state) == dense
    layer, x = next(mixtures(model)), torch.randn(5, 6, 16)
    everything = flops(lambda: torch.stack([e(x) for e in layer.experts]))
    assert everything > 3.9 * flops(lambda: layer(x))


def test_shapes_on_the_meta_device_need_no_value():
    model = model_of("bert", "meta")
    for routing in ("enforced", "sentence"):
        routes = to_mixture(model_of("bert", "meta"), 4, routing=routing)
        routes.begin(EXPERTS.to("meta"))
    routes = to_mixture(model, 4, routing="token")
    routes.begin()
    out = model(input_ids=IDS.to("meta")).last_hidden_state
    assert out.shape == (5, 6, 16)
    assert out.is_meta
    assert sum(group_sizes(torch.zeros(5, dtype=torch.long, device="meta"), 4)) == 5


def test_copies_share_no_weight():
    first, second = copies(nn.Linear(2, 2), 2)
    assert torch.equal(first.weight, second.weight)
    assert first.weight.data_ptr() != second.weight.data_ptr()


def test_an_unknown_architecture_is_refused():
    with pytest.raises(UserError, match="feed-forward layers of Sequential are not known"):
        feed_forwards(nn.Sequential(nn.ModuleList([nn.Linear(2, 2)])))
