"""Schedules, parameter groups, optimisers."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from common.config import OptimConfig
from common.engine.optim import (
    LARS,
    BertAdam,
    build_optimizer,
    build_schedule,
    decay_groups,
    lr_at,
    scaled_optim,
)


def test_warm_up_reaches_the_peak_at_its_last_step_and_ends_at_the_final_value():
    args = {
        "lr": 1.0,
        "total_steps": 20,
        "warmup_steps": 5,
        "warmup_start_lr": 0.2,
        "final_lr": 0.1,
    }
    assert lr_at(0, **args) == pytest.approx(0.2)
    assert lr_at(4, **args) == lr_at(5, **args) == pytest.approx(1.0)
    assert lr_at(20, **args) == lr_at(99, **args) == pytest.approx(0.1)
    assert lr_at(10, schedule="constant", **args) == 1.0
    assert lr_at(12, **args) < 1.0 < 2.0
    linear = [lr_at(s, schedule="linear", **args) for s in range(5, 21)]
    steps = torch.tensor(linear).diff()
    assert torch.allclose(steps, steps[0].expand_as(steps), atol=1e-6)


def test_a_trapezoid_does_not_depend_on_the_length_before_it_decays():
    args = {"lr": 1.0, "warmup_steps": 2, "schedule": "trapezoid", "decay_steps": 4}
    short = [lr_at(s, total_steps=10, **args) for s in range(12)]
    assert short[:7] == [lr_at(s, total_steps=50, **args) for s in range(7)]
    assert short[6:] == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    with pytest.raises(ValueError, match="need each other"):
        OptimConfig(schedule="trapezoid")
    with pytest.raises(ValueError, match="need each other"):
        OptimConfig(decay_steps=5)


def test_learning_rate_follows_the_global_batch_size():
    def lr(rule, size):
        return scaled_optim(OptimConfig(lr=0.075, lr_scaling=rule, lr_batch=64), size).lr

    assert [lr(rule, 256) for rule in ("none", "linear", "sqrt")] == pytest.approx(
        [0.075, 0.3, 0.15]
    )
    assert lr("linear", 32) == pytest.approx(0.0375)
    assert lr("none", 0) == 0.075
    with pytest.raises(ValueError, match="needs the global batch size"):
        lr("sqrt", 0)


def test_weight_decay_spares_vectors_norms_and_scales():
    net = nn.ModuleDict({"fc": nn.Linear(3, 4), "ln_1": nn.LayerNorm(4), "emb": nn.Embedding(5, 4)})
    net.register_parameter("logit_scale", nn.Parameter(torch.zeros(())))
    decayed, spared = decay_groups(net.named_parameters(), 0.1)
    assert {id(p) for p in decayed["params"]} == {id(net["fc"].weight), id(net["emb"].weight)}
    assert len(spared["params"]) == 4
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)


def test_schedule_scales_every_group():
    weights = [nn.Parameter(torch.ones(2, 2)) for _ in range(2)]
    cfg = OptimConfig(lr=0.5, schedule="linear")
    groups = [{"params": [weights[0]]}, {"params": [weights[1]], "lr_scale": 10.0}]
    optimizer = build_optimizer(groups, cfg)
    schedule = build_schedule(optimizer, cfg, total_steps=4, warmup_steps=0)
    seen = []
    for _ in range(4):
        seen.append([g["lr"] for g in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    assert seen == [[0.5, 5.0], [0.375, 3.75], [0.25, 2.5], [0.125, 1.25]]


def test_lars_step_by_hand():
    weight = nn.Parameter(torch.tensor([[3.0, 4.0]]))
    weight.grad = torch.tensor([[0.0, 2.0]])
    LARS([weight], lr=1.0, momentum=0.0, weight_decay=0.5, trust_coefficient=0.1).step()
    update = torch.tensor([[1.5, 4.0]])
    expected = torch.tensor([[3.0, 4.0]]) - 0.1 * 5.0 / update.norm() * update
    assert torch.allclose(weight.detach(), expected)


@pytest.mark.parametrize("optimiser", [LARS, BertAdam])
def test_a_step_starts_as_many_operations_for_many_parameters_as_for_few(optimiser):
    """A GPU waits for launches, not for the arithmetic of small tensors."""

    def operations(count: int) -> int:
        parameters = [nn.Parameter(torch.ones(2, 2)) for _ in range(count)]
        for parameter in parameters:
            parameter.grad = torch.ones(2, 2)
        step = optimiser(parameters, lr=0.1, weight_decay=0.1)
        step.step()
        with Operations() as counted:
            step.step()
        return counted.count

    assert operations(40) == operations(3) <= 20


class Operations(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        self.count += 1
        return function(*arguments, **(keywords or {}))


def test_lars_without_weight_decay_is_sgd():
    left, right = (nn.Parameter(torch.ones(3)) for _ in range(2))
    a, b = LARS([left], lr=0.1), torch.optim.SGD([right], lr=0.1, momentum=0.9)
    for step in range(3):
        left.grad = right.grad = torch.full((3,), float(step))
        a.step()
        b.step()
    assert torch.equal(left, right)


def test_adafactor_steps_are_scaled_by_the_parameter_and_keep_little_state():
    """A step of lr times the RMS of the weight, whatever the size of the gradient."""
    moved = []
    for size in (1.0, 10.0):
        weight = nn.Parameter(torch.full((8, 4), size))
        optimizer = build_optimizer([{"params": [weight]}], OptimConfig(name="adafactor", lr=0.01))
        weight.grad = torch.full((8, 4), 3.0)
        optimizer.step()
        moved.append(float(size - weight.detach().mean()))
        state = sum(x.numel() for x in optimizer.state[weight].values() if x.ndim)
        assert state == 8 + 4
    assert moved == pytest.approx([0.01, 0.1], rel=1e-3)


@pytest.mark.parametrize("fused", [True, False])
def test_adam_decays_by_an_l2_penalty(fused):
    """Weight decay joins the gradient; AdamW (the twin) takes it off the weight."""
    ends = {}
    for name in ("adam", "adamw"):
        cfg = OptimConfig(name=name, lr=0.1, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.5)
        weight = nn.Parameter(torch.tensor([1.0, -2.0]))
        optimizer = build_optimizer([{"params": [weight]}], cfg, fused=fused)
        for step in range(3):
            weight.grad = torch.tensor([0.3, 0.1 * step])
            optimizer.step()
        ends[name] = weight.detach()
    w, m, v = torch.tensor([1.0, -2.0]), torch.zeros(2), torch.zeros(2)
    for step in range(3):
        g = torch.tensor([0.3, 0.1 * step]) + 0.5 * w
        m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g**2
        m_hat, v_hat = m / (1 - 0.8 ** (step + 1)), v / (1 - 0.9 ** (step + 1))
        w = w - 0.1 * m_hat / (v_hat.sqrt() + 1e-3)
    torch.testing.assert_close(ends["adam"], w)
    assert (ends["adamw"] - w).abs().min() > 1e-3


def test_bert_adam_by_hand():
    """No bias correction, decoupled decay, and every parameter's gradient cut on its own."""
    cfg = OptimConfig(name="bertadam", lr=0.1, eps=1e-6, weight_decay=0.01)
    one, two = (torch.nn.Parameter(torch.full((2,), value)) for value in (1.0, 2.0))
    optimizer = build_optimizer([{"params": [one, two], "weight_decay": 0.01}], cfg)
    want = [one.detach().clone(), two.detach().clone()]
    moments = [[torch.zeros(2), torch.zeros(2)] for _ in want]
    for grads in (
        [torch.tensor([3.0, 4.0]), torch.tensor([0.1, 0.2])],
        [torch.tensor([0.3, -0.4]), torch.tensor([60.0, -80.0])],
    ):
        for parameter, grad in zip((one, two), grads, strict=True):
            parameter.grad = grad.clone()
        optimizer.step()
        for place, grad in enumerate(grads):
            g = grad * min(1.0, 1.0 / float(grad.norm()))
            m, v = moments[place]
            m.mul_(0.9).add_(0.1 * g)
            v.mul_(0.999).add_(0.001 * g * g)
            want[place] = want[place] - 0.1 * (m / (v.sqrt() + 1e-6) + 0.01 * want[place])
    torch.testing.assert_close([one.data, two.data], want, rtol=1e-4, atol=1e-5)
