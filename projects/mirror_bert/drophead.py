"""DropHead: whole attention heads are dropped in training, whatever computes the attention."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from common.config import UserError

# last linear map of a self-attention block: its input is the heads' outputs, side by side
_OUTPUT_PROJECTIONS = (
    "attention.output.dense",  # BERT, RoBERTa, XLM-R, ELECTRA
    "attention.out_lin",  # DistilBERT
    "self_attn.o_proj",  # LLaMA and its relatives
)


class DropHead:
    """Forward pre-hook of an attention block's output projection.

        m_h ~ Bernoulli(1 - p) per sample,   head_h <- head_h * m_h * H / sum_k m_k

    Every head keeps its expectation. At least one head survives: the one of the largest draw stays
    in any case (chosen evenly by symmetry).

    Source: Zhou et al. 2020, "Scheduled DropHead", arXiv 2004.13342, without the schedule.

    Args:
        num_heads: H >= 1.
        drop_prob: p in [0, 1).

    Raises:
        ValueError: a value out of range.

    Deviation: a sample whose heads would all be dropped keeps one; the paper does not say.
    """

    def __init__(self, num_heads: int, drop_prob: float) -> None:
        if num_heads < 1 or not 0 <= drop_prob < 1:
            raise ValueError(
                f"need num_heads >= 1 and drop_prob in [0, 1), got {num_heads} and {drop_prob}"
            )
        self.num_heads, self.drop_prob = num_heads, drop_prob

    def factors(self, batch_size: int, device: torch.device | str = "cpu") -> Tensor:
        """Multipliers (batch_size, num_heads) float32: 0 where dropped, else H / survivors."""
        draws = torch.rand(batch_size, self.num_heads, device=device)
        kept = (draws >= self.drop_prob) | (draws == draws.amax(1, keepdim=True))
        return kept * (self.num_heads / kept.sum(1, keepdim=True))

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Scale the heads in training mode; inputs[0] is (B, L, H * head_dim)."""
        if not module.training or self.drop_prob == 0:
            return None
        context: Tensor = inputs[0]
        heads = context.reshape(*context.shape[:-1], self.num_heads, -1)
        factors = self.factors(len(context), context.device).to(context.dtype)
        return ((heads * factors[:, None, :, None]).flatten(-2), *inputs[1:])


def add_drop_head(model: PreTrainedModel, drop_prob: float) -> list[str]:
    """Drop heads in every self-attention block of a transformer; adds no parameters.

    The heads are scaled where they enter the output projection, so eager, sdpa and flash attention
    are treated alike.

    Args:
        model: BERT, RoBERTa, XLM-R, ELECTRA, DistilBERT or a LLaMA-like decoder.
        drop_prob: probability of each head, in [0, 1).

    Returns:
        Names of the hooked projections, one for each layer.

    Raises:
        UserError: an architecture whose output projections are not known.
        ValueError: `drop_prob` out of range.
    """
    hook = DropHead(int(model.config.num_attention_heads), drop_prob)
    projections = {n: m for n, m in model.named_modules() if n.endswith(_OUTPUT_PROJECTIONS)}
    if len(projections) != model.config.num_hidden_layers:
        raise UserError(
            f"DropHead does not know the attention of {model.config.model_type} models "
            f"({len(projections)} of {model.config.num_hidden_layers} layers); set its rate to 0"
        )
    for module in projections.values():
        module.register_forward_pre_hook(hook)
    return list(projections)
