"""Contrastive decoding: an expert against an amateur.

# B rows, S tokens so far, V vocabulary
"""

from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor

from common.decoding.contrast import contrast


class ContrastiveDecoding(LogitsProcessor):
    """Prefers tokens that the expert likes more than an amateur does.

        s(v) = log p_exp(v) - log p_ama(v)   if p_exp(v) >= alpha max_w p_exp(w),   else -inf

    Source: Li et al. 2023, "Contrastive Decoding", equations 2 to 4, arXiv 2210.15097.

    Args:
        amateur: causal LM over the same vocabulary; may be the expert itself with less context.
        plausibility: alpha, in (0, 1]; 1 is the expert's greedy choice.
        temperature: divides the amateur's logits.
        context: tokens that the amateur sees; None: all of them.

    Deviation: the amateur reads its context anew at every step, without a cache.
    """

    def __init__(
        self,
        amateur: Any,
        plausibility: float = 0.1,
        *,
        temperature: float = 1.0,
        context: int | None = None,
    ) -> None:
        self.amateur, self.plausibility = amateur, plausibility
        self.temperature, self.context = temperature, context

    @torch.no_grad()
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Contrastive scores (B, V) from the expert's logits."""
        seen = input_ids if self.context is None else input_ids[:, -self.context :]
        amateur = self.amateur(input_ids=seen).logits[:, -1].float() / self.temperature
        return contrast(scores.float(), amateur, alpha=self.plausibility)
