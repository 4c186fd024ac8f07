"""The losses of fine-tuning; those of pre-training are in `projects.vega.phases`.

The report's equations could not be read; these are the forms of its building blocks, numbered as in
the card. # R rows, C classes
"""

from torch import Tensor
from torch.nn import functional as F

from projects.vega.adversarial import symmetric_cross_entropy


def task_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of classes or soft targets, squared error of scores; mean over the rows.

    Source: Devlin et al. 2019, section 4.1, arXiv 1810.04805.

    Args:
        logits: (R, C) float32; (R, 1) of scores.
        targets: (R,) int64 classes, (R, C) distributions, or (R,) float scores.

    Returns:
        Scalar.

    Raises:
        ValueError: shapes that do not fit.

    Distributed: local.
    """
    if targets.ndim == 1 and targets.is_floating_point():
        if logits.shape != (len(targets), 1):
            raise ValueError(f"scores {tuple(targets.shape)} and logits {tuple(logits.shape)}")
        return F.mse_loss(logits[:, 0], targets)
    if targets.ndim == 2 and targets.shape != logits.shape:
        raise ValueError(f"targets {tuple(targets.shape)} and logits {tuple(logits.shape)}")
    return F.cross_entropy(logits, targets)  # Eq. 6


def row_changes(logits: Tensor, clean: Tensor) -> Tensor:
    """l(f(x + delta), f(x)) per row: symmetric cross-entropy, or squared error of scores.

    Source: He et al. 2021, section 4, arXiv 2006.03654.

    Args:
        logits: (R, C) of changed embeddings.
        clean: (R, C).

    Returns:
        (R,); the ascent raises their sum, the training loss has their mean.
    """
    if logits.shape[1] == 1:
        return (logits - clean).square()[:, 0]
    return symmetric_cross_entropy(logits, clean)  # Eq. 7
