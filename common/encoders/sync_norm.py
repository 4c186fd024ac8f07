"""Batch norm whose statistics are those of all ranks, on any device."""

import torch
from torch import Tensor, nn
from torch.distributed import group
from torch.nn.modules._functions import SyncBatchNorm as CudaSyncBatchNorm
from torch.nn.modules.batchnorm import _BatchNorm

from common.distributed.differentiable import all_reduce_sum
from common.distributed.process import world_size


class SyncBatchNorm(_BatchNorm):
    """Batch norm over the rows of all ranks: torch's kernels on CUDA, plain operations elsewhere.

    `torch.nn.SyncBatchNorm` takes CUDA tensors only, and DDP refuses it on the CPU. On one process,
    and in evaluation mode, this is an ordinary batch norm. Ranks may have different numbers of
    rows. The backward is a collective: every rank must take it, or none.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...) -> the same shape."""
        if world_size() == 1 or not self.training:
            return self._local(x)
        if x.is_cuda:
            return self._on_cuda(x)
        dims = [0, *range(2, x.ndim)]
        shape = [1, -1, *[1] * (x.ndim - 2)]
        dtype, x = x.dtype, x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        rows = x.new_full((1,), x.numel() / x.shape[1])
        sums = all_reduce_sum(torch.cat([x.sum(dims), rows]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = x - mean.view(shape)
        variance = all_reduce_sum(centred.square().sum(dims)) / count
        self._follow(mean.detach(), variance.detach() * count / (count - 1).clamp(min=1))
        output = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            output = output * self.weight.view(shape) + self.bias.view(shape)
        return output.to(dtype)

    def _on_cuda(self, x: Tensor) -> Tensor:
        assert self.momentum is not None
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        output: Tensor = CudaSyncBatchNorm.apply(  # type: ignore[no-untyped-call]
            x,
            self.weight,
            self.bias,
            self.running_mean,
            self.running_var,
            self.eps,
            self.momentum,
            group.WORLD,
            world_size(),
        )
        return output

    def _local(self, x: Tensor) -> Tensor:
        average = self.training or self.running_mean is None
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        return nn.functional.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            average,
            self.momentum or 0.0,
            self.eps,
        )

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum or 0.0)
        self.running_var.lerp_(variance.to(self.running_var.dtype), self.momentum or 0.0)


class SyncBatchNormAct(SyncBatchNorm):
    """As timm's batch norm with an activation behind it."""

    drop: nn.Module
    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...) -> the same shape."""
        output: Tensor = self.act(self.drop(super().forward(x)))
        return output


def synchronise_batch_norm(module: nn.Module) -> nn.Module:
    """Replace every batch norm within by a synchronised one; keys of the state dict stay.

    Weights and statistics are shared with the layers that are replaced.

    Args:
        module: changed in place, unless it is a batch norm itself.

    Returns:
        The module, or what takes its place.

    Raises:
        ValueError: a batch norm that averages its statistics cumulatively (``momentum=None``).
    """
    if isinstance(module, _BatchNorm) and not isinstance(module, SyncBatchNorm):
        return _synchronised(module)
    for name, child in list(module.named_children()):
        module.add_module(name, synchronise_batch_norm(child))
    return module


def _synchronised(layer: _BatchNorm) -> SyncBatchNorm:
    if layer.momentum is None:
        raise ValueError("a batch norm with momentum=None has no synchronised form here")
    kind = SyncBatchNormAct if hasattr(layer, "act") else SyncBatchNorm
    new = kind(layer.num_features, layer.eps, layer.momentum, affine=False)
    new.affine, new.training = layer.affine, layer.training
    new.track_running_stats = layer.track_running_stats
    for name in ("weight", "bias"):
        setattr(new, name, getattr(layer, name))
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        setattr(new, name, getattr(layer, name))
    if isinstance(new, SyncBatchNormAct):
        new.drop, new.act = getattr(layer, "drop", nn.Identity()), layer.get_submodule("act")
    return new
