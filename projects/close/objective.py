"""The equations of CLOSE; adapters, noise and prefix are in `common.encoders.image_text`.

# B inputs, R targets, T tokens, V vocabulary, D dim, C texts
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from common.distributed.differentiable import rank_mean_of_sums
from common.engine.optim import lr_at
from common.evaluation.generation.vqa import vqa_preprocess, vqa_score, vqa_training_targets
from projects.close.modality_gap import add_noise
from projects.close.vector_to_text import IGNORED, concat_masked_sequences

__all__ = [
    "add_noise",
    "concat_masked_sequences",
    "learning_rate",
    "segment_mean",
    "target_loss",
    "unit_input",
    "vqa_preprocess",
    "vqa_score",
    "vqa_training_targets",
]


def segment_mean(values: Tensor, segments: Tensor, num_segments: int | None = None) -> Tensor:
    """Means of rows that belong together.

    Args:
        values: (C, D).
        segments: (C,) int64, in [0, num_segments).
        num_segments: B; None: the largest segment and one.

    Returns:
        (B, D); 0 for a segment without rows.

    >>> segment_mean(torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([0, 0, 1])).tolist()
    [[2.0], [5.0]]
    """
    count = int(segments.max()) + 1 if num_segments is None else num_segments
    total = values.new_zeros(count, values.shape[1]).index_add_(0, segments, values)
    size = values.new_zeros(count).index_add_(0, segments, values.new_ones(len(values)))
    return total / size.clamp(min=1)[:, None]


def unit_input(features: Tensor, segments: Tensor, num_inputs: int) -> Tensor:
    """One unit vector an input: texts of one image are averaged before they are normalised.

        t = f / |f|,  f = mean of the features of an input's texts

    Source: Gu, Clark & Kembhavi 2023, section 3.1, arXiv 2211.09778.

    Args:
        features: (C, D) as the dual encoder gives them, not normalised.
        segments: (C,) input that each belongs to.
        num_inputs: B.

    Returns:
        (B, D), unit rows.
    """
    return F.normalize(segment_mean(features.float(), segments, num_inputs), dim=-1)


def target_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of the targets, a mean over all their tokens in the batch.

        L = -1/n sum_{r, t} log p(y_rt | y_r<t, x_r),  n tokens that are no padding

    Source: Gu, Clark & Kembhavi 2023, section 3.1, arXiv 2211.09778.

    Args:
        logits: (R, T, V).
        labels: (R, T), -100 at padding.

    Returns:
        Scalar float32.

    Distributed: reduces statistics (the number of tokens).

    >>> loss = target_loss(torch.zeros(1, 2, 4), torch.tensor([[1, -100]]))
    >>> f"{float(loss):.4f}"  # log 4
    '1.3863'
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32)).flatten(0, 1)
    total = F.cross_entropy(wide, labels.flatten(), ignore_index=IGNORED, reduction="sum")
    return rank_mean_of_sums(total, labels.ne(IGNORED).sum().to(wide.dtype))


def learning_rate(step: int, lr: float, total: int, warmup: int | float | None = None) -> float:
    """Learning rate after `step` calls of the scheduler: linear warm-up from 0, then linear to 0.

    Source: the released code; the paper describes a linear decay.

    Args:
        step: calls, from 0.
        lr: peak.
        total: calls after which it is 0. The release counts samples here and calls it once a batch.
        warmup: calls of the warm-up; a float below 1 is their share of `total`; None: none.

    >>> learning_rate(5, 1.0, 100, 10), learning_rate(55, 1.0, 100, 0.1)
    (0.5, 0.5)
    """
    steps = round(total * warmup) if isinstance(warmup, float) else warmup or 0
    return lr_at(step, lr=lr, total_steps=total, warmup_steps=steps, schedule="warmup_linear")
