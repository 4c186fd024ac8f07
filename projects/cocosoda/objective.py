"""The loss of the pre-training, over two modalities and four queues."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from common.losses.info_nce import InfoNCELoss
from common.losses.output import LossOutput
from projects.cocosoda.config import MethodConfig

# anchors -> candidates, of the batch and of the queue of the same name
INTER = (
    ("code", "query"),
    ("code", "augmented_query"),
    ("query", "code"),
    ("query", "augmented_code"),
)
INTRA = (("code", "augmented_code"), ("query", "augmented_query"))
KEYS = ("code", "query", "augmented_code", "augmented_query")


class Objective(nn.Module):
    """Mean over all rows of the inter-modal and the intra-modal terms.

    For anchors A, candidates P of the batch and the queue Q of earlier candidates of the same kind:

        l(A, P, Q) = -1/B sum_i log exp(a_i.p_i / tau)
                     / (sum_j exp(a_i.p_j / tau) + sum_k exp(a_i.Q_k / tau))

    with code c, query q and their augmented keys c', q':

        inter = l(c, q, Q_q), l(c, q', Q_q'), l(q, c, Q_c), l(q, c', Q_c')
        intra = l(c, c', Q_c'), l(q, q', Q_q')

    Source: Shi et al. 2023, section 3.4, arXiv 2204.03293; released code (in-batch candidates are
    negatives as well as the queue's).

    Args:
        method: section of the config.

    Distributed: the candidates of a batch are gathered, with gradient where they have one; queues
    are equal on all ranks.
    """

    def __init__(self, method: MethodConfig) -> None:
        super().__init__()
        self.scale = method.logit_scale / method.temperature
        self.pairs = (
            *(INTER if method.inter_modal else ()),
            *(INTRA if method.intra_modal else ()),
        )
        self.loss = InfoNCELoss(normalize=False, gather=method.gather, backend=method.loss_backend)

    def terms(
        self,
        anchors: Mapping[str, Tensor],
        keys: Mapping[str, Tensor],
        queues: Mapping[str, Tensor] | None = None,
    ) -> dict[str, LossOutput]:
        """Each term by its name, such as ``code_to_query``.

        Args:
            anchors: "code" and "query", (B, D) unit rows of the trained encoder.
            keys: candidates by `KEYS`, (B, D) unit rows; those without gradient stay constant.
            queues: earlier candidates by the same names, (K, D); None: there are none.
        """
        return {
            f"{anchor}_to_{key}": self.loss(  # Eq. l(A, P, Q): inter, intra
                anchors[anchor],
                keys[key],
                self.scale,
                queue=None if queues is None else queues[key],
            )
            for anchor, key in self.pairs
        }

    def forward(
        self,
        anchors: Mapping[str, Tensor],
        keys: Mapping[str, Tensor],
        queues: Mapping[str, Tensor] | None = None,
    ) -> LossOutput:
        """Loss over all rows of all terms; see `terms`."""
        terms = self.terms(anchors, keys, queues).values()
        rows = torch.cat([term.per_sample for term in terms])  # (4 B,) or (6 B,)
        hits = torch.cat([term.hits for term in terms if term.hits is not None])
        # Eq. of the sum: all terms weigh the same
        loss = torch.stack([term.loss for term in terms]).mean()
        return LossOutput(loss, rows, hits)
