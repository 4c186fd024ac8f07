"""Text that looks at the media before it, through gates that are shut at first.

# B batch, T media, N tokens of a medium, L text tokens, D width of the text, V width of the media
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from projects.cosmo.visual_language.perceiver import feed_forward, split_heads


def media_times(media_locations: Tensor) -> Tensor:
    """How many media have begun at each token.

    Args:
        media_locations: (B, L), nonzero at the token that stands for a medium.

    >>> media_times(torch.tensor([[0, 1, 0, 1, 0]])).tolist()
    [[0, 1, 1, 2, 2]]
    """
    return media_locations.long().cumsum(dim=-1)


class MaskedCrossAttention(nn.Module):
    """Cross-attention of text tokens to media tokens.

    Args:
        dim: D.
        dim_visual: V.
        dim_head: d before compression.
        heads: H.
        compression: c, divides d.
        immediate: a token sees the last medium before it alone, and nothing if there is none; else
            all media that have begun (before the first one the mean of all, as released).
        qk_norm: layer norms on queries and keys.

    Raises:
        ValueError: c does not divide d.
    """

    def __init__(
        self,
        dim: int,
        dim_visual: int,
        *,
        dim_head: int = 64,
        heads: int = 8,
        compression: int = 1,
        immediate: bool = True,
        qk_norm: bool = False,
    ) -> None:
        super().__init__()
        if dim_head % compression:
            raise ValueError(
                f"compression {compression} does not divide the head's width {dim_head}"
            )
        self.heads, self.immediate = heads, immediate
        self.scale = dim_head**-0.5  # of the uncompressed width, as released
        inner = heads * dim_head // compression
        self.norm = nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_kv = nn.Linear(dim_visual, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, dim, bias=False)
        width = dim_head // compression
        self.q_norm: nn.LayerNorm | None = nn.LayerNorm(width) if qk_norm else None
        self.k_norm: nn.LayerNorm | None = nn.LayerNorm(width) if qk_norm else None

    def forward(self, text: Tensor, media: Tensor, times: Tensor) -> Tensor:
        """What each token reads.

        Args:
            text: (B, L, D).
            media: (B, T, N, V).
            times: (B, L) int64, media that have begun, see `media_times`.

        Returns:
            (B, L, D), without gate and residual.
        """
        query = split_heads(self.to_q(self.norm(text)), self.heads)
        key, value = (
            split_heads(x, self.heads) for x in self.to_kv(media.flatten(1, 2)).chunk(2, dim=-1)
        )
        if self.q_norm is not None and self.k_norm is not None:
            query, key = self.q_norm(query), self.k_norm(key)
        index = torch.arange(1, media.shape[1] + 1, device=media.device).repeat_interleave(
            media.shape[2]
        )
        times = times[..., None]
        seen = times == index if self.immediate else times >= index
        blind = ~seen.any(-1, keepdim=True)  # a softmax needs something to look at
        mask = (seen | blind)[:, None]
        read = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=self.scale)
        nothing = 0 * value[..., :1, :] if self.immediate else value.mean(-2, keepdim=True)
        read = torch.where(blind[:, None], nothing, read)
        out: Tensor = self.to_out(read.transpose(1, 2).flatten(2))
        return out


class GatedCrossAttention(nn.Module):
    """Cross-attention and a feed-forward layer whose gates start at 0: the identity.

        x <- x + tanh(g_a) XAttn(x),  x <- x + tanh(g_f) FF(x)

    Source: Alayrac et al. 2022, "Flamingo", section 2.2, arXiv 2204.14198; compression: Wang et al.
    2024,
    "COSMO", arXiv 2401.00849.

    Args:
        dim: D.
        dim_visual: V.
        ff_mult: hidden width of the feed-forward layer, times D / c.
        compression: c.
        dim_head: see `MaskedCrossAttention`; so are `heads`, `immediate` and `qk_norm`.
    """

    def __init__(
        self,
        dim: int,
        dim_visual: int,
        *,
        dim_head: int = 64,
        heads: int = 8,
        ff_mult: int = 4,
        compression: int = 1,
        immediate: bool = True,
        qk_norm: bool = False,
    ) -> None:
        super().__init__()
        self.attn_gate, self.ff_gate = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
        self.attn = MaskedCrossAttention(
            dim,
            dim_visual,
            dim_head=dim_head,
            heads=heads,
            compression=compression,
            immediate=immediate,
            qk_norm=qk_norm,
        )
        self.ff = feed_forward(dim, dim * ff_mult // compression)

    def forward(self, text: Tensor, media: Tensor, times: Tensor) -> Tensor:
        """See `MaskedCrossAttention.forward`."""
        text = text + self.attn_gate.tanh() * self.attn(text, media, times)
        text = text + self.ff_gate.tanh() * self.ff(text)
        return text
