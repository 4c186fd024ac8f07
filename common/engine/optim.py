"""Parameter groups, optimisers and per-step learning-rate schedules."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from common.config import OptimConfig

NO_DECAY_NAMES = ("bias", "ln", "bn", "norm", "logit_scale", "log_scale")


def lr_at(
    step: int,
    *,
    lr: float,
    total_steps: int,
    warmup_steps: int = 0,
    warmup_start_lr: float = 0.0,
    final_lr: float = 0.0,
    schedule: str = "cosine",
    decay_steps: int = 0,
) -> float:
    """Learning rate of one optimiser step: linear warm-up, then the schedule.

    Warm-up is linear from `warmup_start_lr` at step 0 to `lr` at step ``warmup_steps - 1``. With
    n = total_steps - warmup_steps and i = step - warmup_steps the rest is
    cosine: final_lr + (lr - final_lr) (1 + cos(pi i / n)) / 2; linear: lr + (final_lr - lr) i / n.
    A trapezoid is constant and falls linearly over the last `decay_steps`: up to there a run does
    not depend on its length, so a longer one continues it. "warmup_linear" is linear with a warm-up
    of its own, (lr - final_lr) step / warmup_steps, which ends below `lr` unless `final_lr` is 0.

    Source: SGDR without restarts (Loshchilov & Hutter 2017, Eq. 5, arXiv 1608.03983); trapezoid:
    Zhai et al. 2022, section 3.5 ("cooldown"), arXiv 2106.04560; warmup_linear: Izacard et al.
    2022,
    released code (WarmupLinearScheduler), arXiv 2112.09118.

    Args:
        step: index of the optimiser step, from 0; steps past the end keep `final_lr`.
        lr: peak learning rate, > 0.
        total_steps: optimiser steps of the whole schedule, > 0.
        warmup_steps: steps of the warm-up, >= 0.
        warmup_start_lr: learning rate of step 0 when there is a warm-up.
        final_lr: value at step `total_steps`.
        schedule: cosine, linear, constant, trapezoid or warmup_linear.
        decay_steps: length of the trapezoid's decay.

    >>> [round(lr_at(s, lr=1.0, total_steps=4, final_lr=0.0), 3) for s in range(5)]
    [1.0, 0.854, 0.5, 0.146, 0.0]
    """
    if schedule == "warmup_linear" and step < warmup_steps:
        return (lr - final_lr) * step / warmup_steps
    if step < warmup_steps:
        return warmup_start_lr + (lr - warmup_start_lr) * step / max(1, warmup_steps - 1)
    if schedule == "constant":
        return lr
    if schedule == "trapezoid":
        return final_lr + (lr - final_lr) * min(1.0, max(0, total_steps - step) / decay_steps)
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    if schedule in ("linear", "warmup_linear"):
        return lr + (final_lr - lr) * progress
    return final_lr + 0.5 * (lr - final_lr) * (1 + math.cos(math.pi * progress))


def decay_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]], weight_decay: float
) -> list[dict[str, Any]]:
    """Two parameter groups: decayed, and not decayed.

    Not decayed: tensors with fewer than two dimensions, and names that contain bias, ln, bn, norm
    or a logit scale (the rule of SLIP, LaCLIP and open_clip). Frozen parameters are left out.
    """
    decay: list[nn.Parameter] = []
    no_decay: list[nn.Parameter] = []
    for name, parameter in named_parameters:
        if parameter.requires_grad:
            exempt = parameter.ndim < 2 or any(part in name for part in NO_DECAY_NAMES)
            (no_decay if exempt else decay).append(parameter)
    groups = [
        {"params": decay, "weight_decay": weight_decay},
        {"params": no_decay, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def scaled_lr(lr: float, global_batch_size: int, rule: str = "linear", base: int = 256) -> float:
    """Learning rate for a batch size: linear (Goyal et al. 2017) or sqrt (You et al. 2020) rule.

    >>> scaled_lr(0.1, 512), scaled_lr(0.1, 1024, "sqrt")
    (0.2, 0.2)
    """
    ratio = global_batch_size / base
    if rule not in ("linear", "sqrt"):
        raise ValueError(f"rule '{rule}': use linear or sqrt")
    return lr * (ratio if rule == "linear" else math.sqrt(ratio))


def scaled_optim(cfg: OptimConfig, global_batch_size: int) -> OptimConfig:
    """The section with ``lr`` multiplied as ``lr_scaling`` says; other rates stay as they are.

    Args:
        cfg: optimiser settings.
        global_batch_size: samples of an optimiser step over all devices, > 0 if `lr` is scaled.
    """
    if cfg.lr_scaling == "none":
        return cfg
    if global_batch_size < 1:
        raise ValueError(f"optim.lr_scaling={cfg.lr_scaling} needs the global batch size")
    lr = scaled_lr(cfg.lr, global_batch_size, cfg.lr_scaling, cfg.lr_batch)
    return dataclasses.replace(cfg, lr=lr)


def build_optimizer(
    groups: list[dict[str, Any]], cfg: OptimConfig, *, fused: bool = True
) -> torch.optim.Optimizer:
    """The optimiser of the config over parameter groups.

    A group's ``lr_scale`` entry multiplies the learning rate of that group.

    Args:
        groups: as from `decay_groups`; a group without ``weight_decay`` takes the config's.
        cfg: optimiser settings.
        fused: use torch's single-kernel Adam or AdamW; off where the gradient scaler has to clip.
    """
    for group in groups:
        group["lr"] = cfg.lr * group.setdefault("lr_scale", 1.0)
    if cfg.name in ("adam", "adamw"):
        adam = torch.optim.Adam if cfg.name == "adam" else torch.optim.AdamW
        return adam(
            groups,
            lr=cfg.lr,
            betas=(cfg.betas[0], cfg.betas[1]),
            eps=cfg.eps,
            weight_decay=cfg.weight_decay,
            fused=fused,
        )
    if cfg.name == "adafactor":  # Shazeer & Stern 2018, arXiv 1804.04235; steps scaled by RMS(w)
        return torch.optim.Adafactor(groups, lr=cfg.lr, weight_decay=cfg.weight_decay)
    if cfg.name == "bertadam":
        betas = (cfg.betas[0], cfg.betas[1])
        return BertAdam(groups, cfg.lr, betas, eps=cfg.eps, weight_decay=cfg.weight_decay)
    if cfg.name == "sgd":
        return torch.optim.SGD(
            groups,
            lr=cfg.lr,
            momentum=cfg.momentum,
            weight_decay=cfg.weight_decay,
            nesterov=cfg.nesterov,
        )
    return LARS(groups, lr=cfg.lr, momentum=cfg.momentum, weight_decay=cfg.weight_decay)


def build_schedule(
    optimizer: torch.optim.Optimizer, cfg: OptimConfig, *, total_steps: int, warmup_steps: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """Per-step schedule: every group follows `lr_at`, scaled by its own ``lr_scale``."""

    def factor(step: int) -> float:
        lr = lr_at(
            step,
            lr=cfg.lr,
            total_steps=total_steps,
            warmup_steps=warmup_steps,
            warmup_start_lr=cfg.warmup_start_lr,
            final_lr=cfg.final_lr,
            schedule=cfg.schedule,
            decay_steps=cfg.decay_steps,
        )
        return lr / cfg.lr if cfg.lr else 1.0  # 0 stays 0

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def milestone_schedule(
    optimizer: torch.optim.Optimizer, milestones: Sequence[float], total_steps: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """Per-step schedule that divides the learning rate by ten at each milestone.

    Source: He et al. 2016, section 3.4 (step decay), arXiv 1512.03385.

    Args:
        optimizer: its groups hold their first learning rates.
        milestones: fractions of training, in [0, 1].
        total_steps: optimiser steps of the whole training.
    """
    edges = [round(fraction * total_steps) for fraction in milestones]

    def factor(step: int) -> float:
        return float(0.1 ** sum(step >= edge for edge in edges))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


class _ByGroup(torch.optim.Optimizer):
    """An optimiser whose rule is that of a group of parameters: `_update`.

    Its operations take lists of tensors: on a GPU a step of a deep network is bound by how many
    operations it starts, not by their work.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One update; returns the closure's loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters:
                self._update(parameters, [p.grad for p in parameters], group)
        return loss

    def _update(
        self, parameters: list[Tensor], gradients: list[Tensor], group: dict[str, Any]
    ) -> None:
        raise NotImplementedError

    def _state(self, parameters: list[Tensor], name: str) -> list[Tensor]:
        """Tensors of the optimiser's state, zeros at first."""
        for parameter in parameters:
            if name not in self.state[parameter]:
                self.state[parameter][name] = torch.zeros_like(parameter)
        return [self.state[parameter][name] for parameter in parameters]


