"""Modules with soft targets: CWCL, distillation of similarities."""

from torch import Tensor

from .base import PairLoss
from .functional.info_nce import info_nce
from .functional.soft import cwcl, distillation
from .output import LossOutput, check_pair


class CWCLLoss(PairLoss):
    """Continuously weighted contrastive loss of a frozen and a trained modality, over all ranks.

        L = factor * [CWCL(frozen -> trained) + InfoNCE(trained -> frozen)]

    See `functional.cwcl` for the first term.

    Source: Srinivasa et al. 2023, equations 3 and 4, arXiv 2309.14580.

    Args:
        bidirectional: use the weights in the reverse direction too (an ablation).
        factor: multiplies the sum of both directions; 0.5 gives the scale of CLIP.
        gather: see `PairLoss`, also for `normalize`, `backend`, `memory_budget` and `precision`.

    Distributed: gathers negatives (local if `gather=False`).

    >>> import torch
    >>> z = torch.eye(2)  # log(4/3) + log(3)/3 and log(4/3)
    >>> CWCLLoss()(z, z, scale=torch.tensor(3.0).log()).loss.round(decimals=4)
    tensor(0.9416)
    """

    def __init__(
        self,
        bidirectional: bool = False,
        factor: float = 1.0,
        *,
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
        self.bidirectional = bidirectional
        self.factor = factor

    def forward(
        self,
        frozen: Tensor,
        trained: Tensor,
        scale: Tensor | float,
        features: Tensor | None = None,
    ) -> LossOutput:
        """Loss of a batch.

        Args:
            frozen: (B, D) raw embeddings of the frozen modality.
            trained: (B, D), row i belongs to frozen row i.
            scale: multiplier of the cosines.
            features: (B, R) features of the frozen modality for the weights, before a trainable
                projection if there is one; None takes `frozen` itself.

        Returns:
            Hits of trained -> frozen.
        """
        check_pair(frozen, trained, names="frozen, trained")
        guide = PairLoss().prepare(frozen if features is None else features)
        frozen, trained = self.prepare(frozen), self.prepare(trained)
        soft = cwcl(frozen, trained, guide, guide, scale, **self.kernel)
        hard = info_nce(trained, frozen, scale, **self.kernel)
        back = hard
        if self.bidirectional:
            back = cwcl(trained, frozen, guide, guide, scale, **self.kernel)
        return LossOutput(
            self.factor * (soft.loss + back.loss),
            self.factor * (soft.per_sample + back.per_sample),
            hard.hits,
        )


class DistillationLoss(PairLoss):
    """Match the teacher's in-batch similarity distribution; see `functional.distillation`.

    Source: Hinton et al. 2015, arXiv 1503.02531; Tejankar et al. 2021, arXiv 2012.09259.

    Args:
        relative: subtract the teacher's entropy (KL divergence, 0 at the optimum).
        symmetric: average over query -> key and key -> query.
        gather: see `PairLoss`, also for `normalize`, `backend`, `memory_budget` and `precision`.

    Distributed: gathers negatives (local if `gather=False`).

    >>> import torch
    >>> z = torch.eye(2)
    >>> float(DistillationLoss(relative=True)(z, z, z, z, 2.0, 2.0).loss.abs() < 1e-6)
    1.0
    """

    def __init__(
        self,
        relative: bool = False,
        symmetric: bool = False,
        *,
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
        self.relative = relative
        self.symmetric = symmetric

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        teacher_query: Tensor,
        teacher_key: Tensor,
        scale: Tensor | float,
        teacher_scale: float,
    ) -> LossOutput:
        """Loss of a batch.

        Args:
            query: (B, D) raw student embeddings.
            key: (B, D).
            teacher_query: (B, R) raw teacher embeddings, no gradient.
            teacher_key: (B, R).
            scale: multiplier of the student's cosines.
            teacher_scale: multiplier of the teacher's; larger is sharper.
        """
        check_pair(query, key)
        q, k, u, v = (self.prepare(x) for x in (query, key, teacher_query, teacher_key))
        options = self.kernel
        out = distillation(q, k, u, v, scale, teacher_scale, relative=self.relative, **options)
        if not self.symmetric:
            return out
        back = distillation(k, q, v, u, scale, teacher_scale, relative=self.relative, **options)
        return LossOutput(
            0.5 * (out.loss + back.loss), 0.5 * (out.per_sample + back.per_sample), None
        )
