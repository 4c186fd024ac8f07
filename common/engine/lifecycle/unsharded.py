"""Sharding undone after the fit: the module as it was, for the next stages, evaluation and export."""

from typing import Any, NamedTuple

import torch
from torch import nn
from torch.distributed import _composable_state
from torch.distributed._composable.contract import REGISTRY_KEY, STATE_KEY

from common.engine.sharding import STEPS


class _Owner(NamedTuple):
    """A module as it was: its class, parameters by their number, hooks."""

    module: nn.Module
    kind: type[nn.Module]
    parameters: dict[str, int | None]
    hooks: dict[str, dict[Any, Any]]


_HOOKS = (
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_state_dict_hooks",
    "_load_state_dict_post_hooks",
)


class Unsharded:
    """A module as it is before its parameters are sharded.

    FSDP2 puts shards in the place of parameters, hooks and a class of its own, in the module
    itself. The stages of an experiment go on with that module, evaluation and export run on one
    rank: both need it whole.

    Args:
        module: not yet sharded. None of its parameters is held on to: FSDP2 moves them to the
            device before it cuts them, and a reference would keep them there, whole, as long as the
            fit lasts.
    """

    def __init__(self, module: nn.Module) -> None:
        self.root = module
        self.kinds: list[tuple[torch.Size, torch.dtype, bool]] = []
        numbers: dict[
            int, int
        ] = {}  # of parameters, by identity: tied ones have one; all are alive here
        self.owners = []
        for part in module.modules():
            for parameter in part._parameters.values():
                if parameter is not None and id(parameter) not in numbers:
                    numbers[id(parameter)] = len(numbers)
                    self.kinds.append((parameter.shape, parameter.dtype, parameter.requires_grad))
            own = {n: None if p is None else numbers[id(p)] for n, p in part._parameters.items()}
            hooks = {name: getattr(part, name).copy() for name in _HOOKS if hasattr(part, name)}
            self.owners.append(_Owner(part, type(part), own, hooks))

    def restore(self) -> None:
        """Take the shards out; parameters are empty ones on the CPU, to be loaded."""
        fresh = [
            nn.Parameter(torch.empty(shape, dtype=dtype), requires_grad=trained)
            for shape, dtype, trained in self.kinds
        ]
        for module, kind, parameters, hooks in self.owners:
            module.__class__ = kind
            for name, before in hooks.items():
                now = getattr(module, name)
                now.clear()
                now.update(before)
            for name, number in parameters.items():
                module._parameters[name] = None if number is None else fresh[number]
            for key in (STATE_KEY, REGISTRY_KEY):
                module.__dict__.pop(key, None)
            _composable_state._module_state_mapping.pop(module, None)
        for name in STEPS:  # the wrapped methods
            self.root.__dict__.pop(name, None)
