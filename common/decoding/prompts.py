"""Prompts of text generators, and the call that answers them."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from common.data.samplers import Rng


class Prompt(NamedTuple):
    """What one row asks for."""

    text: str
    # start of the answer, which the model continues; part of what is returned, except by a chat
    # server, which gives its whole answer
    begun: str = ""
    # a question to answer, not a text to continue: the model's chat template is applied
    turn: bool = False


class TextGenerator(Protocol):
    """Answers to prompts."""

    def __call__(
        self, prompts: Sequence[Prompt], rngs: Sequence[Rng], max_new_tokens: int | Sequence[int]
    ) -> list[str]:
        """Answers in the order of the prompts."""


def plain_turn(prompt: Prompt) -> str:
    """A turn for a model without chat template."""
    return f"{prompt.text}\n\nAnswer:\n{prompt.begun}"
