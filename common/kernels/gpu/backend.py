"""The Triton back end: the functions that `problem` lists, and the shapes of what it keeps."""

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from common.kernels.core.problem import Problem
from common.kernels.gpu import run_pairs, run_rows, run_softplus
from common.kernels.gpu.launch import dense_products, unsupported
from common.kernels.gpu.run_pairs import kept_shapes
from common.kernels.gpu.run_rows import fuses_rows

__all__ = [
    "backward", "forward", "fuses_rows", "info_nce_rows", "kept_shapes", "softplus_backward",
    "softplus_forward", "softplus_fused", "unsupported",
]  # fmt: skip

P = ParamSpec("P")
R = TypeVar("R")


def _rounded(run: Callable[Concatenate[Problem, P], R]) -> Callable[Concatenate[Problem, P], R]:
    """The same with the library's products at the problem's precision."""

    @wraps(run)
    def at_precision(problem: Problem, *args: P.args, **kwargs: P.kwargs) -> R:
        with dense_products(problem):
            return run(problem, *args, **kwargs)

    return at_precision  # type: ignore[return-value]  # the name of the first argument


forward = _rounded(run_pairs.forward)
backward = _rounded(run_pairs.backward)
info_nce_rows = _rounded(run_rows.info_nce_rows)
softplus_forward = _rounded(run_softplus.softplus_forward)
softplus_backward = _rounded(run_softplus.softplus_backward)
softplus_fused = _rounded(run_softplus.softplus_fused)
