"""Words replaced by the predictions of a masked language model."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from common.encoders.modes import evaluation_mode
from common.encoders.text.template import special_tokens


class MlmSubstitution:
    """Masks some tokens of each text and puts the model's best other token in their place.

    max(1, rate * tokens) positions per text, drawn evenly. Neither the token that was there nor a
    special token is put in. The model runs without dropout and gradient.

    Source: Gao et al. 2021, "SimCSE", table 1 ("MLM k%"), arXiv 2104.08821; how a prediction is
    chosen is not said there.

    Args:
        model: masked language model of transformers, ids (B, L) -> logits (B, L, V).
        tokenizer: its tokenizer, with mask and padding token.
        rate: share of the tokens, in (0, 1).
        max_length: longer texts are cut to this, special tokens included.

    Raises:
        ValueError: a rate out of range, or a tokenizer without mask token.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, rate: float, max_length: int) -> None:
        if not 0 < rate < 1 or tokenizer.mask_token_id is None:
            raise ValueError(
                f"need a rate in (0, 1), got {rate}, and a tokenizer with a mask token"
            )
        self.model, self.rate = model.requires_grad_(False), rate
        self.prefix, self.suffix = special_tokens(tokenizer)
        self.room = max_length - len(self.prefix) - len(self.suffix)
        self.mask_id, self.pad_id = int(tokenizer.mask_token_id), int(tokenizer.pad_token_id)
        self.special = torch.tensor(sorted(tokenizer.all_special_ids))

    def __call__(
        self, rows: Sequence[list[int]], rngs: Sequence[np.random.Generator]
    ) -> list[list[int]]:
        """Texts with replaced tokens.

        Args:
            rows: ids of B texts without special tokens.
            rngs: draws the positions of each.
        """
        replaced = [list(row[: self.room]) for row in rows]
        places = [
            np.sort(rng.permutation(len(row))[: max(1, round(self.rate * len(row)))])
            for row, rng in zip(replaced, rngs, strict=True)
        ]
        new = iter(self._predicted(replaced, places))
        for row, where in zip(replaced, places, strict=True):
            for place in where:
                row[place] = next(new)
        return replaced

    def _predicted(self, rows: Sequence[list[int]], places: Sequence[np.ndarray]) -> list[int]:
        """Best token of every masked position, text by text."""
        index = [(i, len(self.prefix) + int(p)) for i, where in enumerate(places) for p in where]
        if not index:
            return []
        width = max(len(row) for row in rows) + len(self.prefix) + len(self.suffix)
        ids = torch.full((len(rows), width), self.pad_id)
        for line, row in zip(ids, rows, strict=True):
            whole = [*self.prefix, *row, *self.suffix]
            line[: len(whole)] = torch.tensor(whole)
        mask = torch.arange(width) < torch.tensor(
            [[len(row) + len(self.prefix) + len(self.suffix)] for row in rows]
        )
        at = tuple(torch.tensor(index).T)
        before = ids[at].clone()
        ids[at] = self.mask_id
        with evaluation_mode(self.model):
            logits = self.model(input_ids=ids, attention_mask=mask.long()).logits[at]
        logits[:, self.special] = -torch.inf
        logits[torch.arange(len(index)), before] = -torch.inf
        best: list[int] = logits.argmax(dim=1).tolist()
        return best
