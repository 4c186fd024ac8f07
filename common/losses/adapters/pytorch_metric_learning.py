"""`SupConLoss` and `NTXentLoss` with the constructors and calls of pytorch-metric-learning."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from ..base import PairLoss
from ..functional.multi_positive import disparate, sup_con
from ..output import DistributedKind


class _LabelledLoss(PairLoss):
    """Arguments that both losses share.

    Args:
        temperature: divides the similarities.
        distance: None for cosines, else an object of that library: `CosineSimilarity`, or
            `DotProductSimilarity`, whose `normalize_embeddings` counts.
        **unsupported: reducers and regularisers: refused unless None.

    Raises:
        ValueError: another distance, a reducer or a regulariser.
    """

    distributed_kind: ClassVar[DistributedKind] = "local"

    def __init__(self, temperature: float, distance: Any = None, **unsupported: Any) -> None:
        name = self.__class__.__name__
        refused = [option for option, value in unsupported.items() if value is not None]
        if refused:
            raise ValueError(f"{name} takes temperature and distance, not {', '.join(refused)}")
        if distance is not None:
            similarity = type(distance).__name__ in ("CosineSimilarity", "DotProductSimilarity")
            if not similarity or distance.p != 2 or distance.power != 1:
                raise ValueError(
                    f"{name} takes CosineSimilarity() or DotProductSimilarity() as distance, "
                    f"got {distance}"
                )
        normalize = distance is None or bool(distance.normalize_embeddings)
        super().__init__(gather=False, normalize=normalize)
        self.temperature = temperature
        self.distance = distance

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor | None = None,
        indices_tuple: Any = None,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> Tensor:
        """Loss of a batch.

        Args:
            embeddings: (N, D) raw embeddings.
            labels: (N,) class of each row.
            indices_tuple: pairs of a miner; must be None.
            ref_emb: (M, D) what the rows are contrasted with; None contrasts the batch with itself.
            ref_labels: (M,) classes of `ref_emb`.

        Raises:
            ValueError: pairs of a miner, no labels, or references without labels.
        """
        if indices_tuple is not None:
            raise ValueError(
                "indices_tuple is not supported: leave out the miner, every pair of rows counts"
            )
        if labels is None or (ref_emb is None) != (ref_labels is None):
            raise ValueError("every row needs a label: give labels, and ref_labels with ref_emb")
        query, labels = self.prepare(embeddings), labels.to(embeddings.device)
        if ref_emb is None or ref_labels is None:
            return self._loss(query, query, labels, labels, True)
        key, key_labels = self.prepare(ref_emb), ref_labels.to(embeddings.device)
        return self._loss(query, key, labels, key_labels, False)

    def _loss(
        self, query: Tensor, key: Tensor, labels: Tensor, key_labels: Tensor, same: bool
    ) -> Tensor:
        raise NotImplementedError


class SupConLoss(_LabelledLoss):
    """Supervised contrastive loss, called as pytorch-metric-learning calls it.

    The mean goes over rows whose loss is above 0. A batch without a negative pair gives 0, as in
    that library; the paper's loss, `functional.multi_positive.sup_con`, does not.

    Source: Khosla et al. 2020, equation 2, arXiv 2004.11362.

    Args:
        temperature: divides the similarities.
        distance: None for cosines, else `CosineSimilarity` or `DotProductSimilarity`.
        **unsupported: reducers and regularisers: refused unless None.

    Raises:
        ValueError: another distance, a reducer or a regulariser.

    Distributed: local; wrap it in that library's `DistributedLossWrapper`.

    >>> import math, torch
    >>> z, y = torch.eye(2).repeat(2, 1), torch.tensor([0, 1, 0, 1])
    >>> SupConLoss(temperature=1 / math.log(4.0))(z, y).exp()  # (4 + 1 + 1) / 4
    tensor(1.5000)
    """

    def __init__(self, temperature: float = 0.1, distance: Any = None, **unsupported: Any) -> None:
        super().__init__(temperature, distance, **unsupported)

    def _loss(
        self, query: Tensor, key: Tensor, labels: Tensor, key_labels: Tensor, same: bool
    ) -> Tensor:
        scale = 1 / self.temperature
        out = sup_con(
            query, key, labels, key_labels, scale, exclude_self=same, **self.kernel
        ).per_sample
        one_class = (labels == labels[0]).all() & (key_labels == labels[0]).all()
        counted = (out > 0) & ~one_class
        return torch.where(counted, out, 0).sum() / counted.sum().clamp(min=1)


class NTXentLoss(_LabelledLoss):
    """NT-Xent over labels, called as pytorch-metric-learning calls it.

        L = mean over positive pairs (a, p) of -log [e^(s_ap) / (e^(s_ap) + sum_n e^(s_an))]

    n runs over the rows of other classes: positives of one row do not compete. This is
    `functional.multi_positive.disparate` without gates.

    Source: Chen et al. 2020, equation 1, arXiv 2002.05709, with classes as in Sohn 2016.

    Args:
        temperature: divides the similarities.
        distance: None for cosines, else `CosineSimilarity` or `DotProductSimilarity`.
        **unsupported: reducers and regularisers: refused unless None.

    Raises:
        ValueError: another distance, a reducer or a regulariser.

    Distributed: local; wrap it in that library's `DistributedLossWrapper`.

    >>> import math, torch
    >>> z, y = torch.eye(2).repeat(2, 1), torch.tensor([0, 1, 0, 1])
    >>> NTXentLoss(temperature=1 / math.log(4.0))(z, y).exp()  # (4 + 1 + 1) / 4
    tensor(1.5000)
    """

    def __init__(self, temperature: float = 0.07, distance: Any = None, **unsupported: Any) -> None:
        super().__init__(temperature, distance, **unsupported)

    def _loss(
        self, query: Tensor, key: Tensor, labels: Tensor, key_labels: Tensor, same: bool
    ) -> Tensor:
        gate = torch.ones_like(query)
        scale = 1 / self.temperature
        return disparate(
            query, key, gate, labels, labels, key_labels, scale, exclude_self=same, **self.kernel
        ).loss
