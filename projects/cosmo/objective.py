"""The losses of COSMO; attention, resampler and pooling are in `projects.cosmo.visual_language`.

# B rows, L tokens, V vocabulary, D dim
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from common.distributed.differentiable import all_reduce_mean, rank_mean_of_sums
from common.losses.functional.info_nce import clip
from common.losses.functional.masks import id_mask
from common.losses.output import embeddings
from projects.cosmo.interleaved.labels import (
    IGNORED,
    caption_labels,
    clip_labels,
    document_labels,
    instruction_labels,
)

__all__ = [
    "LossGuard",
    "caption_labels",
    "clip_labels",
    "contrastive_loss",
    "document_labels",
    "instruction_labels",
    "lm_loss",
]


def lm_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Next-token cross-entropy, a mean over all labelled tokens of all ranks.

        L_LM = -1/n sum_{b, t} log p(y_b,t+1 | x_b,<=t)

    Source: Wang et al. 2024, "COSMO", arXiv 2401.00849.

    Args:
        logits: (B, L, V).
        labels: (B, L), -100 where nothing is predicted; entry t is the token at t, predicted from t
            - 1.

    Returns:
        Scalar, at least float32; 0 without any label.

    Distributed: reduces statistics (the number of tokens).

    >>> f"{float(lm_loss(torch.zeros(1, 3, 4), torch.tensor([[0, 1, -100]]))):.4f}"  # log 4
    '1.3863'
    """
    wide = logits[:, :-1].to(torch.promote_types(logits.dtype, torch.float32)).flatten(0, 1)
    target = labels[:, 1:].flatten()
    total = F.cross_entropy(wide, target, ignore_index=IGNORED, reduction="sum")
    return rank_mean_of_sums(total, target.ne(IGNORED).sum().to(wide.dtype))


def contrastive_loss(
    visual: Tensor,
    text: Tensor,
    log_scale: Tensor,
    *,
    group: dist.ProcessGroup | None = None,
    ids: Tensor | None = None,
) -> Tensor:
    """Symmetric InfoNCE of pictures and texts; cosines are multiplied by exp(theta).

        S = t v' exp(theta),  L_c = 1/2 (CE(S) + CE(S'))

    Source: Wang et al. 2024, "COSMO", released code, arXiv 2401.00849 (theta starts at 0.2 and is
    not clamped).

    Args:
        visual: (B, D), projected, of any length.
        text: (B, D), row i belongs to picture i.
        log_scale: theta, a 0-dim tensor.
        group: ranks whose rows are negatives; None: those of this rank.
        ids: (B,) int64; other rows of the same id are no negatives. None: all are.

    Returns:
        Scalar, mean over this rank's rows.

    Distributed: local without a group, else gathers negatives.

    >>> pair = torch.eye(2)
    >>> contrastive_loss(pair, pair, torch.tensor(3.0).log().log()).exp().round(decimals=4)
    tensor(1.3333)
    """
    visual, text = embeddings(visual, True), embeddings(text, True)
    mask = None if ids is None else id_mask(ids)
    return clip(visual, text, log_scale.exp(), mask=mask, group=group, unit_norm=True).loss


class LossGuard(nn.Module):
    """A loss that exceeds its moving average by more than a margin is scaled down to the average.

    Source: Wang et al. 2024, "COSMO", released code, arXiv 2401.00849, where the average of the
    contrastive loss scales both (a typing error); here each has its own.

    Args:
        decay: of the average.
        margin: above it.

    Distributed: reduces statistics (the mean loss of all ranks).

    >>> guard = LossGuard()
    >>> [round(float(guard(torch.tensor(v))), 2) for v in (1.0, 1.5, 3.0)]
    [1.0, 1.5, 1.05]
    """

    average: Tensor

    def __init__(self, decay: float = 0.9, margin: float = 0.7) -> None:
        super().__init__()
        self.decay, self.margin = decay, margin
        self.register_buffer("average", torch.tensor(float("nan")))

    def forward(self, loss: Tensor) -> Tensor:
        """The loss of this rank, perhaps smaller; the average follows what was met."""
        seen = all_reduce_mean(loss.detach()[None])[0]
        average = torch.where(self.average.isnan(), seen, self.average)
        factor = torch.where(seen > average + self.margin, average / seen, torch.ones_like(seen))
        self.average = self.decay * average + (1 - self.decay) * seen * factor
        return loss * factor
