"""Losses between two modalities with one partner per row: CLIP, SigLIP."""

from torch import Tensor

from .base import PairLoss, check_fraction
from .functional import equations
from .functional.info_nce import clip
from .functional.kernel import as_scale
from .functional.masks import id_mask
from .functional.siglip import siglip
from .output import LossOutput


class ClipLoss(PairLoss):
    """Symmetric InfoNCE between images and texts, over all ranks.

    See `functional.clip` for the equation. Equal to open_clip's `ClipLoss(local_loss=True,
    gather_with_grad=True)` in loss and gradient, with one matrix product instead of two.

    Source: Radford et al. 2021, figure 3, arXiv 2103.00020.

    Args:
        label_smoothing: in [0, 1).
        gather: see `PairLoss`, also for `normalize`, `backend`, `memory_budget` and `precision`.

    Raises:
        ValueError: an option out of its range.

    Distributed: gathers negatives (local if `gather=False`).

    >>> import torch
    >>> pair = torch.eye(2)
    >>> ClipLoss()(pair, 5 * pair, scale=torch.tensor(3.0).log()).loss.exp()  # (3 + 1) / 3
    tensor(1.3333)
    """

    def __init__(
        self,
        gather: bool = True,
        label_smoothing: float = 0.0,
        backend: str = "auto",
        memory_budget: int | None = None,
        *,
        normalize: bool = True,
        precision: str = "auto",
    ) -> None:
        super().__init__(
            gather=gather,
            normalize=normalize,
            backend=backend,
            memory_budget=memory_budget,
            precision=precision,
        )
        check_fraction("label_smoothing", label_smoothing)
        self.label_smoothing = label_smoothing

    def forward(
        self, image: Tensor, text: Tensor, scale: Tensor | float, ids: Tensor | None = None
    ) -> LossOutput:
        """Loss of a batch of pairs.

        Args:
            image: (B, D) raw embeddings.
            text: (B, D), row i belongs to image i.
            scale: multiplier of the cosines, see `LogitScale`.
            ids: (B,) int64; pairs of equal id are not negatives of each other.
        """
        image, text = self.prepare(image), self.prepare(text)
        if ids is None and image.shape == text.shape and self.runs_plain(image, text, "symmetric"):
            return equations.clip(image, text, as_scale(scale), self.label_smoothing)
        return clip(
            image,
            text,
            scale,
            mask=None if ids is None else id_mask(ids),
            label_smoothing=self.label_smoothing,
            **self.kernel,
        )


class SigLipLoss(PairLoss):
    """Sigmoid loss on all image-text pairs, over all ranks.

    See `functional.siglip` for the equation. Equal to open_clip's `SigLipLoss`.

    Source: Zhai et al. 2023, equation 1, arXiv 2303.15343.

    Args:
        gather: see `PairLoss`, also for `normalize`, `backend`, `memory_budget` and `precision`.

    Distributed: gathers negatives (local if `gather=False`).

    >>> import torch
    >>> pair = torch.eye(1)
    >>> SigLipLoss()(pair, pair, scale=2.0, bias=-2.0).loss.round(decimals=4)  # log 2
    tensor(0.6931)
    """

    def forward(
        self, image: Tensor, text: Tensor, scale: Tensor | float, bias: Tensor | float = -10.0
    ) -> LossOutput:
        """Loss of a batch of pairs.

        Args:
            image: (B, D) raw embeddings.
            text: (B, D), row i belongs to image i.
            scale: multiplier of the cosines; the paper starts at 10.
            bias: added to every logit; the paper starts at -10.
        """
        image, text = self.prepare(image), self.prepare(text)
        if image.shape == text.shape and self.runs_plain(image, text, "softplus"):
            return equations.siglip(image, text, as_scale(scale), bias)
        return siglip(image, text, scale, bias, **self.kernel)
