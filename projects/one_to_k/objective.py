"""The contrast of images with their texts in several languages, and what it is compared with.

# B images, K texts each, image-major: texts i*K ... i*K + K - 1 belong to image i
"""

from torch import Tensor

from common.losses.image_text import ClipLoss
from common.losses.multi_positive import OneToKLoss
from common.losses.output import LossOutput
from common.losses.soft_itc import SoftItcLoss


def direction_weights(
    num_texts: int, need_divm: float = 0.0, t2i_scale: float | None = None
) -> tuple[float, float]:
    """Weights of the means over the K positives: image -> text, and text -> image.

        L = 1/divisor * (L_i2t + L_t2i) / 2,   divisor = K (need_divm 0), need_divm (> 0) or 1 (< 0)

    L_i2t sums over the K positives of an image, so its mean over them has the weight K / divisor.

    Source: Nie et al. 2024, section 3.3 and its released code, arXiv 2406.18254.

    Args:
        num_texts: K.
        need_divm: see above.
        t2i_scale: weight of the second direction in place of 1 / divisor.

    >>> direction_weights(4), direction_weights(4, -1), direction_weights(4, t2i_scale=1.0)
    ((1.0, 0.25), (4.0, 1.0), (1.0, 1.0))
    """
    divisor = num_texts if need_divm == 0 else max(need_divm, 0.0) or 1.0
    return num_texts / divisor, 1 / divisor if t2i_scale is None else t2i_scale


def one_to_k_loss(
    image: Tensor,
    text: Tensor,
    temperature: Tensor | float,
    num_texts: int,
    *,
    need_divm: float = 0.0,
    t2i_scale: float | None = None,
    backend: str = "auto",
) -> LossOutput:
    """1-to-K contrast over all ranks; the other K - 1 texts of an image stay in the denominator.

        L_i2t = -1/N sum_i sum_k log [exp(v_i t_ik / tau) / sum_jl exp(v_i t_jl / tau)]
        L_t2i = -1/(NK) sum_ik   log [exp(t_ik v_i / tau) / sum_j  exp(t_ik v_j / tau)]

    Source: Nie et al. 2024, section 3.3, arXiv 2406.18254.

    Args:
        image: (B, D) raw embeddings v.
        text: (B * K, D) raw embeddings t, image-major.
        temperature: tau > 0, divides the cosines.
        num_texts: K.
        need_divm: see `direction_weights`.
        t2i_scale: see `direction_weights`.
        backend: see `common.losses.base.PairLoss`.

    Distributed: gathers negatives.
    """
    i2t, t2i = direction_weights(num_texts, need_divm, t2i_scale)
    loss = OneToKLoss(num_texts, image_weight=i2t, text_weight=t2i, backend=backend)
    output: LossOutput = loss(image, text, 1 / temperature)  # Eq. of L_1toK, section 3.3
    return output


def random_language_loss(
    image: Tensor, text: Tensor, temperature: Tensor | float, backend: str = "auto"
) -> LossOutput:
    """InfoNCE of every image with one text, whose language was drawn: what 1-to-K replaces.

    Source: Zeng et al. 2022, "CCLM", section 3, arXiv 2206.00621.

    Distributed: gathers negatives.
    """
    output: LossOutput = ClipLoss(backend=backend)(image, text, 1 / temperature)
    return output


def pivot_loss(
    image: Tensor, text: Tensor, temperature: Tensor | float, backend: str = "auto"
) -> LossOutput:
    """InfoNCE of image and pivot, and of pivot and one other language: errors add up.

        L = InfoNCE(v_i, t_i0) + InfoNCE(t_i0, t_i1)

    Source: Nie et al. 2024, section 1 (pivoting through English), arXiv 2406.18254.

    Args:
        image: (B, D).
        text: (2 B, D), image-major, the pivot first.
        temperature: tau.
        backend: see `common.losses.base.PairLoss`.

    Distributed: gathers negatives.
    """
    pivot, other = text[0::2], text[1::2]
    loss = ClipLoss(backend=backend)
    seen, translated = loss(image, pivot, 1 / temperature), loss(pivot, other, 1 / temperature)
    return LossOutput(
        seen.loss + translated.loss, seen.per_sample + translated.per_sample, seen.hits
    )


def finetune_loss(
    image: Tensor, text: Tensor, temperature: Tensor | float, ids: Tensor, backend: str = "auto"
) -> LossOutput:
    """InfoNCE whose targets are shared by the captions of one image, over all ranks.

    Source: Nie et al. 2024, released fine-tuning code, arXiv 2406.18254.

    Args:
        image: (B, D).
        text: (B, D).
        temperature: tau.
        ids: (B,) int64, image of each pair.
        backend: see `common.losses.base.PairLoss`.

    Distributed: gathers negatives.
    """
    output: LossOutput = SoftItcLoss(backend=backend)(image, text, 1 / temperature, ids)
    return output
