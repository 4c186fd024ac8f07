"""Spans in time: the best start and end, intersection over union, joint accuracy."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

JOINT_IOU = 0.5  # of a span that counts as found


def best_span(start: Tensor, end: Tensor, mask: Tensor) -> Tensor:
    """The most probable pair of a first and a last sentence, the first not after the last.

    Args:
        start: (B, N) logits.
        end: (B, N) logits.
        mask: (B, N) bool, False at padding.

    Returns:
        (B, 2) int64.

    >>> first, last = torch.tensor([[0., 2.]]), torch.tensor([[1., 0.]])
    >>> best_span(first, last, torch.ones(1, 2).bool()).tolist()
    [[1, 1]]
    """
    lowest = torch.finfo(torch.float32).min / 4
    first, last = (x.float().masked_fill(~mask, lowest).log_softmax(-1) for x in (start, end))
    pairs = first[:, :, None] + last[:, None]
    ordered = torch.ones_like(pairs[0], dtype=torch.bool).triu()
    best = pairs.masked_fill(~ordered, float("-inf")).flatten(1).argmax(1)
    n = start.shape[1]
    return torch.stack([best // n, best % n], 1)


def temporal_iou(predicted: Sequence[float], annotated: Sequence[float]) -> float:
    """Overlap over the time from the earlier start to the later end (official program).

    For spans that don't touch this is smaller than the true union would give; the overlap is 0 then
    anyhow.

    Source: jayleicn/TVQAplus, eval/eval_tvqa_plus.py (MIT), `compute_temporal_iou`.

    Args:
        predicted: start and end in seconds.
        annotated: start and end in seconds.

    >>> temporal_iou((0, 4), (2, 6)), temporal_iou((1, 1), (1, 1))
    (0.3333333333333333, 0.0)
    """
    overlap = max(0.0, min(predicted[1], annotated[1]) - max(predicted[0], annotated[0]))
    union = max(predicted[1], annotated[1]) - min(predicted[0], annotated[0])
    return float(overlap / union) if union else 0.0


def span_metrics(ious: Sequence[float], correct: Sequence[float]) -> dict[str, float]:
    """Mean IoU, recall at 0.1 ... 0.9, and ASA: answer right and IoU at least 0.5.

    Source: jayleicn/TVQAplus, eval/eval_tvqa_plus.py (MIT), `compute_temporal_metrics`.

    Args:
        ious: of each question with an annotated span.
        correct: 1.0 where its answer is right.

    >>> span_metrics([0.5, 1.0], [1.0, 0.0])["asa"]
    0.5
    """
    count = len(ious)
    metrics = {"miou": sum(ious) / count}
    # bounds with the rounding of the official program: the third is 0.30000000000000004
    metrics |= {
        f"span_recall_{t:.1f}": sum(x >= t for x in ious) / count for t in np.arange(0.1, 1, 0.1)
    }
    joint = [c * (x >= JOINT_IOU) for x, c in zip(ious, correct, strict=True)]
    return {**metrics, "asa": sum(joint) / count}
