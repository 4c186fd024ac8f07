"""The projection head in front of the loss; it is dropped after the pre-training."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from projects.ccp.asymmetric_norm import AsymmetricBatchNorm

Norm = Literal["asymmetric", "plain", "none"]


class PairHead(nn.Module):
    """Projection of centres and contexts: linear, norm, ReLU, linear, norm (without affine part).

    "asymmetric": in training one side is normalised with the statistics of the batch, which move
    the running ones, the other with the running ones of before; sides change roles at every call.
    "plain": both sides together with the statistics of the batch. In evaluation mode both use the
    running statistics.

    Source: Wu et al. 2022, arXiv 2206.03281 (asymmetric batch normalisation); layers, eps and the
    missing biases: released code of MSM (arXiv 2302.01626), which continues it.

    Args:
        in_dim: of the encoder.
        hidden_dim: None: `in_dim`.
        out_dim: None: `in_dim`.
        norm: "asymmetric", "plain" or "none".
        last_norm: whether the output is normalised too.
        bias: of the linear maps.
        eps: of the norms.
        momentum: of their running statistics.

    Attributes:
        turn: buffer, 0-dim int64, calls in training mode; even: the centres have batch statistics.

    Distributed: reduces the batch statistics.
    """

    turn: Tensor

    def __init__(
        self,
        in_dim: int,
        hidden_dim: int | None = None,
        out_dim: int | None = None,
        *,
        norm: Norm = "asymmetric",
        last_norm: bool = True,
        bias: bool = False,
        eps: float = 1e-12,
        momentum: float = 0.1,
    ) -> None:
        super().__init__()
        hidden_dim, out_dim = hidden_dim or in_dim, out_dim or in_dim
        self.norm = norm
        self.first = nn.Linear(in_dim, hidden_dim, bias=bias)
        self.second = nn.Linear(hidden_dim, out_dim, bias=bias)
        used = norm != "none"

        def made(width: int, affine: bool) -> AsymmetricBatchNorm:
            return AsymmetricBatchNorm(width, eps=eps, momentum=momentum, affine=affine)

        self.first_norm = made(hidden_dim, True) if used else None
        self.last_norm = made(out_dim, False) if used and last_norm else None
        self.register_buffer("turn", torch.zeros((), dtype=torch.long))

    def project(self, x: Tensor, batch_statistics: bool = False) -> Tensor:
        """States (N, in_dim) -> vectors (N, out_dim), not of unit length."""
        x = self.first(x)
        x = x if self.first_norm is None else self.first_norm(x, batch_statistics)
        x = self.second(F.relu(x).to(self.second.weight.dtype))  # the norm is in float32
        return x if self.last_norm is None else self.last_norm(x, batch_statistics)

    def forward(self, center: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors of both sides, (B, out_dim) each, of states (B, in_dim)."""
        if self.norm != "asymmetric" or not self.training:
            both = self.project(torch.cat([center, context]), batch_statistics=True)
            return both[: len(center)], both[len(center) :]
        batch_side, other = (center, context) if self.turn % 2 == 0 else (context, center)
        frozen = self.project(other)  # first: the running statistics of before this step
        moving = self.project(batch_side, batch_statistics=True)
        outputs = (moving, frozen) if self.turn % 2 == 0 else (frozen, moving)
        self.turn.add_(1)
        return outputs
