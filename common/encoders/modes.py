"""Training and evaluation mode of modules."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


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
    if any(hasattr(part, "hf_device_map") for part in module.modules()):
        with evaluation_mode(module):  # its layers are spread over devices, and stay there
            yield
        return
    before = next(module.parameters()).device
    if torch.cuda.is_available() and accelerator != "cpu":
        with torch.inference_mode(False):  # else its weights could not be trained afterwards
            module.to("cuda")
    try:
        with evaluation_mode(module):
            yield
    finally:
        with torch.inference_mode(False):
            module.to(before)


def untrained(build: Callable[[], M], seed: int, like: nn.Module | None = None) -> M:
    """A network before its training, in evaluation mode: what a method adds to.

    Pretrained parts are those that training begins with. Random parts are another draw of the same
    initialisation: the engine builds the first stage after ``step_seed(cfg.seed, 0, 0, 0)`` of
    `common.engine.callbacks`, which has to be passed for the very network of the training.

    Args:
        build: makes the network from the global random state.
        seed: of that state, usually the experiment's.
        like: module whose device the network is moved to; None: it stays where it is.

    The global random state is left as it was.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = build()
    if like is not None:
        network = network.to(next(like.parameters()).device)
    return network.eval()
