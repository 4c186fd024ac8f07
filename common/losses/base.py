"""Options that all modules for pair losses share."""

from typing import ClassVar, get_args

import torch
from torch import Tensor, nn

from ..distributed.process import default_group
from ..kernels.core.problem import PRECISIONS
from ..kernels.crossover import Kind
from ..kernels.dispatch import Backend
from .functional.kernel import KernelOptions, prefers_plain
from .output import DistributedKind, at_least_float32, unit


class PairLoss(nn.Module):
    """Holds gathering, normalisation and kernel options; subclasses hold the equation's options.

    Embeddings are float16, bfloat16, float32 or float64 tensors of one device. The loss is computed
    and returned in float32, or in float64 for float64 embeddings, also under autocast.

    Args:
        gather: contrast the rows of this rank with the keys of all ranks. Every rank must then call
            the loss equally often. Each rank returns the loss of its own rows, weighted so that
            the mean over ranks (DDP and FSDP average gradients) is the loss of the global batch,
            even if ranks have different numbers of rows.
        normalize: L2-normalise the embeddings; False compares dot products.
        backend: "auto", "dense", "blocked" or "triton", see `kernels`.
        memory_budget: bytes that the loss may spend on storing N x M intermediate results, which
            saves recomputation; None is 64 MiB on a CPU, an eighth of the free memory on CUDA where
            float32 products are exact, and 0 elsewhere or with several processes.
        precision: of matrix products on a GPU: "exact" (float32), "tf32", "half" (16-bit operands,
            everything else float32), or "auto", which is half under autocast and exact otherwise.
            `docs/kernels.md` lists their errors.

    Raises:
        ValueError: an unknown backend or precision, or a negative budget.
    """

    distributed_kind: ClassVar[DistributedKind] = "gathers_negatives"

    def __init__(
        self,
        *,
        gather: bool = True,
        normalize: bool = True,
        backend: str = "auto",
        memory_budget: int | None = None,
        precision: str = "auto",
    ) -> None:
        super().__init__()
        if backend not in get_args(Backend):
            raise ValueError(f"backend must be one of {get_args(Backend)}, got {backend!r}")
        if precision not in ("auto", *PRECISIONS):
            raise ValueError(f"precision must be auto or one of {PRECISIONS}, got {precision!r}")
        if memory_budget is not None and memory_budget < 0:
            raise ValueError(f"memory_budget is a number of bytes >= 0, got {memory_budget}")
        self.gather = gather
        self.normalize = normalize
        self.backend = backend
        self.memory_budget = memory_budget
        self.precision = precision

    @property
    def kernel(self) -> KernelOptions:
        """Options for the functions of `functional`."""
        group = default_group() if self.gather else None
        budget = self.memory_budget
        if budget is None and group is not None:
            budget = 0  # with one, keys are not computed while others arrive
        return {
            "group": group,
            "backend": self.backend,
            "memory_budget": budget,
            "unit_norm": self.normalize,
            "precision": self._rounding(),
        }

    def _rounding(self) -> str:
        """Precision of this call: under autocast on a GPU the embeddings are already rounded."""
        if self.precision != "auto":
            return self.precision
        return "half" if torch.is_autocast_enabled("cuda") else "exact"

    def prepare(self, x: Tensor) -> Tensor:
        """Embeddings in at least float32, L2-normalised if `normalize`."""
        return unit(x) if self.normalize else at_least_float32(x)

    def runs_plain(self, query: Tensor, key: Tensor, kind: Kind) -> bool:
        """Whether plain torch computes this loss, without the checks of the public functions.

        Args:
            query: (N, D) from `prepare`.
            key: (M, D) from `prepare`.
            kind: see `common.kernels.crossover`.
        """
        if query.ndim != 2 or (self.gather and default_group() is not None):
            return False
        return prefers_plain(query, key, kind, self.backend)

    def extra_repr(self) -> str:
        """Options, for printing."""
        hidden = {"training"}
        public = {k: v for k, v in vars(self).items() if k[0] != "_" and k not in hidden}
        return ", ".join(f"{name}={value!r}" for name, value in public.items())


def check_fraction(name: str, value: float) -> None:
    """Raise ValueError unless the value is in [0, 1)."""
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be in [0, 1), got {value}")
