"""Alignment and uniformity of two views as a module."""

from torch import Tensor

from .base import PairLoss
from .functional.geometry import align_uniform
from .output import LossOutput


class AlignUniformLoss(PairLoss):
    """Alignment plus uniformity of two views, over all ranks; see `functional.align_uniform`.

    Source: Wang and Isola 2020, section 5, arXiv 2005.10242.

    Args:
        align_weight: >= 0.
        uniform_weight: >= 0.
        tau: > 0, squared bandwidth of the potential; 0.25 is the paper's t = 2.
        gather: see `PairLoss`, also for `normalize`, `backend`, `memory_budget` and `precision`.

    Raises:
        ValueError: an option out of its range.

    Distributed: gathers negatives (local if `gather=False`).

    >>> import torch
    >>> x = torch.tensor([[2.0, 0.0], [-3.0, 0.0]])
    >>> AlignUniformLoss()(x, x).loss  # t * ||x_1 - x_2||^2 = 2 * 4
    tensor(-8.)
    """

    def __init__(
        self,
        align_weight: float = 1.0,
        uniform_weight: float = 1.0,
        tau: float = 0.25,
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
        if min(align_weight, uniform_weight) < 0:
            raise ValueError(
                f"weights must be >= 0, got align {align_weight} and uniform {uniform_weight}"
            )
        if tau <= 0:
            raise ValueError(f"tau must be > 0, got {tau}")
        self.align_weight = align_weight
        self.uniform_weight = uniform_weight
        self.tau = tau

    def forward(self, x: Tensor, y: Tensor) -> LossOutput:
        """Loss of a batch.

        Args:
            x: (B, D) raw embeddings of the first view, B > 1.
            y: (B, D), row i is the other view of sample i.
        """
        return align_uniform(
            self.prepare(x),
            self.prepare(y),
            self.align_weight,
            self.uniform_weight,
            self.tau,
            **self.kernel,
        )
