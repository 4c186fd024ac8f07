"""The two objectives: a queue of earlier keys, or the keys of the batch."""

from torch import Tensor, nn
from torch.nn import functional as F

from common.losses.info_nce import InfoNCELoss
from common.losses.output import LossOutput
from projects.contriever.config import MethodConfig


class Objective(nn.Module):
    """InfoNCE of queries against documents by dot products.

    With a queue Q of K earlier keys (logit 0 of 1 + K is the positive; other keys of the batch are
    no negatives at this step):

        L = -1/B sum_i log exp(q_i.k_i / tau) / (exp(q_i.k_i / tau) + sum_j exp(q_i.Q_j / tau))

    in batch, over the golds k and the negatives n of all ranks:

        L = -1/B sum_i log exp(q_i.k_i / tau) / (sum_j exp(q_i.k_j / tau) + sum_j exp(q_i.n_j /
        tau))

    Source: Izacard et al. 2022, section 3.2, equation 1, arXiv 2112.09118; released code (moco,
    inbatch).

    Args:
        method: section of the config.
        in_batch: which of the two.
        temperature: tau; None: the method's.

    Distributed: the keys of a batch are gathered with gradient; a queue is equal on all ranks.
    """

    def __init__(
        self, method: MethodConfig, *, in_batch: bool, temperature: float | None = None
    ) -> None:
        super().__init__()
        self.scale = 1 / (temperature or method.temperature)
        self.norm_query, self.norm_document = method.norm_query, method.norm_document
        self.loss = InfoNCELoss(
            in_batch=in_batch,
            normalize=False,
            label_smoothing=method.label_smoothing,
            gather=method.gather,
            backend=method.loss_backend,
            # lengths are free and 1 / tau is 20: 16-bit operands would round logits coarsely
            precision="exact",
        )

    def query(self, x: Tensor) -> Tensor:
        """Vectors of queries (B, D), of unit length if so configured."""
        return F.normalize(x, dim=-1) if self.norm_query else x

    def document(self, x: Tensor) -> Tensor:
        """Vectors of documents (B, D), of unit length if so configured."""
        return F.normalize(x, dim=-1) if self.norm_document else x

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        *,
        queue: Tensor | None = None,
        negatives: Tensor | None = None,
    ) -> LossOutput:
        """Loss of a batch.

        Args:
            query: (B, D), as `query` returns them.
            key: (B, D), row i is the positive of query i.
            queue: (K, D) earlier keys, without gradient.
            negatives: (B, n, D) negatives of each query, which are those of all queries.
        """
        out: LossOutput = self.loss(  # Eq. 1
            query, key, self.scale, queue=queue, hard_negatives=negatives
        )
        return out
