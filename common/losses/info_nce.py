"""InfoNCE as a module: in-batch negatives, hard negatives, queue, masks."""

from torch import Tensor

from ..kernels.specs.weights import Spec
from .base import PairLoss, check_fraction
from .functional import equations
from .functional.info_nce import candidates, clip, info_nce
from .functional.kernel import as_scale
from .functional.masks import hardness_bias, id_mask
from .output import LossOutput


class InfoNCELoss(PairLoss):
    """InfoNCE of queries against keys, hard negatives and a queue, over all ranks.

    See `functional.info_nce` for the equation.

    Source: van den Oord et al. 2018, equation 4, arXiv 1807.03748.

    Args:
        symmetric: also contrast every key with all queries (plain, without hard negatives and
            queue) and average the two directions.
        in_batch: whether keys of other rows are negatives.
        own_hard_only: a row sees only its own hard negatives.
        query_negatives: whether other queries are negatives too.
        hard_logit: added to the logits of a row's own hard negatives (log alpha of SimCSE).
        hardness: >= 0, adds this times its cosine, without gradient, to the logit of a negative.
        margin: >= 0, subtracted from the cosine of the positive.
        label_smoothing: in [0, 1).
        decoupled: leave the positive out of the denominator.
        gather: see `PairLoss`, also for `normalize`, `backend`, `memory_budget` and `precision`.

    Raises:
        ValueError: an option out of its range, or options that do not combine.

    Distributed: gathers negatives (local if `gather=False`); a queue is never gathered.

    >>> import torch
    >>> query, key = torch.eye(2), torch.eye(2)
    >>> InfoNCELoss()(query, key, scale=torch.tensor(3.0).log()).loss.exp()  # (3 + 1) / 3
    tensor(1.3333)
    """

    def __init__(
        self,
        symmetric: bool = False,
        *,
        in_batch: bool = True,
        own_hard_only: bool = False,
        query_negatives: bool = False,
        hard_logit: float = 0.0,
        hardness: float = 0.0,
        margin: float = 0.0,
        label_smoothing: float = 0.0,
        decoupled: bool = False,
        gather: bool = True,
        normalize: bool = True,
        backend: str = "auto",
        memory_budget: int | None = None,
        precision: str = "auto",
    ) -> None:
        super().__init__(
            gather=gather,
            normalize=normalize,
            backend=backend,
            memory_budget=memory_budget,
            precision=precision,
        )
        check_fraction("label_smoothing", label_smoothing)
        if hardness < 0 or margin < 0:
            raise ValueError(f"hardness and margin must be >= 0, got {hardness} and {margin}")
        shifted = decoupled or margin or hardness or hard_logit or own_hard_only or query_negatives
        if label_smoothing and shifted:
            raise ValueError(
                "label_smoothing does not combine with decoupled, margin, hardness, hard_logit, "
                "own_hard_only or query_negatives"
            )
        if symmetric and not in_batch:
            raise ValueError("symmetric=True contrasts within the batch: it needs in_batch=True")
        self.symmetric = symmetric
        self.in_batch = in_batch
        self.own_hard_only = own_hard_only
        self.query_negatives = query_negatives
        self.hard_logit = hard_logit
        self.hardness = hardness
        self.margin = margin
        self.label_smoothing = label_smoothing
        self.decoupled = decoupled

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        scale: Tensor | float,
        *,
        hard_negatives: Tensor | None = None,
        queue: Tensor | None = None,
        ids: Tensor | None = None,
        mask: Spec | None = None,
    ) -> LossOutput:
        """Loss of a batch.

        Args:
            query: (B, D) raw embeddings.
            key: (B, D), row i is the positive of query i.
            scale: multiplier of the cosines, see `LogitScale`; 20 is temperature 0.05.
            hard_negatives: (B, D) or (B, K, D).
            queue: (M, D) earlier keys, no gradient.
            ids: (B,) int64, or (B, K) for K kinds of identity; keys that share an id of any kind
                with the row are not its negatives. With hard negatives or a queue give
                `mask=id_mask(ids, hard_ids, queue_ids)` instead.
            mask: further masks, see `functional.info_nce`; for the direction query -> key.

        Raises:
            ValueError: shapes that do not fit, or `ids` without those of all columns.
        """
        query, key = self.prepare(query), self.prepare(key)
        hard = None if hard_negatives is None else self.prepare(hard_negatives)
        queue = None if queue is None else self.prepare(queue)
        if ids is None and mask is None and key.shape == query.shape and self._one_softmax:
            keys = candidates(query, key, hard, queue)
            if self.runs_plain(query, keys, "one-way"):
                return equations.info_nce(query, keys, as_scale(scale), self.label_smoothing)
        if ids is not None and not (hard is None and queue is None):
            raise ValueError("ids names the keys only: give mask=id_mask(ids, hard_ids, queue_ids)")
        same: Spec | None = None
        for kind in () if ids is None else ids.reshape(len(ids), -1).unbind(1):
            same = _joined(same, id_mask(kind.contiguous()))
        spec = _joined(mask, same)
        if self.hardness:
            columns = [key, *(x.flatten(0, -2) for x in (hard, queue) if x is not None)]
            spec = _joined(spec, hardness_bias(query, columns, self.hardness))
        if self.symmetric and self._plain and hard is None and queue is None and mask is None:
            return clip(
                query, key, scale, mask=same, label_smoothing=self.label_smoothing, **self.kernel
            )
        forward = self._one_way(query, key, scale, hard, queue, spec)
        if not self.symmetric:
            return forward
        back = _joined(same, hardness_bias(key, [query], self.hardness) if self.hardness else None)
        reverse = self._one_way(key, query, scale, None, None, back)
        return LossOutput(
            0.5 * (forward.loss + reverse.loss),
            0.5 * (forward.per_sample + reverse.per_sample),
            forward.hits,
        )

    @property
    def _one_softmax(self) -> bool:
        """Whether all candidates are in one softmax, each with its own logit."""
        changed = self.symmetric or self.own_hard_only or self.query_negatives or self.hard_logit
        changed = changed or self.hardness or self.margin or self.decoupled
        return self.in_batch and not changed

    @property
    def _plain(self) -> bool:
        """Whether `clip` computes the symmetric loss in one sweep."""
        return not (self.decoupled or self.margin or self.hardness or self.query_negatives)

    def _one_way(
        self,
        query: Tensor,
        key: Tensor,
        scale: Tensor | float,
        hard: Tensor | None,
        queue: Tensor | None,
        mask: Spec | None,
    ) -> LossOutput:
        return info_nce(
            query,
            key,
            scale,
            hard_negatives=hard,
            queue=queue,
            mask=mask,
            in_batch=self.in_batch,
            own_hard_only=self.own_hard_only,
            query_negatives=self.query_negatives,
            hard_logit=self.hard_logit if hard is not None else 0.0,
            margin=self.margin,
            label_smoothing=self.label_smoothing,
            decoupled=self.decoupled,
            **self.kernel,
        )


def _joined(left: Spec | None, right: Spec | None) -> Spec | None:
    if left is None or right is None:
        return right if left is None else left
    return left & right
