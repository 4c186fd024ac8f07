"""The objective: a value worked out from its formula, and what it rewards."""

import pytest
import torch
from torch import Tensor

from projects.new_project.config import MethodConfig
from projects.new_project.objective import Objective


def wave(phase: float) -> Tensor:
    """Three embeddings of dimension four, as a formula."""
    return torch.arange(12, dtype=torch.float64).add(phase).sin().view(3, 4)


def test_equation_1_has_the_value_that_its_formula_gives():
    """Golden value, computed from the formula with NumPy in float64."""
    terms = Objective(MethodConfig(pull_weight=2.0))(wave(1), wave(1.5), scale=2.0)
    assert float(terms["info_nce"]) == pytest.approx(0.218035156781, rel=1e-9)
    assert float(terms["pull"]) == pytest.approx(0.237632393561, rel=1e-9)
    assert float(terms["loss"]) == pytest.approx(0.693299943903, rel=1e-9)


def test_pairs_that_belong_together_cost_less():
    objective, view = Objective(MethodConfig()), wave(1)
    right, wrong = objective(view, view, 5.0)["loss"], objective(view, view.roll(1, 0), 5.0)["loss"]
    assert float(right) < float(wrong)
