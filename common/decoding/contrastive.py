"""Contrastive search and contrastive decoding.

# B rows, S tokens so far, K candidates, V vocabulary, D hidden size
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache, LogitsProcessor


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
        expert = torch.log_softmax(scores.float(), dim=-1)
        floor = expert.amax(-1, keepdim=True) + math.log(self.plausibility)
        contrast = expert - torch.log_softmax(amateur, dim=-1)
        return contrast.masked_fill(expert < floor, -torch.inf)


@torch.no_grad()
def contrastive_search(
    model: Any,
    input_ids: Tensor,
    *,
    max_new_tokens: int,
    candidates: int = 5,
    penalty: float = 0.6,
    eos_token_id: int | None = None,
) -> Tensor:
    """Greedy search that penalises candidates whose state resembles one that was there before.

        x_t = argmax_{v in top-K} (1 - alpha) p(v | x_<t) - alpha max_{j < t} cos(h_v, h_{x_j})

    Source: Su et al. 2022, "A Contrastive Framework for Neural Text Generation", equation 5, arXiv
    2202.06417; Su & Collier 2023, arXiv 2210.14140.

    Args:
        model: causal LM with a key-value cache and hidden states.
        input_ids: (1, S) prompt; one row at a time, so that no state is one of padding.
        max_new_tokens: tokens to add.
        candidates: K most likely tokens, of which one is chosen; 1 is greedy search.
        penalty: alpha, in [0, 1]; 0 is greedy search.
        eos_token_id: ends the text; it is part of the result.

    Returns:
        (T,) int64 new tokens, T <= max_new_tokens.

    Raises:
        ValueError: more than one row.
    """
    if len(input_ids) != 1:
        raise ValueError(f"contrastive search takes one row at a time, got {len(input_ids)}")
    cache = DynamicCache()
    out = model(
        input_ids=input_ids, past_key_values=cache, use_cache=True, output_hidden_states=True
    )
    states, logits = out.hidden_states[-1], out.logits[:, -1]  # (1, S, D), (1, V)
    chosen: list[int] = []
    while len(chosen) < max_new_tokens:
        probability, token = torch.softmax(logits.float(), -1).topk(candidates)  # (1, K)
        cache.batch_repeat_interleave(candidates)
        out = model(
            input_ids=token.view(-1, 1),
            past_key_values=cache,
            use_cache=True,
            output_hidden_states=True,
        )
        state = out.hidden_states[-1]  # (K, 1, D)
        nearest = F.cosine_similarity(state, states, dim=-1).amax(-1)  # (K,)
        # Eq. 5
        best = int(((1 - penalty) * probability[0] - penalty * nearest).argmax())
        cache.batch_select_indices(torch.tensor([best], device=input_ids.device))
        states = torch.cat([states, state[best : best + 1]], dim=1)
        logits = out.logits[best : best + 1, -1]
        chosen.append(int(token[0, best]))
        if chosen[-1] == eos_token_id:
            break
    return torch.tensor(chosen, dtype=torch.long)
