"""What a paper config would cost: counted on the meta device, written as a page."""

from dataclasses import replace

import pytest
import torch

from common.config import TrainerConfig, UserError
from common.engine import cost
from common.engine.cost import Cost, Unknown, measure, page, paper_configs, problems
from common.engine.node import forward_flops, without_values


def test_flops_are_those_of_the_products():
    layer = torch.nn.Linear(8, 4, bias=False, device="meta")
    flops = forward_flops(lambda module, batch: module(torch.empty(batch, 8)), layer, 16)
    assert flops == 2 * 16 * 8 * 4


def test_conditions_are_false_on_the_meta_device_and_numbers_are_refused():
    with without_values():
        mask = torch.ones(2, 3, dtype=torch.bool)
        assert not mask.all()
        assert not (torch.arange(3) > 1).any()
        with pytest.raises(RuntimeError, match="meta"):
            int(torch.arange(3).max())
        states, weights = torch.empty(6, 4), torch.empty(2, 4, 5)
        ends = torch.tensor([3, 6], dtype=torch.int32)
        assert torch._grouped_mm(states, weights, ends).shape == (6, 5)


def test_a_step_counts_all_devices_and_accumulated_batches():
    one = measure("contriever", "paper")
    words = ["trainer.accumulate_grad_batches=2", "trainer.num_nodes=2"]
    other = measure("contriever", "paper", words)
    assert one.devices == 2 * other.devices
    assert other.flops == pytest.approx(one.flops)
    assert one.hours == pytest.approx(one.flops * one.steps / (one.peak * cost.UTILISATION) / 3600)
    assert one.parameters[1] == one.parameters[0] / 2  # query and key encoder
    assert one.sharded < one.memory
    # 12 layers of 12 d^2 parameters, 2 operations each, for crops of up to 256 tokens in two
    # encoders
    tokens = 2048 * 2 * 256
    assert 0.05 < one.flops / (3 * 2 * 85e6 * tokens) < 1.6


def test_what_lies_beside_the_optimiser_counts_too():
    """The class matrix of MOFI: 2,000,000 x 512 with moments, shared out among the devices."""
    one = measure("mofi", "paper", ["trainer.num_nodes=1", "trainer.devices=1"])
    none = measure(
        "mofi", "paper", ["trainer.num_nodes=1", "trainer.devices=1", "method.recipe=contrastive"]
    )
    assert one.memory - none.memory > 11 * 2**30


def test_a_config_that_cannot_be_built_is_named_with_the_reason(monkeypatch):
    def refuse(project, config):
        raise UserError("no | size")

    monkeypatch.setattr(cost, "measure", refuse)
    actual = list(cost.all_costs(["dcl"]))
    assert [f.config for f in actual] == paper_configs("dcl")
    assert "| not known: no   size |" in page(actual)


def test_the_page_has_a_row_per_config_and_leaves_blank_what_is_not_known():
    known = Cost(
        "a", "paper", (2_000_000, 1_000_000), 1e12, 10, 1e15, 8, 7, 2**30, 2**29, ("w", "x|y")
    )
    bare = Cost("a", "paper_2", (1, 1), None, 10, 1e15, 1, 7, None, None, tuple("abcdef"))
    rows = [line for line in page([known, bare]).splitlines() if line.startswith("| paper")]
    assert rows[0].startswith(
        "| paper | 2.0 (1.0) | 1.0e+12 | 10 | 8 | 7 | 1.0 / 0.5 | 0.0 | w, x\\|y |"
    )
    assert rows[1].split(" | ")[2] == ""
    assert rows[1].endswith("| a, b, c, d, 2 more |")


@pytest.mark.slow
def test_recomputed_blocks_keep_less_and_pass_forward_again():
    """ccp's `paper` has the switch on: 512 texts of 256 tokens in 24 layers."""
    one = measure("ccp", "paper")
    kept = measure("ccp", "paper", ["model.grad_checkpointing=false"])
    assert one.flops == pytest.approx(kept.flops * cost.RECOMPUTED / cost.BACKWARD)
    assert one.memory < kept.memory / 3
    assert one.memory > 562e6 * 16  # weights, gradients and two moments stay


def test_hours_are_those_of_the_precision_that_is_trained_in():
    peaks = [
        cost.peak(TrainerConfig(max_steps=1, precision=precision, matmul=matmul))
        for precision, matmul in [
            ("32-true", "highest"),
            ("32-true", "high"),
            ("bf16-mixed", "highest"),
        ]
    ]
    assert peaks == sorted(peaks)
    assert len(set(peaks)) == 3


def test_a_config_larger_than_a_device_is_marked():
    """By the memory of its strategy."""
    sizes = {"memory": 100e9, "sharded": 20e9}
    cost = Cost("a", "paper", (1, 1), None, 10, 1e15, 8, 7, **sizes, needs=())
    assert not cost.fits
    assert "| **93.1 / 18.6** |" in page([cost])
    assert replace(cost, strategy="fsdp").fits


def test_each_config_without_a_figure_that_fits_is_a_sentence():
    fitting = Cost("a", "paper", (1, 1), None, 10, 1e15, 8, 7, 70e9, 20e9, needs=())
    costs = [
        fitting,
        replace(fitting, config="paper_large", memory=90.4e9),
        replace(fitting, config="paper_blank", memory=None, sharded=None, reason="no shapes"),
        Unknown("b", "paper", "no such width"),
    ]
    assert problems(costs) == [
        "a/paper_large needs 90 GB of a device's 80 GB",
        "a/paper_blank has no memory figure: no shapes",
        "b/paper cannot be built: no such width",
    ]
