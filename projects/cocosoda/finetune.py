"""The loss of the fine-tuning."""

from torch import Tensor, nn

from common.losses.info_nce import InfoNCELoss
from common.losses.output import LossOutput
from projects.cocosoda.config import MethodConfig


class FinetuneObjective(nn.Module):
    """Cross entropy of queries over the code of the batch; no direction back.

        L = -1/B sum_i log exp(s q_i.c_i) / sum_j exp(s q_i.c_j)

    Source: Shi et al. 2023, released code (fine-tuning), arXiv 2204.03293.

    Args:
        scale: s, multiplies the cosines.
        method: section of the config, for gathering and back end.

    Distributed: gathers negatives.
    """

    def __init__(self, scale: float, method: MethodConfig) -> None:
        super().__init__()
        self.scale = scale
        self.loss = InfoNCELoss(normalize=False, gather=method.gather, backend=method.loss_backend)

    def forward(self, query: Tensor, code: Tensor) -> LossOutput:
        """Loss of a batch of unit rows (B, D)."""
        out: LossOutput = self.loss(query, code, self.scale)
        return out
