"""Memory estimate of `make check`: fixed part and activations, blocks recomputed or not."""

from typing import get_args, get_type_hints

import pytest
import torch
from torch import nn

from common.config import DataConfig, ExperimentConfig, OptimConfig, TrainerConfig
from common.engine.check import (
    GIB,
    UNKNOWN,
    count_steps,
    fixed_bytes,
    inspect,
    memory_rows,
    saved_activations,
)
from common.engine.experiment import Plan
from common.engine.module import ContrastiveModule


class Block(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.a, self.b = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x):
        return x + self.b(self.a(x).relu())


class Net(ContrastiveModule):
    def __init__(self, dim=64, depth=3, units=True):
        super().__init__(OptimConfig())
        self.blocks = nn.Sequential(*(Block(dim) for _ in range(depth)))
        self.units = units

    def fsdp_units(self):
        return {Block} if self.units else set()


def plan(depth=3, units=True):
    def forward(module, rows):
        return module.blocks(torch.ones(rows, 64)).sum()

    return Plan(lambda: Net(depth=depth, units=units), 0, forward)


def meta(**options):
    with torch.device("meta"):
        return Net(**options)


def config(**trainer):
    return ExperimentConfig(trainer=TrainerConfig(max_steps=1, **trainer))


def test_fixed_part_counts_what_is_trained():
    module = meta()
    weights = 4 * sum(p.numel() for p in module.parameters())
    fixed, block = fixed_bytes(module, config())
    assert fixed == 4 * weights  # weights, gradients, two moments
    assert block == weights // 3
    module.requires_grad_(False)
    assert fixed_bytes(module, config())[0] == weights
    assert fixed_bytes(module, config(precision="bf16-true"))[0] == weights // 2
    assert fixed_bytes(meta(units=False), config())[1] == weights


def test_recomputed_blocks_keep_their_inputs_and_one_inside():
    saved = saved_activations(plan(), meta(), 10)
    x, hidden = 10 * 64 * 4, 10 * 256 * 4
    assert saved.largest_block >= hidden
    assert saved.total >= 3 * hidden
    assert saved.recomputed < saved.total
    assert saved.recomputed >= 3 * x + saved.largest_block
    deep = saved_activations(plan(9), meta(depth=9), 10)
    assert deep.recomputed - saved.recomputed == 6 * x


def test_rows_name_every_strategy():
    rows = memory_rows(plan(), meta(), 1000, 16, config())
    names = [name for name in rows if name.startswith("memory, ")]
    assert names == [
        "memory, one device, or DDP",
        *(f"memory, FSDP on {n} devices" for n in (2, 4, 8, 16)),
    ]
    assert "gradient checkpointing" in rows["memory, one device, or DDP"]
    assert not [
        n
        for n in memory_rows(plan(units=False), meta(units=False), 10, 1, config())
        if "FSDP on" in n
    ]
    assert (
        f"{saved_activations(plan(), meta(), 1000).total / GIB:.2f} GiB"
        in rows["activations (upper estimate)"]
    )


@pytest.mark.parametrize("name", get_args(get_type_hints(OptimConfig)["name"]))
def test_every_optimiser_has_its_states_counted(name):
    cfg = ExperimentConfig(optim=OptimConfig(name=name), trainer=TrainerConfig(max_steps=1))
    whole, _ = fixed_bytes(meta(), cfg)
    weights = sum(p.numel() * 4 for p in meta().parameters())
    assert 2 * weights <= whole <= 4 * weights


def test_activations_that_cannot_be_counted_are_said_and_the_rest_is_shown():
    def looks_at_a_value(module, rows):
        return module.blocks(torch.ones(rows, 64)).sum() * torch.ones(1).item()

    bad = Plan(lambda: Net(), 0, looks_at_a_value)
    rows = memory_rows(bad, meta(), 10, 1, config())
    assert rows["activations"].startswith("not known")
    assert "weights + gradients + optimiser" in rows


def test_fewer_samples_than_a_batch_tell_no_number_of_steps(tmp_path):
    """Interaction logs that are not here counted as one sample, and the paper's cost as one
    step."""
    trainer = TrainerConfig(max_epochs=100, max_steps=None)
    cfg = ExperimentConfig(data=DataConfig(batch_size=256), trainer=trainer)
    batch = cfg.data.batch_size
    assert [count_steps(cfg, n) for n in (0, 1, batch - 1)] == [0, 0, 0]
    assert count_steps(cfg, 2 * batch) == 200
    rows = inspect("mclrec", "paper", [f"data.root={tmp_path}"])
    assert (rows["samples"], rows["steps"]) == (UNKNOWN, "by the data")


def test_check_says_what_make_train_would_refuse_on_this_machine(tmp_path):
    """Data that is missing and devices that are not there; nothing is said of a config that can
    run.
    """
    assert "not ready here" not in inspect("simcse", "smoke", [])
    many = torch.cuda.device_count() + 1
    rows = inspect("simcse", "smoke", ["trainer.accelerator=gpu", f"trainer.devices={many}"])
    assert f"trainer.devices={many}: this machine has" in rows["not ready here"]
    rows = inspect("mclrec", "paper", [f"data.root={tmp_path}"])
    missing = [name for name, value in rows.items() if value.startswith("MISSING")]
    assert missing
    assert rows["not ready here"].startswith(f"{len(missing)} of the above MISSING")
