"""Ends a text at a character, such as a line break."""

from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList


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
    known = min(vocab, len(tokenizer))
    ends = torch.zeros(vocab, dtype=torch.bool)
    ends[:known] = torch.tensor([character in tokenizer.decode([i]) for i in range(known)])
    return StoppingCriteriaList([StopAtTokens(ends.to(model.device))])


def ending_tokens(model: Any, eos: int | None, stop: StoppingCriteriaList | None) -> Tensor | None:
    """(V,) bool of the tokens that end a text; None if none does."""
    if eos is None and stop is None:
        return None
    vocab = int(model.get_input_embeddings().num_embeddings)
    ends = (
        torch.zeros(vocab, dtype=torch.bool, device=model.device)
        if stop is None
        else stop[0].ends.clone()
    )
    if eos is not None:
        ends[eos] = True
    return ends


def until_end(ids: list[int], eos: int | None, stop: StoppingCriteriaList | None) -> list[int]:
    """New tokens of a row up to and with its end; what follows is padding to the longest row."""
    if eos is not None and eos in ids:
        ids = ids[: ids.index(eos) + 1]
    if stop is not None:
        for place, token in enumerate(ids):
            if stop[0].ends[token]:
                return ids[: place + 1]
    return ids
