"""Views of sentences whose (sub-)words are repeated in every view but the first."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from common.config import UserError
from common.data.text.augment import Repetition
from common.data.text.options import RepetitionConfig
from common.data.text.views import TextViews
from common.encoders.text.template import special_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class RepeatedSubwords:
    """Token augmentation: all views are cut alike, then sub-words of all but the first repeated.

    Source: Wu et al. 2022, "ESimCSE", section 3.1, arXiv 2109.04380; cut first, as in the official
    code.

    Attributes:
        repetition: draws what is repeated.
        room: tokens of the first view at most, without special tokens.
    """

    repetition: Repetition
    room: int

    def __call__(self, tokens: list[int], rng: np.random.Generator, view: int) -> list[int]:
        """Ids of a view, without special tokens."""
        tokens = tokens[: self.room]
        return self.repetition(tokens, rng) if view else tokens

    @property
    def extra(self) -> int:
        """Tokens by which a later view may be longer."""
        return max(0, self.repetition.bound(self.room) - 1)


@dataclass(frozen=True)
class RepeatedWords:
    """Text augmentation: words of all views but the first are repeated.

    Source: as `RepeatedSubwords`.

    Attributes:
        repetition: draws what is repeated.
    """

    repetition: Repetition

    def __call__(self, text: str, rng: np.random.Generator, view: int) -> str:
        """Text of a view."""
        return " ".join(self.repetition(text.split(" "), rng)) if view else text


def repetition(options: RepetitionConfig) -> Repetition | None:
    """What the section of a config asks for; None: nothing is repeated."""
    if options.level == "none":
        return None
    return Repetition(options.rate, options.level, options.rule, options.cap)


def repeated_views(
    rows: Sequence[tuple[str | None, ...]],
    tokenizer: "PreTrainedTokenizerBase",
    repeat: Repetition | None,
    *,
    max_length: int,
    seed: int,
    views: int,
    limit: int | None,
) -> TextViews:
    """Batches of sentences as they are (view 0) and with repetitions (the others).

    Repeated sub-words come on top of `max_length`; repeated words count towards it.

    Args:
        rows: one sentence each.
        tokenizer: see `TextViews`.
        repeat: draws what is repeated; None: nothing.
        max_length: tokens of the first view at most, special ones included.
        seed: the experiment's seed.
        views: of every sentence.
        limit: tokens that the encoder can read; None: any number.

    Raises:
        UserError: a later view would not fit the encoder; or as `TextViews`.
    """
    if repeat is None:
        return TextViews(rows, tokenizer, max_length=max_length, seed=seed, views=views)
    if repeat.level == "word":
        return TextViews(
            rows,
            tokenizer,
            max_length=max_length,
            seed=seed,
            views=views,
            augment_text=RepeatedWords(repeat),
        )
    around = sum(len(part) for part in special_tokens(tokenizer))
    augment = RepeatedSubwords(repeat, max_length - around)
    longest = max_length + augment.extra
    if limit is not None and longest > limit:
        raise UserError(
            f"repetition lengthens a text of data.max_length={max_length} to {longest} tokens, the "
            f"encoder reads {limit}: lower data.max_length or repetition.rate"
        )
    return TextViews(rows, tokenizer, max_length=longest, seed=seed, views=views, augment=augment)
