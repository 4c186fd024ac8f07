"""Experts of a mixture in four bits, which bitsandbytes leaves in 16 with transformers 5."""

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def expert_modules(model: nn.Module) -> list[tuple[nn.Module, list[str]]]:
    """Modules with the weights of all experts in one tensor (experts, out, in), and their names."""
    modules = []
    for module in model.modules():
        names = [name for name, p in module.named_parameters(recurse=False) if p.ndim == 3]
        if names:
            modules.append((module, names))
    return modules


def quantise_experts(model: nn.Module, device: torch.device) -> None:
    """Replace the experts' weights by NF4 on a device, one tensor after the other.

    A layer's experts are expanded while it is computed, and again in the backward pass: a graph
    that kept them would hold the whole model in 16 bits.

    Args:
        model: frozen, on the CPU; it is changed.
        device: for the weights in four bits.
    """
    from bitsandbytes.nn.parametrize import replace_parameter_4bit

    for module, names in expert_modules(model):
        for name in names:
            parameter = getattr(module, name)
            parameter.data = parameter.data.to(device)
            replace_parameter_4bit(module, name, quant_type="nf4")
        module.forward = partial(_recomputed, module.forward)


def _recomputed(forward: Any, *args: Any) -> Any:
    return checkpoint(forward, *args, use_reentrant=False)
