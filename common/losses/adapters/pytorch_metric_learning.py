"""`SupConLoss` and `NTXentLoss` with the constructors and calls of pytorch-metric-learning."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..base import PairLoss
from ..functional.multi_positive import disparate, sup_con
from ..output import DistributedKind

Pairs = tuple[Tensor, Tensor]  # rows and columns


class _LabelledLoss(PairLoss):
    """What both losses share.

    All pairs of a batch under cosines or dot products take the fused loss. Pairs of a miner, other
    distances and other reducers take plain torch on the matrix of all similarities.

    Args:
        temperature: divides the similarities.
        distance: None for cosines, else a distance of that library.
        reducer: None for the loss's own mean, else a reducer of that library.
        **unsupported: regularisers: refused unless None.

    Raises:
        ValueError: a regulariser.
    """

    distributed_kind: ClassVar[DistributedKind] = "local"

    def __init__(
        self, temperature: float, distance: Any = None, reducer: Any = None, **unsupported: Any
    ) -> None:
        refused = [option for option, value in unsupported.items() if value is not None]
        if refused:
            raise ValueError(
                f"{type(self).__name__} takes temperature, distance and reducer, "
                f"not {', '.join(refused)}"
            )
        normalize = distance is None or bool(distance.normalize_embeddings)
        super().__init__(gather=False, normalize=normalize)
        self.temperature = temperature
        self.distance = distance
        self.reducer = reducer

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor | None = None,
        indices_tuple: Sequence[Tensor] | None = None,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> Tensor:
        """Loss of a batch.

        Args:
            embeddings: (N, D) raw embeddings.
            labels: (N,) class of each row; may be left out if `indices_tuple` is given.
            indices_tuple: pairs (anchors, positives, anchors, negatives) or triplets (anchors,
                positives, negatives) of a miner; None for all pairs.
            ref_emb: (M, D) what the rows are contrasted with; None contrasts the batch with itself.
            ref_labels: (M,) classes of `ref_emb`.

        Raises:
            ValueError: neither labels nor pairs, or references without labels.
        """
        query = self.prepare(embeddings)
        key = query if ref_emb is None else self.prepare(ref_emb)
        if indices_tuple is not None:
            positives, negatives = _mined(indices_tuple)
        elif labels is None or (ref_emb is None) != (ref_labels is None):
            raise ValueError("every row needs a label: give labels, and ref_labels with ref_emb")
        else:
            labels = labels.to(query.device)
            key_labels = labels if ref_labels is None else ref_labels.to(query.device)
            if self.reducer is None and _is_product(self.distance):
                return self._fused(query, key, labels, key_labels, ref_emb is None)
            positives, negatives = _all_pairs(labels, key_labels, ref_emb is None)
        if not (len(positives[0]) and len(negatives[0])):
            return 0 * query.sum()
        losses, kind = self._losses(self._logits(query, key), positives, negatives)
        if self.reducer is None:
            return self._mean(losses)
        rows = torch.arange(len(query), device=query.device)
        indices = positives if kind == "pos_pair" else rows
        parts = {"losses": losses, "indices": indices, "reduction_type": kind}
        reduced: Tensor = self.reducer({"loss": parts}, embeddings, labels)
        return reduced

    def _logits(self, query: Tensor, key: Tensor) -> Tensor:
        """(N, M) similarities over the temperature; distances count with a minus."""
        if self.distance is None:
            return query @ key.T / self.temperature
        matrix: Tensor = self.distance(query, key)
        return (matrix if self.distance.is_inverted else -matrix) / self.temperature

    def _fused(
        self, query: Tensor, key: Tensor, labels: Tensor, key_labels: Tensor, same: bool
    ) -> Tensor:
        """Loss of all pairs."""
        raise NotImplementedError

    def _losses(self, logits: Tensor, positives: Pairs, negatives: Pairs) -> tuple[Tensor, str]:
        """Losses of rows or positive pairs, and that library's word for which of the two."""
        raise NotImplementedError

    def _mean(self, losses: Tensor) -> Tensor:
        """What `reducer=None` does."""
        raise NotImplementedError


