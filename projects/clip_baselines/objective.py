"""CL2L, the objective of the improved CLIP; what the four *LIPs add to it is in `lips`.

Source: Fini et al. 2023, "Improved baselines for vision-language pre-training", arXiv 2305.08675,
and its official code.

# N pairs of this rank, M of all ranks, E joint dim, K augmented views
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from common.distributed.process import default_group, world_size
from common.losses.functional.info_nce import clip, info_nce
from common.losses.functional.kernel import KernelOptions
from common.losses.output import unit

Reduction = Literal["avg", "sum"]
Scale = Tensor | float


def pair_loss(
    image: Tensor, text: Tensor, scale: Scale, label_smoothing: float, gather_grad: bool
) -> Tensor:
    """1/2 [CE(s U V^T) + CE(s V U^T)] of unit rows; 1 - alpha on the partner, alpha / M on all.

    With several ranks and without `gather_grad` the keys are detached, the own ones included.
    """
    kernel: KernelOptions = {"group": default_group(), "unit_norm": True}
    if gather_grad or world_size() == 1:
        return clip(image, text, scale, label_smoothing=label_smoothing, **kernel).loss
    options = {"label_smoothing": label_smoothing, **kernel}
    to_text = info_nce(image, text.detach(), scale, **options).loss  # type: ignore[arg-type]
    to_image = info_nce(text, image.detach(), scale, **options).loss  # type: ignore[arg-type]
    return 0.5 * (to_text + to_image)


def cl2l(
    z_image: Tensor,
    z_text: Tensor,
    h_image: Sequence[Tensor],
    h_text: Sequence[Tensor],
    scale: Scale,
    h_scale: Scale,
    *,
    label_smoothing: float = 0.0,
    reduction: Reduction = "avg",
    gather_grad: bool = False,
) -> dict[str, Tensor]:
    """CLIP on the clean pair, and on all K x K pairs of an augmented image and an augmented text.

        L_g = clip_0(z_image, z_text; s),   L_l = 1/K^2 sum_ab clip_alpha(h_image_a, h_text_b; s_h)
        L = (L_g + K L_l) / (1 + K)

    and twice that for reduction "sum". Label smoothing acts on the views only; with K = 0 the loss
    is that of plain CLIP.

    Args:
        z_image: (N, E) of the clean images; rows are normalised here, like all others.
        z_text: (N, E) of the clean texts.
        h_image: K times (N, E) of the augmented images.
        h_text: K times (N, E) of the augmented texts.
        scale: multiplier of the clean pair's cosines.
        h_scale: multiplier of the views' cosines.
        label_smoothing: alpha in [0, 1).
        reduction: "avg" or "sum".
        gather_grad: whether keys of several ranks carry a gradient; the official ones don't.

    Returns:
        ``loss``, and ``clip`` (before the factor 2), ``clip_global``, ``clip_local``.

    Raises:
        ValueError: different numbers of views.

    Distributed: gathers negatives.
    """
    if len(h_image) != len(h_text):
        raise ValueError(f"{len(h_image)} views of the images, {len(h_text)} of the texts")
    count = len(h_image)
    first = pair_loss(unit(z_image), unit(z_text), scale, 0.0, gather_grad)
    images, texts = [unit(h) for h in h_image], [unit(h) for h in h_text]
    options = (h_scale, label_smoothing, gather_grad)
    pairs = [pair_loss(image, text, *options) for image in images for text in texts]
    views = torch.stack(pairs).mean() if pairs else first.new_zeros(())
    total = (first + count * views) / (1 + count)  # the paper's objective of CLIP
    loss = 2 * total if reduction == "sum" else total
    return {"loss": loss, "clip": total, "clip_global": first, "clip_local": views}
