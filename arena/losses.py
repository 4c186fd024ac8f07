"""Losses of contestants: a class with ``forward(z_1, z_2, scale)``, named by module and class.

What has another signature in `common.losses` is adapted here. Nothing heavy is imported before a
loss is built.
"""

import importlib
import inspect
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from common.config import UserError
from common.ranges import Positive

if TYPE_CHECKING:
    from torch import nn


@dataclass
class LossConfig:
    """A loss of two embeddings."""

    path: str = "common.losses.two_view:NTXentLoss"  # module:class
    args: dict[str, Any] = field(default_factory=dict)  # of its constructor
    scale: Positive = 5.0  # third argument of forward, 1 / temperature
    labels: bool = False  # forward(..., labels=) gets the classes of the batch: a reference


def build_loss(cfg: LossConfig, dim: int) -> "nn.Module":
    """The module of a config.

    Args:
        cfg: names the class.
        dim: of the embeddings, for a class whose constructor asks for it.

    Raises:
        UserError: no such class, or it refuses the arguments.
    """
    module, _, name = cfg.path.partition(":")
    try:
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"loss.path={cfg.path}: expected module:class; {error}") from error
    sized = {"dim": dim} if "dim" in inspect.signature(kind).parameters else {}
    try:
        built: nn.Module = kind(**sized, **cfg.args)
    except (TypeError, ValueError) as error:
        raise UserError(f"loss.args={cfg.args} of {cfg.path}: {error}") from error
    return built
