"""Image-text contrast in which the pairs of one image share the target."""

from torch import Tensor

from .base import PairLoss
from .functional.multi_positive import sup_con
from .output import LossOutput


class SoftItcLoss(PairLoss):
    """Symmetric InfoNCE with soft targets over all ranks: pairs of equal image id share the target.

        y_ij = [id_i = id_j] / #{j: id_i = id_j}
        L = 1/2 [CE(s v t', y) + CE(s t v', y)]

    Source: Li et al. 2021, "ALBEF" (fine-tuning for retrieval, ids of images), arXiv 2107.07651.

    Args:
        gather: see `PairLoss`, also for `normalize`, `backend`, `memory_budget` and `precision`.

    Distributed: gathers negatives (local if `gather=False`).

    >>> import torch
    >>> pair, ids = torch.eye(2), torch.tensor([4, 4])  # 1/2 log(4/3) + 1/2 log 4
    >>> SoftItcLoss()(pair, pair, torch.tensor(3.0).log(), ids).loss.round(decimals=4)
    tensor(0.8370)
    """

    def forward(
        self, image: Tensor, text: Tensor, scale: Tensor | float, ids: Tensor
    ) -> LossOutput:
        """Loss of a batch of pairs.

        Args:
            image: (B, D) raw embeddings.
            text: (B, D), row i belongs to image i.
            scale: multiplier of the cosines.
            ids: (B,) int64, the image of each pair.
        """
        v, t = self.prepare(image), self.prepare(text)
        forth = sup_con(v, t, ids, ids, scale, **self.kernel)
        back = sup_con(t, v, ids, ids, scale, **self.kernel)
        return LossOutput(
            (forth.loss + back.loss) / 2, (forth.per_sample + back.per_sample) / 2, forth.hits
        )
