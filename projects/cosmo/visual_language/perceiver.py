"""A fixed number of tokens from any number of image tokens, one vector from text states.

# B batch, T images, F frames, N tokens of a frame, D width, Q latents
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def feed_forward(dim: int, hidden: int) -> nn.Sequential:
    """Norm, linear, GELU, linear; no bias in the linear layers."""
    return nn.Sequential(
        nn.LayerNorm(dim),
        nn.Linear(dim, hidden, bias=False),
        nn.GELU(),
        nn.Linear(hidden, dim, bias=False),
    )


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(..., N, H * d) -> (..., H, N, d)."""
    return x.reshape(*x.shape[:-1], heads, -1).transpose(-3, -2)


class PerceiverAttention(nn.Module):
    """Latents that look at tokens and at themselves.

        q = W_q LN(l),  k, v = W_kv [LN(x); LN(l)],  out = W_o softmax(q k' / sqrt(d)) v

    Source: Alayrac et al. 2022, "Flamingo", appendix A.1.1, arXiv 2204.14198.

    Args:
        dim: D, of tokens and latents.
        dim_head: d.
        heads: H.
    """

    def __init__(self, dim: int, dim_head: int = 64, heads: int = 8) -> None:
        super().__init__()
        self.heads = heads
        self.norm_media, self.norm_latents = nn.LayerNorm(dim), nn.LayerNorm(dim)
        inner = dim_head * heads
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_kv = nn.Linear(dim, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, dim, bias=False)

    def forward(self, tokens: Tensor, latents: Tensor, mask: Tensor | None = None) -> Tensor:
        """What the latents read.

        Args:
            tokens: (..., N, D).
            latents: (..., Q, D).
            mask: (..., N) bool, False at tokens that are not looked at; None: all are.

        Returns:
            (..., Q, D), without the residual.
        """
        tokens, latents = self.norm_media(tokens), self.norm_latents(latents)
        query = split_heads(self.to_q(latents), self.heads)
        kv = self.to_kv(torch.cat([tokens, latents], dim=-2))
        key, value = (split_heads(part, self.heads) for part in kv.chunk(2, dim=-1))
        seen = None
        if mask is not None:
            latent_mask = mask.new_ones(*mask.shape[:-1], latents.shape[-2])
            seen = torch.cat([mask, latent_mask], dim=-1)[..., None, None, :]
        read = F.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        out: Tensor = self.to_out(read.transpose(-3, -2).flatten(-2))
        return out


class PerceiverResampler(nn.Module):
    """Learned latents that read the tokens of all frames of an image or clip.

    Source: Alayrac et al. 2022, "Flamingo", appendix A.1.1, arXiv 2204.14198; without embeddings of
    frames and images, as in OpenFlamingo and COSMO (Wang et al. 2024, arXiv 2401.00849).

    Args:
        dim: D.
        depth: layers.
        dim_head: width of a head.
        heads: number of heads.
        num_latents: Q; a caller that wants a further query asks for one more.
        ff_mult: hidden width of the feed-forward layers, times D.
    """

    def __init__(
        self,
        dim: int,
        *,
        depth: int = 6,
        dim_head: int = 64,
        heads: int = 8,
        num_latents: int = 64,
        ff_mult: int = 4,
    ) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(num_latents, dim))  # N(0, 1)
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [PerceiverAttention(dim, dim_head, heads), feed_forward(dim, ff_mult * dim)]
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T, F, N, D) -> (B, T, Q, D): the frames of an image are read together."""
        tokens = tokens.flatten(2, 3)
        latents = self.latents.expand(*tokens.shape[:2], -1, -1)
        for layer in self.layers:
            parts: Any = layer
            latents = parts[0](tokens, latents) + latents
            latents = parts[1](latents) + latents
        normed: Tensor = self.norm(latents)
        return normed


class GainNorm(nn.Module):
    """Layer normalisation with a gain and no bias.

    >>> GainNorm(2)(torch.tensor([[1.0, 3.0]])).round(decimals=3).tolist()
    [[-1.0, 1.0]]
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return F.layer_norm(x, x.shape[-1:], self.gamma)


class QueryPooling(nn.Module):
    """One vector of a sequence: a learned query reads it.

        h = q + Attn(q, [x; q]),  out = LN(h + FF(h))

    Source: Wang et al. 2024, "COSMO", released code, arXiv 2401.00849.

    Args:
        dim: D.
        dim_head: width of a head.
        heads: number of heads.
        ff_mult: hidden width of the feed-forward layer, times D.
    """

    def __init__(self, dim: int, dim_head: int = 64, heads: int = 8, ff_mult: int = 4) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, dim))  # N(0, 1)
        self.attention = PerceiverAttention(dim, dim_head, heads)
        self.feed_forward = feed_forward(dim, ff_mult * dim)
        self.norm = GainNorm(dim)

    def forward(self, states: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, N, D) -> (B, D).

        Args:
            states: of the tokens.
            mask: (B, N), nonzero where there is a token; None: padding is read too, as released.
        """
        query = self.query.expand(len(states), -1, -1)
        read = self.attention(states, query, None if mask is None else mask.bool()) + query
        normed: Tensor = self.norm(self.feed_forward(read) + read)
        return normed[:, 0]
