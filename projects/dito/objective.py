"""The equations of DITO: pooled regions against captions, and fused scores.

Those of fine-tuning are in `fine_tuning`.

Source: Kim, Angelova & Kuo 2023, arXiv 2310.00161, and the released detector (google-research,
fvlm).

# B images, R regions, C classes (0 is the background), D dim
"""

from typing import Literal

import torch
from torch import Tensor

from common.losses.output import full_precision, unit
from common.losses.weighted.focal import focal_contrastive, paired_focal

__all__ = [
    "class_logits",
    "class_probabilities",
    "detection_scores",
    "focal_contrastive",
    "fuse_scores",
    "paired_focal",
    "pool_regions",
]


def pool_regions(regions: Tensor, kind: Literal["max", "mean"] = "max") -> Tensor:
    """One unit vector of an image from its regions.

    Args:
        regions: (B, R, D), any length; each is normalised first.
        kind: maximum (or mean) over the regions, for every coordinate.

    Returns:
        (B, D), unit rows.

    Source: arXiv 2310.00161 (detection-oriented pretraining); the pooling is recommended,
    unconfirmed.

    >>> pool_regions(torch.tensor([[[3.0, 0.0], [0.0, 2.0]]])).tolist()[0]
    [0.7071067690849304, 0.7071067690849304]
    """
    rows = unit(regions)
    pooled = rows.amax(1) if kind == "max" else rows.mean(1)  # v_i = pool_k r_ik
    return unit(pooled)


# -- classes ---------------------------------------------------------------------------------------


@full_precision
def class_logits(vectors: Tensor, classes: Tensor, temperature: float | Tensor) -> Tensor:
    """Cosines divided by a temperature, also under autocast: (R, D), (C, D) -> (R, C)."""
    return unit(vectors) @ unit(classes).T / temperature


def class_probabilities(vectors: Tensor, classes: Tensor, temperature: float | Tensor) -> Tensor:
    """Softmax over classes of cosines divided by a temperature: (R, D), (C, D) -> (R, C)."""
    return class_logits(vectors, classes, temperature).softmax(-1)


def fuse_scores(
    detector: Tensor, vlm: Tensor, base: Tensor | None, alpha: float = 0.35, beta: float = 0.65
) -> Tensor:
    """Weighted geometric mean of two distributions, p = p_det^(1-w) p_vlm^w, renormalised.

    w is alpha for base classes and beta for novel ones, beta for all if the split is unknown. The
    background keeps the detector's probability before renormalisation.

    Args:
        detector: (R, C) probabilities, column 0 the background.
        vlm: (R, C) of the frozen model.
        base: (C,) bool or 0/1, which classes were trained with boxes; None: not known.
        alpha: weight of the VLM for base classes.
        beta: for the others.

    Returns:
        (R, C), rows sum to 1.

    Source: Kuo et al. 2023, "F-VLM", equation 4, arXiv 2209.15639; released code of DITO.
    """
    weight = torch.full_like(detector[0], beta)
    if base is not None:
        weight = torch.where(base.to(detector.device).bool(), alpha, weight)
    fused = detector ** (1 - weight) * vlm**weight
    fused = torch.cat([detector[:, :1], fused[:, 1:]], 1)
    return fused / fused.sum(1, keepdim=True)


def detection_scores(fused: Tensor, objectness: Tensor, exponent: float = 3.0) -> Tensor:
    """Probabilities (R, C) times the proposals' scores (R,) to a power."""
    return fused * objectness[:, None] ** exponent
