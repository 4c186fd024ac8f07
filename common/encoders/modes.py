"""Training and evaluation mode of modules."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluation_mode(*modules: nn.Module) -> Iterator[None]:
    """Dropout off, batch norm frozen, no gradients; the modes of all submodules come back after.

    Args:
        modules: what is evaluated.

    >>> layer = nn.Dropout()
    >>> with evaluation_mode(layer):
    ...     layer.training
    False
    >>> layer.training
    True
    """
    modes = [(part, part.training) for module in modules for part in module.modules()]
    for module in modules:
        module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, training in modes:
            part.training = training


@contextmanager
def evaluated(module: nn.Module, accelerator: str) -> Iterator[None]:
    """`evaluation_mode`, on the GPU if there is one; mode and device are put back after.

    Args:
        module: what is evaluated, all of it on one device.
        accelerator: ``cfg.trainer.accelerator``; "cpu" leaves the module where it is.
    """
    before = next(module.parameters()).device
    if torch.cuda.is_available() and accelerator != "cpu":
        module.to("cuda")
    try:
        with evaluation_mode(module):
            yield
    finally:
        module.to(before)