class LARS(_ByGroup):
    """SGD with momentum and a layer-wise trust ratio eta |w| / (|g + wd w|).

    Groups without weight decay are not adapted (biases and norms), as in SimCLR.

    Source: You, Gitman & Ginsburg 2017, Alg. 1 (arXiv 1708.03888); exclusions of Chen et al. 2020.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 1e-3,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "weight_decay": weight_decay,
                "trust_coefficient": trust_coefficient,
            },
        )

    def _update(
        self, parameters: list[Tensor], gradients: list[Tensor], group: dict[str, Any]
    ) -> None:
        updates = gradients
        if group["weight_decay"] > 0:
            decayed = torch._foreach_add(gradients, parameters, alpha=group["weight_decay"])
            updates = list(decayed)
            weight_norms = torch.stack(torch._foreach_norm(parameters))
            update_norms = torch.stack(torch._foreach_norm(updates))
            ratios = group["trust_coefficient"] * weight_norms / update_norms
            usable = (weight_norms > 0) & (update_norms > 0)
            ratios = torch.where(usable, ratios, torch.ones_like(ratios))
            torch._foreach_mul_(updates, ratios.unbind())
        momenta = self._state(parameters, "momentum_buffer")
        torch._foreach_mul_(momenta, group["momentum"])
        torch._foreach_add_(momenta, updates)
        torch._foreach_add_(parameters, momenta, alpha=-group["lr"])


class BertAdam(_ByGroup):
    """Adam as BERT was released with: no bias correction, decoupled decay, every gradient clipped.

        m = b1 m + (1 - b1) g,  v = b2 v + (1 - b2) g^2,  w = w - lr (m / (sqrt(v) + eps) + wd w)

    where each parameter's g is first cut to norm `max_norm` on its own.

    Source: Devlin et al. 2019, released code (AdamWeightDecayOptimizer), arXiv 1810.04805, and
    pytorch-pretrained-bert's BertAdam, whose clipping this is.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        max_norm: float = 1.0,
    ) -> None:
        options = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**options, "max_norm": max_norm})

    def _update(
        self, parameters: list[Tensor], gradients: list[Tensor], group: dict[str, Any]
    ) -> None:
        norms = torch.stack(torch._foreach_norm(gradients))
        factors = (group["max_norm"] / (norms + 1e-6)).clamp(max=1.0)
        gradients = list(torch._foreach_mul(gradients, factors.unbind()))
        first, second = self._state(parameters, "m"), self._state(parameters, "v")
        torch._foreach_lerp_(first, gradients, 1 - group["betas"][0])
        torch._foreach_lerp_(
            second, torch._foreach_mul(gradients, gradients), 1 - group["betas"][1]
        )
        updates = torch._foreach_sqrt(second)
        torch._foreach_add_(updates, group["eps"])
        updates = torch._foreach_div(first, updates)
        torch._foreach_add_(updates, parameters, alpha=group["weight_decay"])
        torch._foreach_add_(parameters, updates, alpha=-group["lr"])
