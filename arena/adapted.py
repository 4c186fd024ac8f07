"""Losses of `common.losses` with the call of the arena: ``forward(z_1, z_2, scale)``.

Legend: B samples, D dimension of the embeddings.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.encoders.heads import MLPHead
from common.losses.align_uniform import AlignUniformLoss
from common.losses.auxiliary.vicreg import vicreg_terms
from common.losses.cacr import CACRLoss
from common.losses.functional.non_contrastive import barlow_twins, negative_cosine
from common.losses.image_text import SigLipLoss
from common.losses.margin import TripletLoss
from common.losses.multi_positive import OneToKLoss, SupConLoss
from common.losses.two_view import NTXentLoss


class AlignUniform(AlignUniformLoss):
    """Alignment and uniformity; the scale is not used."""

    def forward(self, z_1: Tensor, z_2: Tensor, scale: float) -> Any:  # type: ignore[override]
        """Loss of (B, D) raw embeddings."""
        return super().forward(z_1, z_2)


class CACR(CACRLoss):
    """Contrastive attraction and repulsion of two views; the scale is not used."""

    def forward(self, z_1: Tensor, z_2: Tensor, scale: float) -> Any:  # type: ignore[override]
        """Loss of (B, D) raw embeddings."""
        return super().forward(torch.stack([z_1, z_2]))


class SigLip(nn.Module):
    """Sigmoid loss with a learnt bias, which starts where the paper's does."""

    def __init__(self, bias: float = -10.0) -> None:
        super().__init__()
        self.loss, self.bias = SigLipLoss(), nn.Parameter(torch.tensor(bias))

    def forward(self, z_1: Tensor, z_2: Tensor, scale: float) -> Any:
        """Loss of (B, D) raw embeddings."""
        return self.loss(z_1, z_2, scale, self.bias)


class Triplet(nn.Module):
    """Triplets with the most similar other sample of the batch as negative; no scale.

    Source: Schroff et al. 2015, equation 3, arXiv 1503.03832; hardest negatives as Hermans et al.
    2017, equation 5, arXiv 1703.07737.
    """

    def __init__(self, margin: float = 0.2) -> None:
        super().__init__()
        self.loss = TripletLoss(margin, "cosine")

    def forward(self, z_1: Tensor, z_2: Tensor, scale: float) -> Any:
        """Loss of (B, D) raw embeddings."""
        with torch.no_grad():
            cosines = F.normalize(z_1, dim=1) @ F.normalize(z_2, dim=1).T
            hardest = cosines.fill_diagonal_(-torch.inf).argmax(1)
        return self.loss(z_1, z_2, z_2[hardest])


class VICReg(nn.Module):
    """Invariance, variance and covariance; no scale.

    Source: Bardes et al. 2022, equation 6, arXiv 2105.04906 (weights 25, 25, 1).
    """

    def __init__(self, invariance: float = 25.0, variance: float = 25.0) -> None:
        super().__init__()
        self.weights = {"invariance": invariance, "variance": variance, "covariance": 1.0}

    def forward(self, z_1: Tensor, z_2: Tensor, scale: float) -> Tensor:
        """Loss of (B, D) raw embeddings."""
        terms = vicreg_terms(z_1, z_2)
        return torch.stack([self.weights[name] * terms[name] for name in self.weights]).sum()


class BarlowTwins(nn.Module):
    """Cross-correlation of two views drawn to the identity; no scale."""

    def __init__(self, off_diagonal: float = 5e-3) -> None:
        super().__init__()
        self.off_diagonal = off_diagonal

    def forward(self, z_1: Tensor, z_2: Tensor, scale: float) -> Tensor:
        """Loss of (B, D) raw embeddings, of mean 0 and deviation 1 over the batch."""

        def standard(z: Tensor) -> Tensor:
            return (z - z.mean(0)) / (z.std(0) + 1e-6)

        return barlow_twins(standard(z_1), standard(z_2), off_diagonal=self.off_diagonal)


class SimSiam(nn.Module):
    """Two views predict each other; no negatives, no scale, no momentum copy as BYOL has.

    Source: Chen and He 2021, equation 2 and section 3 (predictor), arXiv 2011.10566.
    """

    def __init__(self, dim: int, hidden: float = 16) -> None:
        super().__init__()
        self.predictor = MLPHead(dim, (round(hidden),), dim)

    def forward(self, z_1: Tensor, z_2: Tensor, scale: float) -> Tensor:
        """Loss of (B, D) raw embeddings."""
        first, second = self.predictor(torch.cat([z_1, z_2])).chunk(2)
        return (negative_cosine(first, z_2) + negative_cosine(second, z_1)) / 2


class SupCon(SupConLoss):
    """Supervised contrastive loss of both views: a reference that knows the labels."""

    def forward(  # type: ignore[override]
        self, z_1: Tensor, z_2: Tensor, scale: float, labels: Tensor
    ) -> Any:
        """Loss of (B, D) raw embeddings with classes (B,)."""
        return super().forward(torch.cat([z_1, z_2]), labels.repeat(2), scale)


class OneToK(nn.Module):
    """An image against all texts of the batch, several of which are its own.

    Source: Nie et al. 2024, section 3.3, arXiv 2406.18254.
    """

    def forward(self, z_1: Tensor, z_2: Tensor, scale: float) -> Any:
        """Loss of images (B, D) and texts (K * B, D), those of an image one after the other."""
        count = len(z_2) // len(z_1)
        return OneToKLoss(count, image_weight=1.0, text_weight=1 / count)(z_1, z_2, scale)


class Mismatched(NTXentLoss):
    """NT-Xent whose positives belong to another sample: a control that has to lose."""

    def forward(self, z_1: Tensor, z_2: Tensor, scale: float) -> Any:  # type: ignore[override]
        """Loss of (B, D) raw embeddings."""
        return super().forward(z_1, z_2.roll(1, 0), scale)
