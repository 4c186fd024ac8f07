"""SASRec: a causal transformer over items whose output scores the next one.

# B sequences, L positions, D dim, I items
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.encoders.length_groups import in_length_groups

MASKED = -10000.0  # added to the logit of a key that is not seen


class SASRec(nn.Module):
    """Item and position embeddings, post-norm transformer blocks, scores by the tied item table.

    A position sees itself and those before it, but no padding. Sequences are padded on the right; a
    user's vector is the state at its last item. Parameters are called as in RecBole's SASRec and
    laid out like them, so that its ``load_state_dict`` takes the weights as they are.

    Source: Kang and McAuley 2018, "Self-attentive sequential recommendation", arXiv 1808.09781, in
    the form of RecBole 0.2.1: post-norm, GELU, sizes as arguments.

    Args:
        num_items: I; ids are 1 to I, 0 is padding.
        dim: D.
        num_layers: blocks.
        num_heads: of each block, divides D.
        ffn_dim: inner width of the feed-forward layers.
        max_length: largest L.
        hidden_dropout: after the embeddings and after each sub-layer.
        attention_dropout: of the attention weights.
        length_groups: passes over a batch, by length; the results do not depend on it.

    Raises:
        ValueError: heads that do not divide D.
    """

    def __init__(
        self,
        num_items: int,
        *,
        dim: int = 64,
        num_layers: int = 2,
        num_heads: int = 2,
        ffn_dim: int = 256,
        max_length: int = 50,
        hidden_dropout: float = 0.5,
        attention_dropout: float = 0.5,
        length_groups: int = 1,
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"{num_heads} heads do not divide a dimension of {dim}")
        self.num_items, self.max_length = num_items, max_length
        self.length_groups = length_groups
        self.item_embedding = nn.Embedding(num_items + 1, dim, padding_idx=0)
        self.position_embedding = nn.Embedding(max_length, dim)
        self.trm_encoder = nn.ModuleDict(
            {
                "layer": nn.ModuleList(
                    _Block(dim, num_heads, ffn_dim, hidden_dropout, attention_dropout)
                    for _ in range(num_layers)
                )
            }
        )
        self.LayerNorm = nn.LayerNorm(dim, eps=1e-12)
        self.dropout = nn.Dropout(hidden_dropout)
        self.apply(_init)

    def forward(self, items: Tensor, lengths: Tensor) -> Tensor:
        """States of all positions.

        Args:
            items: (B, L) int64, L <= `max_length`; 0 is padding, or an item that is masked.
            lengths: (B,) int64, in [1, L], masked items included.

        Returns:
            (B, L, D); of padding they mean nothing.

        Raises:
            ValueError: more positions than there are embeddings for.
        """
        width = items.shape[1]

        def run(items: Tensor, attention_mask: Tensor) -> Tensor:
            return F.pad(self._states(items), (0, 0, 0, width - items.shape[1]))

        return self._in_groups(run, items, lengths)

    def user_vectors(self, items: Tensor, lengths: Tensor) -> Tensor:
        """States at the last items.

        Args:
            items: (B, L) int64.
            lengths: (B,) int64, in [1, L].

        Returns:
            (B, D).
        """

        def run(items: Tensor, attention_mask: Tensor) -> Tensor:
            return last_states(self._states(items), attention_mask.sum(1))

        return self._in_groups(run, items, lengths)

    def scores(self, states: Tensor) -> Tensor:
        """Products with all items: (..., D) -> (..., I + 1), column 0 of the padding."""
        return states @ self.item_embedding.weight.T

    def _in_groups(
        self, run: Callable[[Tensor, Tensor], Tensor], items: Tensor, lengths: Tensor
    ) -> Tensor:
        """Run the rows without their common padding, which no item's state depends on."""
        length = items.shape[1]
        if length > self.max_length:
            raise ValueError(f"{length} items; this encoder takes the last {self.max_length}")
        real = torch.arange(length, device=items.device) < lengths[:, None]
        if self.length_groups == 1:
            return run(items, real)
        return in_length_groups(run, self.length_groups, items=items, attention_mask=real)

    def _states(self, items: Tensor) -> Tensor:
        positions = torch.arange(items.shape[1], device=items.device)
        summed = self.item_embedding(items) + self.position_embedding(positions)
        states: Tensor = self.dropout(self.LayerNorm(summed))
        seen = (items > 0)[:, None, None, :] & (positions <= positions[:, None])
        bias = torch.where(seen, 0.0, MASKED).to(states.dtype)  # (B, 1, L, L)
        blocks: Any = self.trm_encoder["layer"]
        for block in blocks:
            states = block(states, bias)
        return states


def last_states(states: Tensor, lengths: Tensor) -> Tensor:
    """States (B, L, D) at position length - 1: (B, D)."""
    return states[torch.arange(len(lengths), device=lengths.device), lengths - 1]


class _Attention(nn.Module):
    def __init__(self, dim: int, num_heads: int, dropout: float, attention_dropout: float) -> None:
        super().__init__()
        self.num_heads, self.attention_dropout = num_heads, attention_dropout
        self.query, self.key, self.value = (nn.Linear(dim, dim) for _ in range(3))
        self.dense = nn.Linear(dim, dim)
        self.LayerNorm = nn.LayerNorm(dim, eps=1e-12)
        self.out_dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor, bias: Tensor) -> Tensor:
        rate = self.attention_dropout if self.training else 0.0
        query, key, value = (
            project(states).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for project in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=rate)
        mixed = self.out_dropout(self.dense(mixed.transpose(1, 2).flatten(2)))
        normed: Tensor = self.LayerNorm(mixed + states)
        return normed


class _FeedForward(nn.Module):
    def __init__(self, dim: int, ffn_dim: int, dropout: float) -> None:
        super().__init__()
        self.dense_1, self.dense_2 = nn.Linear(dim, ffn_dim), nn.Linear(ffn_dim, dim)
        self.LayerNorm = nn.LayerNorm(dim, eps=1e-12)
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor) -> Tensor:
        inner = self.dropout(self.dense_2(F.gelu(self.dense_1(states))))
        normed: Tensor = self.LayerNorm(inner + states)
        return normed


class _Block(nn.Module):
    def __init__(
        self, dim: int, num_heads: int, ffn_dim: int, dropout: float, attention_dropout: float
    ) -> None:
        super().__init__()
        self.multi_head_attention = _Attention(dim, num_heads, dropout, attention_dropout)
        self.feed_forward = _FeedForward(dim, ffn_dim, dropout)

    def forward(self, states: Tensor, bias: Tensor) -> Tensor:
        output: Tensor = self.feed_forward(self.multi_head_attention(states, bias))
        return output


def _init(module: nn.Module) -> None:
    """normal(0, 0.02), biases 0."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
