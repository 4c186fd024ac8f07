"""Samples with penalties on what was written already, as hosted language models offer them."""

import torch
from torch import Tensor
from transformers import LogitsProcessor


class WrittenPenalty(LogitsProcessor):
    """Lowers the logits of tokens that were written after the prompt.

        l'_v = l_v - f n_v - p [n_v > 0],  n_v the number of times that v was written

    Source: "frequency_penalty" and "presence_penalty" of the OpenAI completions interface.

    Args:
        prompt_length: tokens of the (padded) prompts, which do not count.
        frequency: f.
        presence: p.
    """

    def __init__(self, prompt_length: int, frequency: float, presence: float) -> None:
        self.start, self.frequency, self.presence = prompt_length, frequency, presence

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(B, V) scores with the penalties."""
        new = input_ids[:, self.start :]
        counts = torch.zeros_like(scores).scatter_add_(
            1, new, torch.ones_like(new, dtype=scores.dtype)
        )
        return scores - self.frequency * counts - self.presence * (counts > 0).to(scores.dtype)
