"""Latent attention and self-attention over token states, and the poolers that end in a mean.

Source: Lee et al. 2024, "NV-Embed", section 3.2, arXiv 2405.17428; layer sizes and residual paths
as in the code that was released with the weights.

# B texts, L tokens, R latents, D dim
"""

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.encoders.pooling import mean_pool
from common.encoders.text.pooling import last_token

TokenPooling = Literal["last", "mean", "latent", "self_attention"]
TOKEN_POOLINGS: tuple[TokenPooling, ...] = get_args(TokenPooling)


class CrossAttention(nn.Module):
    """Multi-head attention without biases: queries of one sequence, keys and values of another.

    Args:
        dim: D of both sequences and of the output.
        heads: number of heads.
        dim_head: size of a head; free of `dim`.
    """

    def __init__(self, dim: int, heads: int, dim_head: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(dim, heads * dim_head, bias=False)
        self.to_kv = nn.Linear(dim, 2 * heads * dim_head, bias=False)
        self.to_out = nn.Linear(heads * dim_head, dim, bias=False)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """softmax(Q K^T / sqrt(dim_head)) V, heads joined.

        Args:
            x: (B, L, D), queries.
            context: (B, R, D), keys and values.
            mask: (B, R), non-zero at the keys that count; None: all.

        Returns:
            (B, L, D).
        """
        q, (k, v) = self.to_q(x), self.to_kv(context).chunk(2, dim=-1)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        allowed = None if mask is None else mask.ne(0)[:, None, None, :]
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
        joined: Tensor = self.to_out(out.transpose(1, 2).flatten(2))
        return joined


class GatedFeedForward(nn.Module):
    """Linear, GEGLU ``a * GELU(b)`` (Shazeer 2020, arXiv 2002.05202), linear; (..., D) -> (..., D).

    Args:
        dim: D.
        factor: hidden units per input unit.
    """

    def __init__(self, dim: int, factor: int = 4) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(dim, 2 * factor * dim), _GeGlu(), nn.Linear(factor * dim, dim)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        out: Tensor = self.net(x)
        return out


class _GeGlu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        value, gate = x.chunk(2, dim=-1)
        return value * F.gelu(gate)


class _PreNorm(nn.Module):
    """LayerNorm of the input (and of the context) before a layer."""

    def __init__(self, dim: int, fn: nn.Module, *, context: bool = False) -> None:
        super().__init__()
        self.fn, self.norm = fn, nn.LayerNorm(dim)
        self.norm_context = nn.LayerNorm(dim) if context else None

    def forward(self, x: Tensor, context: Tensor | None = None, **options: Tensor | None) -> Tensor:
        normed = self.norm(x)
        if self.norm_context is None or context is None:
            out: Tensor = self.fn(normed)
            return out
        out = self.fn(normed, self.norm_context(context), **options)
        return out


class LatentAttention(nn.Module):
    """Token states that have looked up a trained dictionary.

        H' = H + Attention(LN(H), LN(Z)),   O = H' + GEGLU-MLP(LN(H'))

    Tokens are the queries; the R trained latents Z are keys and values, so that no mask is needed.
    Names and shapes of the parameters are those of the released weights.

    Source: Lee et al. 2024, section 3.2, arXiv 2405.17428.
    Deviation: the paper writes ``softmax(Q K^T) V`` with K = V = latents and a plain MLP; residual
    paths, norms, separate projections and the gate are those of the released code.

    Args:
        dim: D.
        num_latents: R.
        heads: attention heads.
        dim_head: size of a head; None: D (as released).

    >>> LatentAttention(8, 4, 2, 3)(torch.zeros(1, 5, 8)).shape
    torch.Size([1, 5, 8])
    """

    def __init__(
        self, dim: int, num_latents: int = 512, heads: int = 8, dim_head: int | None = None
    ) -> None:
        super().__init__()
        attention = CrossAttention(dim, heads, dim_head or dim)
        self.cross_attend_blocks = nn.ModuleList(
            [_PreNorm(dim, attention, context=True), _PreNorm(dim, GatedFeedForward(dim))]
        )
        self.latents = nn.Parameter(torch.randn(num_latents, dim))

    def forward(self, states: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, L, D) -> (B, L, D); `mask` is not used."""
        attend, feed_forward = self.cross_attend_blocks
        latents = self.latents.to(states.dtype).expand(len(states), -1, -1)
        states = states + attend(states, latents)  # Eq. 1
        out: Tensor = states + feed_forward(states)  # Eq. 2
        return out


class SelfAttention(nn.Module):
    """The ablation of `LatentAttention`: keys and values are the tokens themselves.

    Source: Lee et al. 2024, table 2 ("self-attention"), arXiv 2405.17428.

    Args:
        dim: D.
        heads: attention heads.
        dim_head: size of a head; None: D.
    """

    def __init__(self, dim: int, heads: int = 8, dim_head: int | None = None) -> None:
        super().__init__()
        self.attend = _PreNorm(dim, CrossAttention(dim, heads, dim_head or dim), context=True)
        self.feed_forward = _PreNorm(dim, GatedFeedForward(dim))

    def forward(self, states: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, L, D) and the mask (B, L) of the tokens that may be looked at -> (B, L, D)."""
        states = states + self.attend(states, states, mask=mask)
        out: Tensor = states + self.feed_forward(states)
        return out


class TokenPooler(nn.Module):
    """Token states -> one vector.

    | pooling | vector |
    |---|---|
    | last | state of the last token that is pooled (EOS) |
    | mean | mean over the pooled tokens |
    | latent | the same after `LatentAttention` |
    | self_attention | the same after `SelfAttention` |

    Args:
        pooling: see the table.
        dim: D.
        num_latents: see `LatentAttention`.
        heads: see `LatentAttention`.
        dim_head: see `LatentAttention`.

    Raises:
        ValueError: unknown pooling.
    """

    def __init__(
        self,
        pooling: TokenPooling,
        dim: int,
        *,
        num_latents: int = 512,
        heads: int = 8,
        dim_head: int | None = None,
    ) -> None:
        super().__init__()
        if pooling not in TOKEN_POOLINGS:
            raise ValueError(f"pooling must be one of {TOKEN_POOLINGS}, got {pooling!r}")
        self.pooling = pooling
        self.layer: nn.Module | None = None
        if pooling == "latent":
            self.layer = LatentAttention(dim, num_latents, heads, dim_head)
        elif pooling == "self_attention":
            self.layer = SelfAttention(dim, heads, dim_head)

    def forward(self, states: Tensor, attention_mask: Tensor, pool_mask: Tensor) -> Tensor:
        """Pool the tokens of `pool_mask`.

        Args:
            states: (B, L, D), last layer.
            attention_mask: (B, L), non-zero at real tokens.
            pool_mask: (B, L), non-zero at the tokens that are pooled; every row has one.

        Returns:
            (B, D), not normalised; the mean runs in float32 at least.
        """
        if self.pooling == "last":
            return last_token(states, pool_mask)
        if self.layer is not None:
            dtype = next(self.layer.parameters()).dtype  # that of a model in bfloat16 may differ
            states = self.layer(states.to(dtype), attention_mask)
        return mean_pool(states, pool_mask)
