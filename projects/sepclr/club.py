"""vCLUB with its variational network."""

from torch import Tensor, nn
from torch.func import functional_call

from common.encoders.heads import MLPHead
from common.losses.output import DistributedKind
from projects.sepclr.independence import club_bound, gaussian_nll


class ClubEstimator(nn.Module):
    """Upper bound of I(x; y) through a network q(y | x) that is fitted along the way.

    The bound moves x and y but not q, the likelihood moves q but neither x nor y, so that one
    optimiser can take both.

    Source: Cheng et al. 2020, algorithm 1, arXiv 2006.12013.

    Args:
        x_dim: D.
        y_dim: E.
        hidden_dim: width of q's hidden layer.

    Distributed: local.

    >>> import torch
    >>> bound, nll = ClubEstimator(2, 3, 8)(torch.zeros(4, 2), torch.zeros(4, 3))
    >>> float(bound)
    0.0
    """

    distributed_kind: DistributedKind = "local"

    def __init__(self, x_dim: int, y_dim: int, hidden_dim: int = 64) -> None:
        super().__init__()
        self.network = MLPHead(x_dim, [hidden_dim], 2 * y_dim, norm="none")

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Codes (B, D), (B, E) -> bound (minimise over the codes) and likelihood term (over q)."""
        fixed = {name: p.detach() for name, p in self.network.named_parameters()}
        mean, log_variance = functional_call(self.network, fixed, (x,)).chunk(2, dim=1)
        bound = club_bound(mean, log_variance.tanh(), y)
        mean, log_variance = self.network(x.detach()).chunk(2, dim=1)
        return bound, gaussian_nll(mean, log_variance.tanh(), y.detach())
