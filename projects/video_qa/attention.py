"""Attention from the tokens of a sentence to the frames of a clip: to those of its span, or to all.

# B clips, Q rows of queries, L tokens, N sentences, F frames, D dim
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

Reach = Literal["local", "global"]


def frame_reach(spans: Tensor, frames: Tensor, reach: Reach) -> Tensor:
    """Frames that each sentence may look at.

    Args:
        spans: (B, N, F) bool, frames that belong to a sentence.
        frames: (B, F) bool, False at padding.
        reach: "local": those frames; "global": all frames of the clip.

    Returns:
        (B, N, F) bool.
    """
    return (spans if reach == "local" else torch.ones_like(spans)) & frames[:, None]


def masked_softmax(scores: Tensor, allowed: Tensor) -> Tensor:
    """Softmax over the last dimension among what is allowed.

    Exactly 0 elsewhere, and all 0 where nothing is.

    >>> masked_softmax(torch.zeros(2, 3), torch.tensor([[True, True, False], [False] * 3])).tolist()
    [[0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]
    """
    lowest = torch.finfo(scores.dtype).min
    weights = scores.masked_fill(~allowed, lowest).softmax(-1)
    return weights.masked_fill(~allowed, 0.0)


class FrameAttention(nn.Module):
    """Dot-product attention of tokens to frames with one head.

        alpha = softmax((H W_q) (V W_k)^T / sqrt(d) + M),   u = alpha V

    Source: the attention of Vaswani et al. 2017, section 3.2.1, arXiv 1706.03762, with a mask M
    that leaves each sentence the frames of its own time span (Kim et al. 2021, arXiv 2009.08043).

    Args:
        dim: D.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)

    def forward(self, tokens: Tensor, frames: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
        """Attend.

        Args:
            tokens: (B, A, N, L, D).
            frames: (B, F, D).
            allowed: (B, N, F) bool, see `frame_reach`.

        Returns:
            Attended frames (B, A, N, L, D), 0 for a sentence without frames; weights (B, A, N, L,
            F).
        """
        query, key = self.query(tokens), self.key(frames)
        scores = torch.einsum("banld,bfd->banlf", query, key) / math.sqrt(key.shape[-1])
        weights = masked_softmax(scores, allowed[:, None, :, None])
        return torch.einsum("banlf,bfd->banld", weights, frames), weights
