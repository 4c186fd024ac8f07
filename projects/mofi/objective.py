"""The three recipes: a margin classifier over sampled entities, image-text contrast, both.

Source: Wu et al. 2024, "MOFI: Learning Image Representations from Noisy Entity Annotated Images",
section 3.2, arXiv 2306.07952; margin, scale and lambda are recommended values.

# B images of this rank, E entities an image at most, S sampled classes of this rank, D dim
"""

from typing import Any, Literal

import torch
from torch import Tensor

from common.distributed.process import default_group
from common.kernels.specs.weights import Exclude, Spec
from common.losses.auxiliary.prototypes import Margin, sampled_prototype_softmax
from common.losses.functional.info_nce import clip
from common.losses.functional.kernel import KernelOptions
from common.losses.functional.multi_positive import sup_con
from common.losses.output import unit

SameEntity = Literal["masked", "negative", "positive"]
NO_ENTITY = -1


def classification_loss(
    image: Tensor,
    classes: Tensor,
    class_ids: Tensor,
    labels: Tensor,
    *,
    scale: float = 32.0,
    margin: float = 0.15,
    margin_on: Margin = "cosine",
    entities: Tensor | None = None,
    log_counts: Tensor | None = None,
) -> Tensor:
    """Cross entropy over sampled classes with a margin on the true one.

        L_cls = -log e^{s (f.w_y - m)}
                / (e^{s (f.w_y - m)} + sum_{c in S, c not in E(x)} e^{s f.w_c})

    Source: Wu et al. 2024, section 3.2; the margin as in CosFace.

    Args:
        image: (B, D) raw embeddings.
        classes: (S, D) raw vectors of this rank's sampled classes; no bias.
        class_ids: (S,) int64 ascending.
        labels: (B,) int64, the drawn entity y of each image.
        scale: s > 0.
        margin: m >= 0; 0 is NormFace.
        margin_on: "cosine", or "angle" for ArcFace.
        entities: (B, E) int64, all entities of each image, -1 for none.
        log_counts: (S,), for a log-Q correction.

    Returns:
        Mean over the images of all ranks.

    Raises:
        ValueError: see `sampled_prototype_softmax`.

    Distributed: global on every rank.
    """
    f_BD, w_SD = unit(image), unit(classes)
    kernel: KernelOptions = {"group": default_group(), "unit_norm": True}
    out = sampled_prototype_softmax(
        f_BD,
        w_SD,
        class_ids,
        labels,
        scale,
        margin=margin,
        margin_on=margin_on,
        others=entities,
        log_counts=log_counts,
        **kernel,
    )
    return out.loss


def shared_entity_mask(entities: Tensor) -> Spec:
    """Pairs (image i, text j) whose images have an entity in common do not count; (i, i) does."""
    absent = entities == NO_ENTITY
    query = torch.where(absent, -2, entities)  # no entity on one side equals none on the other
    columns = [(q, k) for q in query.unbind(1) for k in entities.unbind(1)]
    mask: Spec = Exclude(*columns[0])
    for q, k in columns[1:]:
        mask = mask & Exclude(q, k)
    return mask


def contrastive_loss(
    image: Tensor,
    text: Tensor,
    scale: Tensor | float,
    labels: Tensor,
    entities: Tensor,
    same_entity: SameEntity = "masked",
) -> Tensor:
    """Symmetric InfoNCE of images and the texts of their drawn entities.

    Source: Wu et al. 2024, section 3.2; Radford et al. 2021, figure 3; positives by entity: Khosla
    et al. 2020, equation 2.

    Args:
        image: (B, D) raw embeddings.
        text: (B, D), row i is of image i.
        scale: multiplier of the cosines.
        labels: (B,) int64 drawn entities.
        entities: (B, E) int64, -1 for none.
        same_entity: whether pairs of different images with a common entity are left out, are
            negatives (plain CLIP), or, with equal drawn entities, are positives.

    Returns:
        Mean over the images of all ranks, as DDP averages it.

    Distributed: gathers negatives.
    """
    kernel: KernelOptions = {"group": default_group(), "unit_norm": True}
    u, v = unit(image), unit(text)
    if same_entity == "positive":
        to_text = sup_con(u, v, labels, labels, scale, **kernel).loss
        return 0.5 * (to_text + sup_con(v, u, labels, labels, scale, **kernel).loss)
    mask = shared_entity_mask(entities) if same_entity == "masked" else None
    return clip(u, v, scale, mask=mask, **kernel).loss


def multi_task(terms: dict[str, Any], cls_weight: float) -> Tensor:
    """L = lambda L_cls + (1 - lambda) L_con; a term of weight 0 may be absent.

    Source: Wu et al. 2024, section 3.2.
    """
    weights = {"cls": cls_weight, "con": 1 - cls_weight}
    parts = [weight * terms[name] for name, weight in weights.items() if weight > 0]
    return torch.stack(parts).sum()
