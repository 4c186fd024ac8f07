"""Cross-entropy on originals, copies and mixtures, and the contrastive term on sentence vectors.

The paper's equations could not be read; the forms are those that its abstract names, as written in
the card. # B examples, R rows (B, or 2 B with copies), D dim, C classes
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.losses.multi_positive import SupConLoss
from common.losses.output import LossOutput, full_precision
from common.losses.two_view import NTXentLoss
from projects.peft_augmentation.config import ContrastConfig
from projects.peft_augmentation.soft_targets import soft_cross_entropy


@full_precision
def margin_contrast(vectors: Tensor, labels: Tensor, margin: float) -> Tensor:
    """mean_i [1 - cos(h_i, h'_i)] + mean over pairs of two classes of max(0, cos(h_i, h_j) - m).

    Source: Obadinma et al. 2023, abstract ("a simple contrastive loss"), arXiv 2303.02577; the form
    is our reading, after Hadsell et al. 2006.

    Args:
        vectors: (2 B, D); row B + i is the copy of row i.
        labels: (2 B,) classes.
        margin: m in [-1, 1].

    Returns:
        Scalar; the second mean is 0 where all rows are of one class.
    """
    z = F.normalize(vectors, dim=1)
    original, copy = z.chunk(2)
    pull = (1 - (original * copy).sum(1)).mean()
    other = labels[:, None] != labels
    push = ((z @ z.T - margin).relu() * other).sum() / other.sum().clamp(min=1)
    return pull + push


class Objective(nn.Module):
    """L = L_CE + lambda_cl L_CL.

    Source: Obadinma et al. 2023, arXiv 2303.02577 (cross-entropy on original and augmented samples,
    and a contrastive loss); Khosla et al. 2020, equation 2, arXiv 2004.11362; Zhang et al. 2018,
    "mixup", section 2, arXiv 1710.09412.

    Args:
        contrast: weight, form and temperature.

    Distributed: sup_con and nt_xent gather negatives; the margin form is local.
    """

    def __init__(self, contrast: ContrastConfig) -> None:
        super().__init__()
        self.contrast = contrast
        self.sup_con, self.nt_xent = SupConLoss(), NTXentLoss()

    def forward(
        self,
        logits: Tensor,
        labels: Tensor,
        vectors: Tensor,
        mixed: tuple[Tensor, Tensor, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Loss and its terms.

        Args:
            logits: (R, C) of the rows as they were read.
            labels: (R,) classes.
            vectors: (R, D) raw sentence vectors of the same rows.
            mixed: (R, C) logits of mixtures, the share (R,) of the row itself in each, and the
                place (R,) of its partner.
        """
        losses = F.cross_entropy(logits, labels, reduction="none")
        if mixed is not None:
            mixture_logits, share, partner = mixed
            losses = torch.cat([losses, mixup_loss(mixture_logits, labels, share, partner)])
        loss = losses.mean()  # L_CE: originals and what was made of them count alike
        terms = {"cross_entropy": loss, "accuracy": logits.argmax(1).eq(labels).float().mean()}
        if self.contrast.weight:
            terms["contrast"] = self._contrast(vectors, labels)
            loss = loss + self.contrast.weight * terms["contrast"]  # L_CE + lambda_cl L_CL
        return {"loss": loss, **terms}

    def _contrast(self, vectors: Tensor, labels: Tensor) -> Tensor:
        contrast, scale = self.contrast, 1 / self.contrast.temperature
        if contrast.form == "margin":
            return margin_contrast(vectors, labels, contrast.margin)
        # anchors without another row of their class are left out of the mean of sup_con
        output: LossOutput = (
            self.sup_con(vectors, labels, scale)
            if contrast.form == "sup_con"
            else self.nt_xent(*vectors.chunk(2), scale)
        )
        return output.loss


def mixup_loss(logits: Tensor, labels: Tensor, share: Tensor, partner: Tensor) -> Tensor:
    """Cross-entropy of mixtures, lambda CE(., y_i) + (1 - lambda) CE(., y_j), per row.

    Source: Zhang et al. 2018, "mixup", section 2, arXiv 1710.09412.

    Args:
        logits: (R, C) of mixtures.
        labels: (R,) classes of the rows themselves.
        share: (R,) lambda, the same that mixed the features.
        partner: (R,) places of the other rows.

    Returns:
        (R,).
    """
    hard = F.one_hot(labels, logits.shape[1]).to(torch.promote_types(logits.dtype, torch.float32))
    lam = share.to(hard.dtype)[:, None]
    return soft_cross_entropy(logits.to(hard.dtype), lam * hard + (1 - lam) * hard[partner])
