"""The equations of MCLRec, in the form of the released code.

# B sequences of this rank, N of all ranks, D dim
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.distributed.differentiable import rank_mean_of_sums
from common.distributed.process import default_group
from common.losses.two_view import NTXentLoss
from projects.mclrec.config import MethodConfig
from projects.mclrec.regulariser import regulariser


def recommendation_loss(scores: Tensor, targets: Tensor) -> Tensor:
    """L_rec: cross entropy of the next item over all items, padding included.

        L_rec = -y_g + log sum_i exp(y_i)

    Source: Qin et al. 2023, loss of the recommendation task, arXiv 2304.07763.

    Args:
        scores: (n, I + 1).
        targets: (n,) int64 in [1, I].

    Returns:
        Mean over the targets of all ranks, this rank's share.

    Distributed: gathers nothing but the number of targets.
    """
    total = F.cross_entropy(scores, targets, reduction="sum")  # L_rec
    return rank_mean_of_sums(total, total.new_tensor(len(targets)), default_group())


class Objective(nn.Module):
    """The contrasts of one batch, and the losses of encoder and augmenters made of them.

    Source: Qin et al. 2023, equation 8 and the losses after it, arXiv 2304.07763.

    Args:
        method: weights and variants.

    Distributed: gathers negatives.

    Deviation: the mean of both directions (release), half of the sum that equation 8 writes; the
    regulariser has its weight within the beta term (release).
    """

    def __init__(self, method: MethodConfig) -> None:
        super().__init__()
        self.method = method
        cosine, kernel = method.similarity == "cosine", method.loss_backend
        self.first = NTXentLoss(normalize=cosine, gather=method.gather, backend=kernel)
        self.contrast = NTXentLoss(normalize=False, gather=method.gather, backend=kernel)

    def cl1(self, h_1: Tensor, h_2: Tensor) -> Tensor:
        """L_cl1 of the encoded views (B, D)."""
        loss: Tensor = self.first(h_1, h_2, 1 / self.method.temperature).loss  # Eq. 8
        return loss

    def cl2(self, h_1: Tensor, h_2: Tensor, z_1: Tensor, z_2: Tensor) -> Tensor:
        """L_cl2: three pairs, each with an augmenter's output."""
        pairs = ((z_1, z_2), (h_1, z_2), (h_2, z_1))
        return torch.stack([self.contrast(*pair, 1.0).loss for pair in pairs]).sum()  # L_cl2

    def regularise(self, h_1: Tensor, h_2: Tensor, z_1: Tensor, z_2: Tensor) -> Tensor:
        """R summed over its pairs."""
        pairs = [(z_1, z_2), (h_1, z_2), (h_2, z_1)][: self.method.reg_pairs]
        rowwise, gather = self.method.regulariser == "rowwise", self.method.gather
        return torch.stack([regulariser(*p, rowwise=rowwise, gather=gather) for p in pairs]).sum()

    def meta(self, h_1: Tensor, h_2: Tensor, z_1: Tensor, z_2: Tensor) -> dict[str, Tensor]:
        """L_cl2, R, and "meta", the sum of both that beta weighs."""
        method, zero = self.method, z_1.new_zeros(())
        cl2 = self.cl2(h_1, h_2, z_1, z_2) if method.cl2 else zero
        reg = self.regularise(h_1, h_2, z_1, z_2) if method.reg_weight else zero
        return {"cl2": cl2, "regulariser": reg, "meta": cl2 + method.reg_weight * reg}

    def encoder_loss(
        self, rec: Tensor, h: tuple[Tensor, Tensor] | None, z: tuple[Tensor, Tensor] | None
    ) -> dict[str, Tensor]:
        """L_0 = L_rec + lambda L_cl1 + beta (L_cl2 + 0.1 R), with its terms.

        Args:
            rec: L_rec.
            h: encoded views, None without contrast.
            z: what the augmenters made of them, None without augmenters.
        """
        terms = {"loss": rec, "rec": rec}
        if h is not None and self.method.cl1_weight:
            terms["cl1"] = self.cl1(*h)
            terms["loss"] = terms["loss"] + self.method.cl1_weight * terms["cl1"]
        if h is not None and z is not None:
            meta_terms = self.meta(*h, *z)
            terms["loss"] = terms["loss"] + self.method.cl2_weight * meta_terms.pop("meta")  # L_0
            terms |= meta_terms
        return terms

    def augmenter_loss(
        self, h: tuple[Tensor, Tensor], z: tuple[Tensor, Tensor]
    ) -> dict[str, Tensor]:
        """L_1 = lambda L_cl1 + L_cl2 + 0.1 R without beta.

        L_cl1, a constant of phi, is left out.
        """
        return {"loss": self.meta(*h, *z)["meta"]}
