"""The equations of the paper, in its order.

What has a name in the literature is in `common.losses`; here is what the paper adds.
Legend: B samples, D dimension of the embeddings.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from common.losses.info_nce import InfoNCELoss
from projects.new_project.config import MethodConfig


class Objective(nn.Module):
    """Symmetric InfoNCE of pairs, and a pull between the two sides of a pair.

        L = 1/2 [InfoNCE(z_1, z_2) + InfoNCE(z_2, z_1)] + lambda mean_i |z_1i - z_2i|^2      Eq. 1

    Source: van den Oord et al. 2018, equation 4, arXiv 1807.03748 (first term); Wang and Isola
    2020, section 4.1.1, arXiv 2005.10242 (second term).

    Args:
        method: lambda.

    Distributed: gathers negatives.
    """

    def __init__(self, method: MethodConfig) -> None:
        super().__init__()
        self.pull_weight = method.pull_weight
        self.info_nce = InfoNCELoss(symmetric=True)

    def forward(self, first: Tensor, second: Tensor, scale: Tensor | float) -> dict[str, Tensor]:
        """Loss and its terms.

        Args:
            first: (B, D) raw embeddings.
            second: (B, D), row i belongs to row i of `first`.
            scale: multiplier of the cosines, 1 / tau.
        """
        z_1, z_2 = F.normalize(first, dim=1), F.normalize(second, dim=1)
        info_nce = self.info_nce(first, second, scale).loss
        # each rank over its own rows: DDP averages them to the mean over all rows
        pull = (z_1 - z_2).square().sum(dim=1).mean()
        return {"loss": info_nce + self.pull_weight * pull, "info_nce": info_nce, "pull": pull}
