import math

import pytest
import torch

from common.losses.image_text import ClipLoss
from common.losses.temperature import LogitScale


def test_starts_at_the_multiplier_and_is_the_log_inside():
    scale = LogitScale()
    assert scale().item() == pytest.approx(1 / 0.07)
    assert scale.log_scale.item() == pytest.approx(math.log(1 / 0.07))
    assert scale.log_scale.ndim == 0
    assert list(scale.state_dict()) == ["log_scale"]


@pytest.mark.parametrize(("raw", "clamped"), [(9.0, 100.0), (-3.0, 1.0), (2.0, math.exp(2.0))])
def test_clamp_keeps_the_raw_value_in_its_bounds(raw, clamped):
    scale = LogitScale()
    scale.log_scale.data.fill_(raw)
    scale.clamp_()
    assert scale().item() == pytest.approx(clamped)
    assert scale.log_scale.requires_grad


def test_no_upper_bound():
    scale = LogitScale(max_scale=None)
    scale.log_scale.data.fill_(9.0)
    scale.clamp_()
    assert scale().item() == pytest.approx(math.exp(9.0))


def test_a_fixed_scale_has_no_gradient_and_a_learnable_one_has():
    x = torch.randn(4, 3, requires_grad=True)
    for learnable in (True, False):
        scale = LogitScale(20.0, learnable=learnable)
        ClipLoss()(x, x.flip(0), scale()).loss.backward()
        assert (scale.log_scale.grad is not None) == learnable


@pytest.mark.parametrize(
    "options",
    [
        {"init": 0.0},
        {"init": -1.0},
        {"init": 200.0},
        {"init": 0.5},
        {"init": math.inf, "max_scale": None},
    ],
)
def test_refuses_an_init_outside_its_bounds(options):
    with pytest.raises(ValueError, match="init is not|0 < min_scale <= init <= max_scale"):
        LogitScale(**options)
