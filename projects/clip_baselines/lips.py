"""Losses without negatives between modalities: BarLIP, SiamLIP, BYOLIP and SwALIP.

Source: Fini et al. 2023, "Improved baselines for vision-language pre-training", arXiv 2305.08675,
and its official code.

# N pairs of this rank, D dim of the codes, C prototypes, K augmented views
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from common.distributed.collectives import all_gather_no_grad
from common.distributed.differentiable import all_gather_with_grad
from common.distributed.process import default_group
from common.losses.functional.non_contrastive import (
    barlow_twins,
    negative_cosine,
    sinkhorn,
    swapped_prediction,
)
from common.losses.output import full_precision, unit

Scale = Tensor | float


def _mean_of_pairs(terms: list[Tensor]) -> Tensor:
    return torch.stack(terms).mean()


@full_precision
def _cosines(queries: Tensor, keys: Tensor) -> Tensor:
    """Of unit rows; Sinkhorn divides them by a small epsilon, so half precision would show."""
    return queries @ keys.T


def barlip(
    v_image: Sequence[Tensor],
    v_text: Sequence[Tensor],
    *,
    off_diagonal: float = 5e-3,
    weight: float = 0.025,
) -> Tensor:
    """Barlow Twins between the modalities: mean over the clean pair and K x K pairs of views.

    Args:
        v_image: 1 + K times (N, D) batch-normalised codes, the clean one first.
        v_text: likewise of the texts.
        off_diagonal: lambda.
        weight: factor of the whole.

    Distributed: reduces statistics; equal on all ranks.
    """
    group = default_group()
    pairs = [(v_image[0], v_text[0]), *((a, b) for a in v_image[1:] for b in v_text[1:])]
    return weight * _mean_of_pairs(
        [barlow_twins(a, b, off_diagonal=off_diagonal, group=group) for a, b in pairs]
    )


def siamlip(
    p_image: Sequence[Tensor],
    p_text: Sequence[Tensor],
    v_image: Sequence[Tensor],
    v_text: Sequence[Tensor],
) -> Tensor:
    """Predictions of one modality drawn to the codes of the other: 2 + 2 K^2 terms, their mean.

    Clean and augmented views are never mixed. BYOLIP is the same with codes of the momentum model.

    Args:
        p_image: 1 + K times (N, D) predictor outputs, the clean one first.
        p_text: likewise.
        v_image: 1 + K times (N, D) projector outputs; they get no gradient.
        v_text: likewise.

    Distributed: local.
    """
    both = [(p_image[0], v_text[0]), (p_text[0], v_image[0])]
    for a in range(1, len(p_image)):
        for b in range(1, len(p_text)):
            both += [(p_image[a], v_text[b]), (p_text[a], v_image[b])]
    group = default_group()
    return _mean_of_pairs([negative_cosine(p, v, group=group) for p, v in both])


def swalip(
    h_image: Sequence[Tensor],
    h_text: Sequence[Tensor],
    h_scale: Scale,
    *,
    epsilon: float = 0.05,
    iterations: int = 3,
    gather_grad: bool = False,
) -> Tensor:
    """Swapped prediction whose prototypes are the other modality's embeddings of the batch.

        l_ab = h_image_a h_text_b^T,   q_ab = Sinkhorn(l_ab / epsilon)
        L = 1/4 sum_ab 1/2 [H(q_a'b', softmax(s_h l_ab)) + the same of the texts],   a' = 1 - a

    Args:
        h_image: two times (N, E) of the augmented images.
        h_text: likewise of the texts.
        h_scale: multiplier in the prediction.
        epsilon: temperature of the assignment.
        iterations: of Sinkhorn.
        gather_grad: see `cl2l`.

    Raises:
        ValueError: not two views.

    Distributed: gathers negatives; the assignment is that of all ranks.
    """
    if len(h_image) != 2 or len(h_text) != 2:
        raise ValueError(f"SwALIP swaps two views, got {len(h_image)} and {len(h_text)}")
    group = default_group()
    gather = all_gather_with_grad if gather_grad or group is None else all_gather_no_grad
    images, texts = [unit(h) for h in h_image], [unit(h) for h in h_text]
    all_images, all_texts = (
        [x if group is None else gather(x) for x in side] for side in (images, texts)
    )
    terms = []
    for queries, keys in ((images, all_texts), (texts, all_images)):
        scores = [[_cosines(query, key) for key in keys] for query in queries]
        target = [
            [sinkhorn(s, epsilon=epsilon, iterations=iterations, group=group) for s in row]
            for row in scores
        ]
        terms += [
            swapped_prediction(target[1 - a][1 - b], scores[a][b], h_scale, group=group)
            for a in range(2)
            for b in range(2)
        ]
    return _mean_of_pairs(terms)


def swalip_v1(
    p_image: Tensor,
    p_text: Tensor,
    scale: Scale = 10.0,
    *,
    epsilon: float = 0.05,
    iterations: int = 3,
) -> Tensor:
    """Swapped prediction over learned prototypes that both modalities share (no views).

        L = 1/2 [H(q_text, softmax(scale p_image)) + H(q_image, softmax(scale p_text))]

    Args:
        p_image: (N, C) similarities of the images and the prototypes.
        p_text: (N, C).
        scale: 1 / temperature.
        epsilon: temperature of the assignment.
        iterations: of Sinkhorn.

    Distributed: reduces statistics.
    """
    group = default_group()
    q_image, q_text = (
        sinkhorn(p, epsilon=epsilon, iterations=iterations, group=group) for p in (p_image, p_text)
    )
    first = swapped_prediction(q_text, p_image, scale, group=group)
    return 0.5 * (first + swapped_prediction(q_image, p_text, scale, group=group))
