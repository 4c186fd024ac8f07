"""Batch normalisation of one side of a pair at a time: batch statistics here, running ones there.

Legend: N rows, D channels.
"""

import torch
from torch import Tensor, nn

from common.distributed.differentiable import all_reduce_sum


class AsymmetricBatchNorm(nn.Module):
    """Batch normalisation whose caller says, call by call, which statistics are used.

        y = (x - mean) / sqrt(variance + eps) * weight + bias

    With batch statistics mean and variance are those of `x`, and the running ones move towards
    them; otherwise they are the running ones, which stay, so that no row can be told by its batch
    mates. In evaluation mode the running ones always are.

    Source: Wu et al. 2022, "Unsupervised Context Aware Sentence Representation Pretraining",
    arXiv 2206.03281 (asymmetric batch normalisation); Ioffe & Szegedy 2015, algorithms 1 and 2,
    arXiv 1502.03167.

    Args:
        num_features: D.
        eps: >= 0, added to the variance.
        momentum: in [0, 1], how far the running statistics move in a step.
        affine: learnt weight and bias.

    Attributes:
        running_mean: buffer (D,).
        running_var: buffer (D,), of unbiased variances, as in `torch.nn.BatchNorm1d`.

    Distributed: reduces the batch statistics; running ones are equal on all ranks.

    >>> norm = AsymmetricBatchNorm(1, eps=0.0, affine=False)
    >>> norm(torch.tensor([[1.0], [3.0]]), batch_statistics=True).flatten().tolist()
    [-1.0, 1.0]
    >>> round(float(norm.running_mean), 4)  # 0.9 * 0 + 0.1 * 2
    0.2
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self, num_features: int, *, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True
    ) -> None:
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.weight = nn.Parameter(torch.ones(num_features)) if affine else None
        self.bias = nn.Parameter(torch.zeros(num_features)) if affine else None
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def forward(self, x: Tensor, batch_statistics: bool) -> Tensor:
        """Normalised rows.

        Args:
            x: (N, D); with batch statistics at least two rows on all ranks together.
            batch_statistics: of these rows, in training mode.

        Returns:
            (N, D), float32 for half precision.

        Raises:
            ValueError: another shape, or too few rows.
        """
        if x.ndim != 2 or x.shape[1] != self.num_features:
            raise ValueError(f"expected (N, {self.num_features}), got {tuple(x.shape)}")
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(torch.promote_types(x.dtype, torch.float32))
            if batch_statistics and self.training:
                mean, var = self._moments(x)
            else:  # copies: a later call of the same step moves the buffers in place
                mean, var = self.running_mean.clone(), self.running_var.clone()
            y = (x - mean) * (var + self.eps).rsqrt()
            return y if self.weight is None or self.bias is None else y * self.weight + self.bias

    def _moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        count = all_reduce_sum(x.new_tensor(float(len(x))))
        if count < 2:
            raise ValueError("batch statistics need at least two rows")
        mean = all_reduce_sum(x.sum(dim=0)) / count
        var = all_reduce_sum((x - mean).square().sum(dim=0)) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            unbiased = var * (count / (count - 1))
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
        return mean, var

    def extra_repr(self) -> str:
        """Options, for printing."""
        affine = self.weight is not None
        return f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={affine}"
