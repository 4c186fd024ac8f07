"""Contrastive decoding: an expert against an amateur.

# B rows, S tokens so far, V vocabulary
"""

import inspect
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
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
        mask: (B, S) of the prompts, 0 at the padding on their left, which the amateur does not
            read; None: there is no padding.

    Tables of logits may be padded to different sizes for one tokenizer; what only the expert's has
    is not a token and never chosen.

    Deviation: the amateur reads its whole context at every step, without a cache.
    """

    def __init__(
        self,
        amateur: Any,
        plausibility: float = 0.1,
        *,
        temperature: float = 1.0,
        context: int | None = None,
        mask: Tensor | None = None,
    ) -> None:
        self.amateur, self.plausibility = amateur, plausibility
        self.temperature, self.context, self.mask = temperature, context, mask

    @torch.no_grad()
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Contrastive scores (B, V) from the expert's logits."""
        seen = input_ids if self.context is None else input_ids[:, -self.context :]
        read = self.amateur(input_ids=seen, **self._padding(input_ids.shape[1], seen.shape[1]))
        amateur = read.logits[:, -1].float() / self.temperature
        width = min(scores.shape[-1], amateur.shape[-1])
        contrasted = contrast(
            scores[:, :width].float(), amateur[:, :width], alpha=self.plausibility
        )
        return F.pad(contrasted, (0, scores.shape[-1] - width), value=-torch.inf)

    def _padding(self, columns: int, seen: int) -> dict[str, Tensor]:
        """Mask and positions of the last `seen` columns, each row's from 0 on.

        None without padding.
        """
        if self.mask is None:
            return {}
        mask = F.pad(self.mask, (0, columns - self.mask.shape[1]), value=1)[:, -seen:]
        if bool(mask.all()):
            return {}
        inputs = {"attention_mask": mask}
        if "position_ids" in inspect.signature(self.amateur.forward).parameters:
            inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
        return inputs
