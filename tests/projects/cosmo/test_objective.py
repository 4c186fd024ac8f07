"""The objective: values worked out by hand, and where its gradient goes."""

import pytest
import torch
from torch import Tensor

from common.config import load
from projects.cosmo.config import Config, MethodConfig
from projects.cosmo.data import build_data
from projects.cosmo.module import Cosmo
from projects.cosmo.objective import Objective


def wave(phase: float) -> Tensor:
    """Three embeddings of dimension four, as a formula."""
    return torch.arange(12, dtype=torch.float64).add(phase).sin().view(3, 4)


def test_equation_1_has_the_value_that_its_formula_gives():
    """Golden value, computed from the formula with NumPy in float64."""
    terms = Objective(MethodConfig(temperature=0.5, pull_weight=2.0))(wave(1), wave(1.5))
    assert float(terms["nt_xent"]) == pytest.approx(0.343220264620, rel=1e-9)
    assert float(terms["pull"]) == pytest.approx(0.237632393561, rel=1e-9)
    assert float(terms["loss"]) == pytest.approx(0.818485051742, rel=1e-9)


def test_pairs_that_belong_together_cost_less():
    objective, view = Objective(MethodConfig()), wave(1)
    right, wrong = objective(view, view)["loss"], objective(view, view.roll(1, 0))["loss"]
    assert float(right) < float(wrong)


def test_the_gradient_reaches_every_parameter():
    cfg = load(Config, "cosmo", "smoke")
    module = Cosmo(cfg)
    batch = build_data(cfg).train_set[[(index, 0) for index in range(8)]]
    module.losses(batch)["loss"].backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.abs().sum() > 0), name
