"""Head with shuffled group whitening, and the loss of several positives.

Legend: m views, B sentences, D dimension.
"""

import torch
from torch import Tensor, nn

from common.config import UserError
from common.families.sentences.config import SentenceLoss
from common.losses.info_nce import InfoNCELoss
from projects.whitenedcse.config import SgwConfig
from projects.whitenedcse.whitening import Whitening


class WhitenedHead(nn.Module):
    """Whitening, dense layer, tanh; in evaluation mode without the whitening.

    Source: Zhuo et al. 2023, section 3, arXiv 2305.17746; order and initialisation of the official
    code.

    Args:
        dim: D.
        sgw: groups, shuffling, position and layout of the whitening.
        init_std: standard deviation of the dense layer's initial weights.

    Raises:
        UserError: the number of groups does not divide D.
    """

    def __init__(self, dim: int, sgw: SgwConfig, init_std: float = 0.02) -> None:
        super().__init__()
        self.position, self.official = sgw.position, sgw.block_layout == "official"
        self.whitening = None if sgw.position == "none" else build_whitening(dim, sgw)
        self.dense = nn.Linear(dim, dim)
        nn.init.normal_(self.dense.weight, std=init_std)
        nn.init.zeros_(self.dense.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Features of the views (m, B, D) -> what is contrasted, (m, B, D)."""
        if self.position == "before_mlp":
            features = self.whiten(features)
        z = torch.tanh(self.dense(features.to(self.dense.weight.dtype)))  # whitened in float32
        return self.whiten(z) if self.position == "after_mlp" else z

    def whiten(self, x: Tensor) -> Tensor:
        """Whitened (m, B, D): blocks of one view each, or the official code's consecutive rows."""
        assert self.whitening is not None
        white: Tensor
        if not self.official:
            white = self.whitening(x)
            return white
        num_views, num_rows, dim = x.shape
        blocks = x.transpose(0, 1).reshape(num_views, num_rows, dim)
        white = self.whitening(blocks)
        return white.view(num_rows, num_views, dim).transpose(0, 1)


def build_whitening(dim: int, sgw: SgwConfig) -> Whitening:
    """The whitening of a config.

    Raises:
        UserError: the number of groups does not divide `dim`.
    """
    if dim % sgw.groups:
        raise UserError(f"sgw.groups={sgw.groups} must divide the encoder's dimension {dim}")
    return Whitening(
        dim,
        sgw.groups,
        method=sgw.method,
        shuffle=sgw.shuffle,
        detach=sgw.detach_whitening,
        ridge=sgw.ridge,
        sync=sgw.sync,
    )


class Objective(nn.Module):
    """Sum of one InfoNCE per positive, always from view 1, negatives from the same positive view.

        L = sum_{v=2..m} mean_i -log softmax_j(cos(z_i^1, z_j^v) / tau) at j = i

    Source: Zhuo et al. 2023, section 3.3, arXiv 2305.17746, as in the official code.

    Args:
        method: temperature and gathering.
    """

    def __init__(self, method: SentenceLoss) -> None:
        super().__init__()
        self.scale = 1 / method.temperature
        self.loss = InfoNCELoss(gather=method.gather, backend=method.loss_backend)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Loss, and the share of rows whose positive is nearest.

        Args:
            z: (m, B, D) raw embeddings, m >= 2; z[0] holds the anchors.
        """
        # section 3.3: a sum, so that the gradient grows with m; one column of views at a time
        outs = [self.loss(z[0], positive, self.scale) for positive in z[1:]]
        hits = torch.stack([out.hits.float().mean() for out in outs])
        return torch.stack([out.loss for out in outs]).sum(), hits.mean()
