"""Losses of routers: golden values, values by hand, gradients."""

import math

import pytest
import torch

from projects.moe_embeddings.routing_losses import (
    AccumulatedInformation,
    load_balancing,
    router_information,
    specified_expert,
)
from tests.unit.losses.golden import assert_close, fill, load

GOLDEN = load("moe_embeddings")["outputs"]["router_losses"]
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


def layers():
    return [fill((6, 4), 0.4), fill((6, 4), 0.8)]


def test_golden_values_of_balance_and_given_experts():
    assert_close(0.05 * load_balancing(layers()), GOLDEN["load_balancing"])
    assert_close(0.01 * specified_expert(layers(), LABELS), GOLDEN["specified_expert"])


def test_golden_values_of_the_growing_table_over_two_calls():
    loss = AccumulatedInformation(3, 4, 2).double()
    actual = [0.01 * loss(layers(), LABELS) for _ in range(2)]
    assert_close(torch.stack(actual), GOLDEN["MI_two_calls"])
    assert not actual[0].requires_grad
    assert "table" in loss.state_dict()


def test_balance_is_one_for_even_routers_and_e_for_one_expert():
    even = torch.eye(4).repeat(2, 1) * 50
    assert float(load_balancing([even, even])) == pytest.approx(1.0)
    assert float(load_balancing([even[:1].expand(8, 4)])) == pytest.approx(4.0)


def test_information_is_what_counting_gives_and_has_a_gradient():
    """Two of three tasks share an expert: log 3 - 2/3 log 2; an even router tells nothing."""
    logits = torch.tensor([[90.0, 0], [90.0, 0], [0, 90.0]], dtype=torch.float64)
    logits.requires_grad_()
    actual = router_information([logits], torch.tensor([0, 1, 2]), 3)
    assert float(actual) == pytest.approx(math.log(3) - 2 / 3 * math.log(2))
    assert float(
        router_information([torch.zeros(3, 2)], torch.tensor([0, 1, 2]), 3)
    ) == pytest.approx(0.0, abs=1e-7)
    soft = fill((6, 4), 0.4)
    torch.autograd.gradcheck(lambda x: router_information([x, x.flip(0)], LABELS, 3), (soft,))
    router_information([soft], LABELS, 5).backward()  # tasks that do not occur
    assert torch.isfinite(soft.grad).all()


def test_without_a_router_there_is_nothing_to_lose():
    for loss in (load_balancing, lambda x: specified_expert(x, LABELS)):
        with pytest.raises(ValueError, match="no layer has a router"):
            loss([])
