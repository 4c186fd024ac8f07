"""The equations of the paper, in its order.

What has a name in the literature stands in `common.losses`; here is what the paper adds.
Legend: B images, D dimension of the embeddings.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from common.losses.two_view import NTXentLoss
from projects.one_to_k.config import MethodConfig


class Objective(nn.Module):
    """NT-Xent, and a pull between the views of an image.

        L = L_NT-Xent(z_1, z_2; tau) + lambda mean_i |z_1i - z_2i|^2        Eq. 1

    Source: Chen et al. 2020, equation 1, arXiv 2002.05709 (first term); Wang and Isola 2020,
    section 4.1.1, arXiv 2005.10242 (second term).

    Args:
        method: tau and lambda.

    Distributed: gathers negatives.
    """

    def __init__(self, method: MethodConfig) -> None:
        super().__init__()
        self.scale, self.pull_weight = 1 / method.temperature, method.pull_weight
        self.nt_xent = NTXentLoss()

    def forward(self, view_1: Tensor, view_2: Tensor) -> dict[str, Tensor]:
        """Loss and its terms.

        Args:
            view_1: (B, D) raw embeddings.
            view_2: (B, D), row i is the other view of image i.
        """
        z_1, z_2 = F.normalize(view_1, dim=1), F.normalize(view_2, dim=1)
        nt_xent = self.nt_xent(view_1, view_2, self.scale).loss
        # each rank over its own rows: DDP averages them to the mean over all rows
        pull = (z_1 - z_2).square().sum(dim=1).mean()
        loss = nt_xent + self.pull_weight * pull  # Eq. 1
        return {"loss": loss, "nt_xent": nt_xent, "pull": pull}
