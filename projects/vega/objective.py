"""The losses: replaced tokens, their sum with a contrast of sentences, and fine-tuning with SiFT.

The report's equations could not be read; these are the forms of its building blocks, numbered as in the
card. # N texts, L tokens, M masked places, R rows, C classes, D dim
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.distributed.differentiable import rank_mean_of_sums
from common.losses.auxiliary.adversarial import symmetric_cross_entropy
from common.losses.auxiliary.replaced_tokens import replaced_token_loss
from common.losses.info_nce import InfoNCELoss


class PretrainObjective(nn.Module):
    """L_1 = L_MLM + lambda L_RTD; L_2 = L_1 + gamma L_CL.

    Source: Zhong et al. 2023, abstract, arXiv 2302.09268; Clark et al. 2020, section 2, arXiv
    2003.10555; Gao et al. 2021, equation 4, arXiv 2104.08821.

    Args:
        rtd_lambda: lambda, >= 0.
        cl_gamma: gamma, >= 0; 0 leaves the term out.
        cl_tau: tau, > 0.

    Distributed: reduces statistics (numbers of tokens); the contrast gathers negatives.
    """

    def __init__(
        self, rtd_lambda: float = 50.0, cl_gamma: float = 0.1, cl_tau: float = 0.05
    ) -> None:
        super().__init__()
        self.rtd_lambda, self.cl_gamma, self.cl_tau = rtd_lambda, cl_gamma, cl_tau
        self.info_nce = InfoNCELoss()  # cosine, positive in the denominator, one direction

    def generator(self, logits: Tensor, original: Tensor) -> Tensor:
        """L_MLM: cross-entropy at the masked places, mean over those of all ranks.

        Args:
            logits: (M, V).
            original: (M,) tokens.
        """
        wide = torch.promote_types(logits.dtype, torch.float32)
        total = F.cross_entropy(logits.to(wide), original, reduction="sum")  # Eq. 1
        return rank_mean_of_sums(total, torch.tensor(len(original), device=logits.device))

    def detector(self, logits: Tensor, replaced: Tensor, counted: Tensor) -> Tensor:
        """L_RTD, see `replaced_token_loss`."""
        return replaced_token_loss(logits, replaced, counted)  # Eq. 2

    def contrast(self, first: Tensor, second: Tensor) -> Tensor:
        """L_CL of two dropout passes (N, D) over the same clean sentences."""
        loss: Tensor = self.info_nce(first, second, 1 / self.cl_tau).loss  # Eq. 4
        return loss

    def forward(self, terms: dict[str, Tensor]) -> Tensor:
        """The weighted sum of the terms "mlm", "rtd" and perhaps "contrast"."""
        loss = terms["mlm"] + self.rtd_lambda * terms["rtd"]  # Eq. 3
        if "contrast" in terms:
            loss = loss + self.cl_gamma * terms["contrast"]  # Eq. 5
        return loss


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


def change(logits: Tensor, clean: Tensor) -> Tensor:
    """l(f(x + delta), f(x)): symmetric cross-entropy of classes, squared error of scores; mean.

    Source: He et al. 2021, section 4, arXiv 2006.03654.

    Args:
        logits: (R, C) of changed embeddings.
        clean: (R, C).
    """
    if logits.shape[1] == 1:
        return F.mse_loss(logits, clean)
    return symmetric_cross_entropy(logits, clean).mean()  # Eq. 7
