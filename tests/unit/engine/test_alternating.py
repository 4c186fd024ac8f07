"""Several optimiser steps on one batch, counted by hand."""

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from common.config import ExperimentConfig, OptimConfig, TrainerConfig, UserError
from common.data.module import ContrastiveData
from common.engine.experiment import Stage
from common.engine.module import AlternatingModule, NonFiniteLossError, part_gradients
from common.engine.trainer import build_trainer, check_accumulation
from common.engine.workspace import Workspace


class Players(AlternatingModule):
    """Three steps: a, b, a; the loss of each is the product of both."""

    def __init__(self, *, broken: int | None = None) -> None:
        super().__init__(OptimConfig(name="sgd", momentum=0.0, lr=0.5, schedule="linear"))
        self.a, self.b, self.broken = (
            nn.Linear(1, 1, bias=False),
            nn.Linear(1, 1, bias=False),
            broken,
        )
        self.finished = 0
        with torch.no_grad():
            self.a.weight.fill_(2.0)
            self.b.weight.fill_(3.0)

    def parts(self):
        return {"a": self.a, "b": self.b}

    def updates(self, batch):
        for number, name in enumerate(("a", "b", "a")):
            loss = (self.a.weight * self.b.weight).sum()
            if number == self.broken:
                loss = loss * float("nan")
            yield name, {"loss": loss, f"loss_{name}": loss}

    def after_optimizer_step(self) -> None:
        self.finished += 1


def fit(module, steps, **options):
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(module, DataLoader(torch.zeros(8, 1), batch_size=1))
    return trainer


def test_each_step_moves_its_part_and_the_next_one_sees_it():
    module = Players()
    trainer = fit(module, 2)
    a, b = 2.0, 3.0
    for rate in (0.5, 0.25):  # linear over two batches, not over six steps
        a -= rate * b
        b -= rate * a
        a -= rate * b
    assert module.a.weight.item() == pytest.approx(a)
    assert module.b.weight.item() == pytest.approx(b)
    assert trainer.global_step == 2
    assert module.finished == 2
    assert module.logged_terms().keys() == {"loss", "loss_a", "loss_b"}


def test_of_a_term_that_comes_twice_the_first_is_logged():
    module = Players()
    fit(module, 1)
    assert module.logged_terms()["loss"].item() == 6.0
    assert module.logged_terms()["loss_b"].item() == pytest.approx(0.5 * 3.0)


@pytest.mark.parametrize("broken", [0, 1, 2])
def test_a_loss_that_is_not_finite_stops_before_its_step(broken):
    module = Players(broken=broken)
    with pytest.raises(NonFiniteLossError):
        fit(module, 1)
    assert module.a.weight.isfinite().all()
    assert (module.a.weight.item() == 2.0) == (broken == 0)
    assert (module.b.weight.item() == 3.0) == (broken < 2)


def test_half_precision_with_a_scaler_is_refused():
    module = Players()
    module._trainer = type("T", (), {"precision": "16-mixed", "strategy": None})()
    with pytest.raises(UserError, match="32-true or bf16-mixed"):
        AlternatingModule.configure_optimizers(module)


def test_part_gradients_leave_all_others_alone():
    a, b = torch.tensor([2.0], requires_grad=True), torch.tensor([3.0], requires_grad=True)
    (actual,) = part_gradients((a * b).sum(), [a])
    assert actual.tolist() == [3.0]
    assert a.grad is None
    assert b.grad is None


def test_every_step_is_clipped_on_its_own():
    """As the trainer clips where it makes the steps: gradients of norm 3, 2 and so on become
    0.1."""
    module = Players()
    module.largest_norm = 0.1
    fit(module, 1)
    assert module.a.weight.item() == pytest.approx(2.0 - 2 * 0.5 * 0.1)
    assert module.b.weight.item() == pytest.approx(3.0 - 0.5 * 0.1)
    free, same = Players(), Players()
    free.largest_norm, same.largest_norm = 100.0, None
    fit(free, 2)
    fit(same, 2)
    assert torch.equal(free.a.weight, same.a.weight)


def test_the_engine_hands_the_largest_norm_to_the_module_and_refuses_accumulation(tmp_path):
    cfg = ExperimentConfig(
        trainer=TrainerConfig(max_steps=2, gradient_clip_val=0.1, accelerator="cpu")
    )
    for alternating in (True, False):
        module = Players()
        module.automatic_optimization = not alternating
        stage = Stage(
            "play", module, ContrastiveData(TensorDataset(torch.zeros(8, 1)), batch_size=1, seed=0)
        )
        trainer = build_trainer(cfg, stage, 0, Workspace(tmp_path), [])
        assert module.largest_norm == (0.1 if alternating else None)
        assert trainer.gradient_clip_val == (None if alternating else 0.1)
        several = TrainerConfig(max_steps=2, accumulate_grad_batches=2, allow_small_negatives=True)
        if not alternating:
            check_accumulation(several, stage)
            continue
        with pytest.raises(UserError, match="'play' makes several optimiser steps on each batch"):
            check_accumulation(several, stage)