class SupConLoss(_LabelledLoss):
    """Supervised contrastive loss, called as pytorch-metric-learning calls it.

    The mean goes over rows whose loss is above 0. A batch without a negative pair gives 0, as in
    that library; the paper's loss, `functional.multi_positive.sup_con`, does not.

    Source: Khosla et al. 2020, equation 2, arXiv 2004.11362.

    Args:
        temperature: divides the similarities.
        distance: None for cosines, else a distance of that library.
        reducer: None for the mean over losses above 0, else a reducer of that library.
        **unsupported: regularisers: refused unless None.

    Raises:
        ValueError: a regulariser.

    Distributed: local; wrap it in that library's `DistributedLossWrapper`.

    Deviation: a single triplet counts; that library returns 0 for it.

    >>> import math, torch
    >>> z, y = torch.eye(2).repeat(2, 1), torch.tensor([0, 1, 0, 1])
    >>> SupConLoss(temperature=1 / math.log(4.0))(z, y).exp()  # (4 + 1 + 1) / 4
    tensor(1.5000)
    """

    def __init__(
        self,
        temperature: float = 0.1,
        distance: Any = None,
        reducer: Any = None,
        **unsupported: Any,
    ) -> None:
        super().__init__(temperature, distance, reducer, **unsupported)

    def _fused(
        self, query: Tensor, key: Tensor, labels: Tensor, key_labels: Tensor, same: bool
    ) -> Tensor:
        scale = 1 / self.temperature
        out = sup_con(query, key, labels, key_labels, scale, exclude_self=same, **self.kernel)
        one_class = (labels == labels[0]).all() & (key_labels == labels[0]).all()
        return self._mean(torch.where(one_class, 0, out.per_sample))

    def _losses(self, logits: Tensor, positives: Pairs, negatives: Pairs) -> tuple[Tensor, str]:
        positive = torch.zeros_like(logits, dtype=torch.bool)
        positive[positives] = True
        counted = positive.clone()
        counted[negatives] = True
        log_sum = logits.masked_fill(~counted, torch.finfo(logits.dtype).min).logsumexp(1)
        total = (log_sum[:, None] - logits).masked_fill(~positive, 0).sum(1)
        return total / positive.sum(1).clamp(min=1), "element"

    def _mean(self, losses: Tensor) -> Tensor:
        above = losses > 0
        return torch.where(above, losses, 0).sum() / above.sum().clamp(min=1)


class NTXentLoss(_LabelledLoss):
    """NT-Xent over labels, called as pytorch-metric-learning calls it.

        L = mean over positive pairs (a, p) of -log [e^(s_ap) / (e^(s_ap) + sum_n e^(s_an))]

    n runs over the rows of other classes: positives of one row do not compete. This is
    `functional.multi_positive.disparate` without gates.

    Source: Chen et al. 2020, equation 1, arXiv 2002.05709, with classes as in Sohn 2016.

    Args:
        temperature: divides the similarities.
        distance: None for cosines, else a distance of that library.
        reducer: None for the mean over positive pairs, else a reducer of that library.
        **unsupported: regularisers: refused unless None.

    Raises:
        ValueError: a regulariser.

    Distributed: local; wrap it in that library's `DistributedLossWrapper`.

    Deviation: a single triplet counts; that library returns 0 for it.

    >>> import math, torch
    >>> z, y = torch.eye(2).repeat(2, 1), torch.tensor([0, 1, 0, 1])
    >>> NTXentLoss(temperature=1 / math.log(4.0))(z, y).exp()  # (4 + 1 + 1) / 4
    tensor(1.5000)
    """

    def __init__(
        self,
        temperature: float = 0.07,
        distance: Any = None,
        reducer: Any = None,
        **unsupported: Any,
    ) -> None:
        super().__init__(temperature, distance, reducer, **unsupported)

    def _fused(
        self, query: Tensor, key: Tensor, labels: Tensor, key_labels: Tensor, same: bool
    ) -> Tensor:
        gate = torch.ones_like(query)
        scale = 1 / self.temperature
        return disparate(
            query, key, gate, labels, labels, key_labels, scale, exclude_self=same, **self.kernel
        ).loss

    def _losses(self, logits: Tensor, positives: Pairs, negatives: Pairs) -> tuple[Tensor, str]:
        count = torch.zeros_like(logits)  # a negative of two triplets counts twice
        count.index_put_(negatives, torch.ones_like(logits[negatives]), accumulate=True)
        lowest = torch.finfo(logits.dtype).min
        weighted = (logits + count.log()).masked_fill(count == 0, lowest)
        log_sum = weighted.logsumexp(1)
        gaps = log_sum[positives[0]] - logits[positives]
        return F.softplus(gaps, threshold=50.0), "pos_pair"

    def _mean(self, losses: Tensor) -> Tensor:
        return losses.mean()


def _is_product(distance: Any) -> bool:
    """Whether similarities are products of embeddings, which the fused loss computes."""
    if distance is None:
        return True
    product = type(distance).__name__ in ("CosineSimilarity", "DotProductSimilarity")
    return product and distance.p == 2 and distance.power == 1


def _mined(indices: Sequence[Tensor]) -> tuple[Pairs, Pairs]:
    """Positive and negative pairs of a miner's pairs or triplets."""
    if len(indices) not in (3, 4):
        raise ValueError(
            "indices_tuple must be (anchors, positives, negatives) or (anchors, positives, "
            f"anchors, negatives), got {len(indices)} tensors"
        )
    anchor, positive = indices[:2]
    return (anchor, positive), (indices[-2] if len(indices) == 4 else anchor, indices[-1])


def _all_pairs(labels: Tensor, key_labels: Tensor, same: bool) -> tuple[Pairs, Pairs]:
    """Positive and negative pairs by labels; without a row and itself if `same`."""
    equal = labels[:, None] == key_labels
    anchor, negative = (~equal).nonzero(as_tuple=True)
    if same:
        equal.fill_diagonal_(False)
    row, positive = equal.nonzero(as_tuple=True)
    return (row, positive), (anchor, negative)
