"""One stack of layers that reads text in its lower part and fuses it with an image in its upper.

# N texts of L tokens, S context tokens, W and C their widths
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from common.config import UserError
from common.encoders.text.tower import load_transformer


class ContextAttention(nn.Module):
    """Cross-attention from text to a context, with residual and layer norm after it (post-norm).

    Source: Li et al. 2021, "ALBEF", section 3.1, arXiv 2107.07651.

    Args:
        width: W of the text.
        context_dim: C of the context.
        num_heads: divides W.
        dropout: of attention and output.
        eps: of the layer norm.
    """

    def __init__(
        self, width: int, context_dim: int, num_heads: int, dropout: float = 0.0, eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(context_dim, width)
        self.value = nn.Linear(context_dim, width)
        self.output = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor, context: Tensor) -> Tensor:
        """States (N, L, W) that have seen the context (N, S, C)."""
        q, k, v = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for part in (self.query(states), self.key(context), self.value(context))
        )
        rate = self.dropout.p if self.training else 0.0
        seen = F.scaled_dot_product_attention(q, k, v, dropout_p=rate)
        merged = self.output(seen.transpose(1, 2).flatten(2))
        fused: Tensor = self.norm(states + self.dropout(merged))
        return fused


class SplitFusionEncoder(nn.Module):
    """A BERT-like encoder whose layers from `split` on also attend to a context.

    Source: Zeng et al. 2022, "CCLM", section 3 (one stack for text and fusion), arXiv 2206.00621.

    Attributes:
        width: W.
        pad_id: of padding.

    Args:
        model: BERT, RoBERTa, XLM-RoBERTa or another model with `embeddings` and `encoder.layer`.
        split: layers [0, split) read text alone.
        context_dim: C; None leaves the upper layers out (text alone).

    Raises:
        UserError: a model of another kind, or a split outside its layers.
    """

    def __init__(self, model: PreTrainedModel, split: int, context_dim: int | None) -> None:
        super().__init__()
        layers = getattr(getattr(model, "encoder", None), "layer", None)
        if layers is None or not hasattr(layers[0], "intermediate"):
            raise UserError(f"{type(model).__name__} has no layers as BERT's: choose another model")
        last = len(layers) if context_dim is None else len(layers) - 1
        if not 1 <= split <= last:
            raise UserError(f"the text part needs 1 to {last} of {len(layers)} layers, got {split}")
        config: Any = model.config
        self.config, self.split = config, split
        self.width, self.pad_id = int(config.hidden_size), int(config.pad_token_id or 0)
        self.embeddings: Any = model.embeddings
        self.layers = nn.ModuleList(layers if context_dim is not None else layers[:split])
        self.cross = nn.ModuleList(
            ContextAttention(
                self.width,
                context_dim,
                config.num_attention_heads,
                config.hidden_dropout_prob,
                config.layer_norm_eps,
            )
            for _ in range(len(self.layers) - split)
            if context_dim is not None
        )

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the parts of the layers, which run one by one."""
        for part in (*self.cross, *(part for layer in self.layers for part in layer.children())):
            part.compile(*args, **kwargs)

    def text(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Ids (N, L) -> states (N, L, W) after the text part, mask (N, L) of real tokens."""
        mask = ids.ne(self.pad_id)
        states: Tensor = self.embeddings(input_ids=ids)
        for layer in self.layers[: self.split]:
            states = _run(layer, states, mask)
        return states, mask

    def fuse(self, states: Tensor, mask: Tensor, context: Tensor) -> Tensor:
        """States of `text` (N, L, W) and context (N, S, C) -> states after the last layer."""
        for layer, cross in zip(self.layers[self.split :], self.cross, strict=True):
            states = _run(layer, states, mask, cross, context)
        return states

    def get_input_embeddings(self) -> nn.Module:
        """Word embeddings, for the head of a masked language model that is tied to them."""
        words: nn.Module = self.embeddings.word_embeddings
        return words


def split_fusion_encoder(
    pretrained: str,
    *,
    split: int,
    context_dim: int | None,
    config: Mapping[str, Any] | None = None,
    keep: Sequence[int] | None = None,
    dropout: float | None = None,
) -> SplitFusionEncoder:
    """Build one from a ``pretrained:`` string; the cross-attention starts at random.

    Args:
        pretrained: see `common.encoders.text.tower.text_tower`.
        split: see `SplitFusionEncoder`.
        context_dim: see `SplitFusionEncoder`.
        config: with "random": the architecture.
        keep: layers of the model that are taken, in this order; None: all.
        dropout: overrides the model's dropout.

    Raises:
        UserError: as `load_transformer` and `SplitFusionEncoder`, or layers that are not there.
    """
    model = load_transformer(pretrained, config=config, dropout=dropout)
    if keep is not None:
        encoder: Any = getattr(model, "encoder", None)
        layers = getattr(encoder, "layer", [])
        if not keep or max(keep) >= len(layers):
            raise UserError(f"layers {list(keep)} asked for, but {pretrained} has {len(layers)}")
        encoder.layer = nn.ModuleList(layers[i] for i in keep)
        model.config.num_hidden_layers = len(keep)
    return SplitFusionEncoder(model, split, context_dim)


def _run(
    layer: Any,
    states: Tensor,
    mask: Tensor,
    cross: nn.Module | None = None,
    context: Tensor | None = None,
) -> Tensor:
    """Self-attention, cross-attention if there is one, feed-forward."""
    hidden = torch.zeros_like(mask, dtype=states.dtype)
    hidden = hidden.masked_fill(~mask, torch.finfo(states.dtype).min)[:, None, None]
    attended = layer.attention(states, attention_mask=hidden)[0]
    if cross is not None:
        attended = cross(attended, context)
    output: Tensor = layer.output(layer.intermediate(attended), attended)
    return output
