"""What FSDP does to a module in place, undone after the fit."""

from typing import NamedTuple

import torch
from torch import nn

from common.engine.optim import WHOLE_NDIM


class _Owner(NamedTuple):
    """A module with its children and parameters as they were."""

    module: nn.Module
    children: dict[str, nn.Module | None]
    parameters: dict[str, nn.Parameter | None]


class Unsharded:
    """A module as it is before FSDP wraps its blocks and shards its parameters.

    FSDP replaces blocks by wrappers and parameters by shards, in the module itself. The stages of an
    experiment go on with that module, evaluation and export run on one rank: both need it whole.
    Shards are flat, so every parameter also notes how many dimensions it has as a whole, which decides
    on its weight decay.

    Args:
        module: not yet sharded; nothing of its memory is held on to but what is there anyway.
    """

    def __init__(self, module: nn.Module) -> None:
        self.owners = [
            _Owner(part, dict(part._modules), dict(part._parameters)) for part in module.modules()
        ]
        for parameter in module.parameters():
            setattr(parameter, WHOLE_NDIM, parameter.ndim)
        self.kinds = {
            id(p): (p.shape, p.dtype, p.requires_grad)
            for owner in self.owners
            for p in owner.parameters.values()
            if p is not None
        }

    def restore(self) -> None:
        """Take the wrappers out; parameters are empty ones on the CPU, to be loaded."""
        fresh = {
            key: nn.Parameter(torch.empty(shape, dtype=dtype), requires_grad=trained)
            for key, (shape, dtype, trained) in self.kinds.items()
        }
        for module, children, parameters in self.owners:
            module._modules.clear()
            module._modules.update(children)
            module._parameters.clear()
            for name, parameter in parameters.items():
                module.__dict__.pop(name, None)  # a view of the flat parameter
                module._parameters[name] = None if parameter is None else fresh[id(parameter)]
