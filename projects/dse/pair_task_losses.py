"""Loss of sentence-pair tasks: classes, two classes, or a score."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor


def pair_task_loss(
    logits: Tensor, labels: Tensor, kind: Literal["multiclass", "binary", "regression"]
) -> Tensor:
    """Cross-entropy, binary cross-entropy of one logit, or squared error of raw scores; mean.

    Source: Barkan et al. 2020, released code (dse_configurable_trainer), arXiv 1908.05161.

    Args:
        logits: (B, C) of classes; (B, 1) else.
        labels: (B,) int64 of classes; (B, 1) float in [0, 1], or scores of any range.
        kind: of the task.

    Returns:
        Scalar, mean over the batch.

    Raises:
        ValueError: labels of another shape, which would be broadcast.

    Distributed: local.

    >>> import torch
    >>> pair_task_loss(torch.tensor([[2.0]]), torch.tensor([[5.0]]), "regression")
    tensor(9.)
    """
    expected = logits.shape[:1] if kind == "multiclass" else logits.shape
    if labels.shape != expected or (kind != "multiclass" and logits.shape[1] != 1):
        raise ValueError(
            f"{kind}: labels {tuple(labels.shape)} do not fit logits {tuple(logits.shape)}"
        )
    if kind == "multiclass":
        return F.cross_entropy(logits, labels)
    if kind == "binary":
        return F.binary_cross_entropy_with_logits(logits, labels)
    return F.mse_loss(logits, labels)
