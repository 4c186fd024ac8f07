"""The hybrid loss of supervised training.

# B queries, g passages of a query, D dim, V vocabulary
"""

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from common.losses.info_nce import InfoNCELoss
from common.losses.output import LossOutput
from projects.promptreps.config import MethodConfig


class Terms(NamedTuple):
    """Scalars of a batch; `sparse` is None where it is not trained."""

    loss: Tensor
    dense: Tensor
    sparse: Tensor | None
    accuracy: Tensor  # share of queries whose positive has the largest cosine


class Objective(nn.Module):
    """InfoNCE of dense vectors, and of weighted tokens, over all passages of all queries and ranks.

        L_d = -log exp(q_i . p_i+ / tau) / sum_p exp(q_i . p / tau)
        L_s = -log exp(u_i . v_i+) / sum_v exp(u_i . v)
        L = L_d + L_s

    q, p of unit length; u, v = log(1 + max(0, logits)) at the tokens of the own text, 0 elsewhere.

    Source: Zhuang et al. 2024, "PromptReps", released code and its README, arXiv 2404.18424 (the
    objective of supervised training; the equations carry no number).

    Args:
        method: section of the config.

    Distributed: gathers passages of all ranks, with gradient.

    Deviation: the release gathers without gradient and multiplies the loss by the number of ranks;
    here the gradient of the global loss is exact without a factor.
    """

    def __init__(self, method: MethodConfig) -> None:
        super().__init__()
        self.scale, self.hybrid = 1 / method.temperature, method.hybrid
        self.loss = InfoNCELoss(normalize=False, gather=method.gather, backend=method.loss_backend)

    def forward(
        self, query: Tensor, passage: Tensor, query_weights: Tensor, passage_weights: Tensor
    ) -> Terms:
        """Loss of a batch.

        Args:
            query: (B, D) dense vectors of any length.
            passage: (B * g, D), those of a query together, its positive first.
            query_weights: (B, V) masked weights of tokens.
            passage_weights: (B * g, V).
        """
        dense = self._contrast(
            F.normalize(query, dim=-1), F.normalize(passage, dim=-1), self.scale
        )  # Eq. dense
        assert dense.hits is not None
        hits = dense.hits.float().mean()
        if not self.hybrid:
            return Terms(dense.loss, dense.loss, None, hits)
        sparse = self._contrast(query_weights, passage_weights, 1.0)  # Eq. sparse
        return Terms(dense.loss + sparse.loss, dense.loss, sparse.loss, hits)  # Eq. hybrid

    def _contrast(self, query: Tensor, passage: Tensor, scale: float) -> LossOutput:
        grouped = passage.reshape(len(query), -1, passage.shape[-1])
        others = grouped[:, 1:] if grouped.shape[1] > 1 else None
        out: LossOutput = self.loss(query, grouped[:, 0], scale, hard_negatives=others)
        return out
