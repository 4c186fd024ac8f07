"""`ClipLoss` and `SigLipLoss` with the constructor and call of open_clip."""

from typing import Literal

from torch import Tensor

from ...distributed import process
from ...distributed.differentiable import global_mean
from ..base import PairLoss
from ..functional.info_nce import clip, info_nce
from ..functional.siglip import siglip


class ClipLoss(PairLoss):
    """CLIP's loss, called as open_clip calls it; see `functional.info_nce.clip`.

    Loss and gradient equal open_clip's for all four settings of `local_loss` and
    `gather_with_grad`, once DDP has averaged over processes.

    Source: Radford et al. 2021, figure 3, arXiv 2103.00020.

    Args:
        local_loss: report the mean over the rows of this process, else over all rows.
        gather_with_grad: let rows of other processes carry gradient. Only True is the gradient of
            the global batch. False with `local_loss=False` gives the encoders 1/world_size of it;
            False with `local_loss=True` omits the gradient from other processes' rows.
        cache_labels: accepted; no labels are built.
        rank: rank of this process, as torch.distributed reports it.
        world_size: number of processes; 1 contrasts the rows of this process only.
        use_horovod: must be False.

    Raises:
        ValueError: Horovod, or a `world_size` or `rank` that differs from torch.distributed's (at
            the first call).

    Distributed: gathers negatives if `world_size` > 1, else local.

    Deviation: logits are float32 under autocast, where open_clip rounds them to half precision.

    >>> import torch
    >>> pair = torch.eye(2)
    >>> ClipLoss()(pair, pair, torch.tensor(3.0).log(), output_dict=True)  # log((3 + 1) / 3)
    {'contrastive_loss': tensor(0.2877)}
    """

    def __init__(
        self,
        local_loss: bool = False,
        gather_with_grad: bool = False,
        cache_labels: bool = False,
        rank: int = 0,
        world_size: int = 1,
        use_horovod: bool = False,
    ) -> None:
        super().__init__(gather=world_size > 1, normalize=False)
        if use_horovod:
            raise ValueError("use_horovod=True is not supported: start torch.distributed instead")
        self.local_loss = local_loss
        self.gather_with_grad = gather_with_grad
        self.cache_labels = cache_labels
        self.rank = rank
        self.world_size = world_size

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor | float,
        logit_bias: Tensor | float | None = None,
        output_dict: bool = False,
    ) -> Tensor | dict[str, Tensor]:
        """Loss of a batch of pairs.

        Args:
            image_features: (B, D), normalised by the model.
            text_features: (B, D), row i belongs to image i.
            logit_scale: multiplier of the similarities.
            logit_bias: added to every logit, which changes neither loss nor gradient.
            output_dict: whether to return {"contrastive_loss": loss}.
        """
        _check_processes(self.rank, self.world_size)
        image, text = self.prepare(image_features), self.prepare(text_features)
        kernel = self.kernel
        # the model normalises; for other rows a CPU computes again what is out of range
        kernel["unit_norm"] = image.is_cpu
        if self.world_size == 1 or self.gather_with_grad:
            per_sample = clip(image, text, logit_scale, **kernel).per_sample
        elif self.local_loss:
            to_text = info_nce(image, text.detach(), logit_scale, **kernel).per_sample
            to_image = info_nce(text, image.detach(), logit_scale, **kernel).per_sample
            per_sample = 0.5 * (to_text + to_image)
        else:
            share = 1 / self.world_size
            image, text = _scale_gradient(image, share), _scale_gradient(text, share)
            per_sample = clip(image, text, logit_scale, **kernel).per_sample
        local = self.local_loss or self.world_size == 1
        loss = per_sample.mean() if local else global_mean(per_sample, process.default_group())
        if isinstance(logit_bias, Tensor):
            loss = loss + 0 * logit_bias.sum()  # DDP expects a gradient, which is zero
        return {"contrastive_loss": loss} if output_dict else loss


class SigLipLoss(PairLoss):
    """SigLIP's loss, called as open_clip calls it; see `functional.siglip.siglip`.

    Source: Zhai et al. 2023, equation 1, arXiv 2303.15343.

    Args:
        cache_labels: accepted; no labels are built.
        rank: rank of this process, as torch.distributed reports it.
        world_size: number of processes; 1 contrasts the rows of this process only.
        dist_impl: "bidir", "shift", "reduce" or "gather": how open_clip moves the texts. All give
            one result; here they are gathered.
        chunk_size: >= 0, accepted; large batches never hold the matrix of all logits here.

    Raises:
        ValueError: an unknown `dist_impl`, a negative `chunk_size`, or a `world_size` or `rank`
            that differs from torch.distributed's (at the first call).

    Distributed: gathers negatives if `world_size` > 1, else local.

    Deviation: logits are float32 under autocast, where open_clip rounds them to half precision.

    >>> import torch
    >>> pair = torch.eye(1)
    >>> SigLipLoss()(pair, pair, 2.0, -2.0)  # log 2
    tensor(0.6931)
    """

    def __init__(
        self,
        cache_labels: bool = False,
        rank: int = 0,
        world_size: int = 1,
        dist_impl: Literal["bidir", "shift", "reduce", "gather"] | None = None,
        chunk_size: int = 0,
    ) -> None:
        super().__init__(gather=world_size > 1, normalize=False)
        if chunk_size < 0:
            raise ValueError(f"chunk_size must be >= 0, got {chunk_size}")
        if dist_impl not in (None, "bidir", "shift", "reduce", "gather"):
            raise ValueError(
                f"dist_impl must be bidir, shift, reduce, gather or None, got {dist_impl!r}"
            )
        self.cache_labels = cache_labels
        self.rank = rank
        self.world_size = world_size
        self.dist_impl = dist_impl or "bidir"
        self.chunk_size = chunk_size

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor | float,
        logit_bias: Tensor | float | None,
        output_dict: bool = False,
    ) -> Tensor | dict[str, Tensor]:
        """Loss of a batch of pairs.

        Args:
            image_features: (B, D), normalised by the model.
            text_features: (B, D), row i belongs to image i.
            logit_scale: multiplier of the similarities.
            logit_bias: added to every logit; None is 0.
            output_dict: whether to return {"contrastive_loss": loss}.
        """
        _check_processes(self.rank, self.world_size)
        image, text = self.prepare(image_features), self.prepare(text_features)
        bias = 0.0 if logit_bias is None else logit_bias
        loss = siglip(image, text, logit_scale, bias, **self.kernel).loss
        return {"contrastive_loss": loss} if output_dict else loss


def _check_processes(rank: int, world_size: int) -> None:
    if world_size > 1 and (rank, world_size) != (process.rank(), process.world_size()):
        raise ValueError(
            f"rank={rank} and world_size={world_size} were given, torch.distributed has "
            f"rank {process.rank()} of {process.world_size()}: call init_process_group first and "
            "give its rank and size"
        )


def _scale_gradient(x: Tensor, factor: float) -> Tensor:
    """`x` in value, `factor * x` in gradient."""
    return x.detach() + factor * (x - x.detach())
