"""How a project's text encoder is built, stored and queried: all that shared code knows of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from torch import Tensor, nn

from common.engine.module import ContrastiveModule
from common.evaluation.matrices import Metric

E = TypeVar("E", bound=nn.Module)
R = TypeVar("R", bound=ContrastiveModule)  # a project's module, with its encoder as `encoder`


@dataclass(frozen=True)
class EncoderRecipe(Generic[E]):
    """One encoder for queries and documents, or two towers in one module.

    Attributes:
        build: the encoder before training, from the global random state.
        planned: the same shapes where the weights are not on this machine, for `make check`.
        save: writes a folder which the field's library loads.
        load: an encoder in evaluation mode from such a folder.
        queries: encoder, N texts -> (N, D) on the CPU; its mode is not changed.
        documents: the same for the other side.
        metric: how vectors are compared.
    """

    build: Callable[[], E]
    planned: Callable[[], E]
    save: Callable[[E, Path], object]
    load: Callable[[Path], E]
    queries: Callable[[E, Sequence[str]], Tensor]
    documents: Callable[[E, Sequence[str]], Tensor]
    metric: Metric = "cosine"


def encoder_of(module: ContrastiveModule, recipe: EncoderRecipe[E]) -> E:
    """The encoder that a project's module trains.

    Args:
        module: has it as `encoder`.
        recipe: names its type.
    """
    encoder: E = module.encoder  # type: ignore[assignment]
    return encoder
