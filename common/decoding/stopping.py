"""Where a text ends: at tokens of the model, or at a character such as a line break."""

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    StoppingCriteria,
    StoppingCriteriaList,
)

Ends = Collection[int] | int | None
"""Ids of tokens that end a text: several, one, or none."""


class StopAtTokens(StoppingCriteria):
    """Ends a row as soon as its newest token is one of a set.

    Args:
        ends: (V,) bool.
    """

    def __init__(self, ends: Tensor) -> None:
        self.ends = ends

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        """(B,) bool: rows that are finished."""
        return self.ends[input_ids[:, -1]]


def stopping(model: Any, tokenizer: Any, character: str | None) -> StoppingCriteriaList | None:
    """Criterion that ends rows at tokens which hold a character; None without one."""
    if character is None:
        return None
    vocab = int(model.get_input_embeddings().num_embeddings)
    vocabulary = min(vocab, len(tokenizer))
    ends = torch.zeros(vocab, dtype=torch.bool)
    ends[:vocabulary] = torch.tensor(
        [character in tokenizer.decode([i]) for i in range(vocabulary)]
    )
    return StoppingCriteriaList([StopAtTokens(ends.to(model.device))])


def end_ids(model: Any, eos: int | None) -> tuple[int, ...]:
    """Ids that end a text: the tokenizer's own, and those that the model was released with.

    Chat models end a turn with another token than a text.

    Args:
        model: of transformers.
        eos: of the tokenizer.
    """
    stored = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    listed = [stored] if isinstance(stored, int) else list(stored or ())
    if eos is not None:
        listed = [eos, *listed]
    if not listed:
        return ()
    vocab = int(model.get_input_embeddings().num_embeddings)
    return tuple(dict.fromkeys(i for i in listed if i < vocab))


def held_back(
    stop: StoppingCriteriaList | None, columns: int, min_new_tokens: int
) -> list[LogitsProcessor]:
    """What keeps the stop character out of the first tokens.

    The tokens of `end_ids` the library holds back.

    Args:
        stop: of `stopping`.
        columns: of the (padded) prompts.
        min_new_tokens: so many; 0: nothing is kept out.
    """
    ends: list[int] = [] if stop is None else stop[0].ends.nonzero()[:, 0].tolist()
    if not ends or not min_new_tokens:
        return []
    device = stop[0].ends.device  # type: ignore[index]
    return [MinNewTokensLengthLogitsProcessor(columns, min_new_tokens, ends, device=device)]


def ending_tokens(model: Any, eos: Ends, stop: StoppingCriteriaList | None) -> Tensor | None:
    """(V,) bool of the tokens that end a text; None if none does."""
    from_model = _listed(eos)
    if not from_model and stop is None:
        return None
    vocab = int(model.get_input_embeddings().num_embeddings)
    ends = (
        torch.zeros(vocab, dtype=torch.bool, device=model.device)
        if stop is None
        else stop[0].ends.clone()
    )
    ends[from_model] = True
    return ends


def until_end(ids: list[int], eos: Ends, stop: StoppingCriteriaList | None) -> list[int]:
    """New tokens of a row up to and with its end; what follows is padding to the longest row."""
    ends = _listed(eos)
    for place, token in enumerate(ids):
        if token in ends or (stop is not None and stop[0].ends[token]):
            return ids[: place + 1]
    return ids


def _listed(eos: Ends) -> list[int]:
    if eos is None:
        return []
    return [eos] if isinstance(eos, int) else list(eos)
