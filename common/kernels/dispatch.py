"""Choice of the back end: dense for small problems, Triton on CUDA, else blocked torch.

The choice of ``backend="auto"`` is announced once per process and kind; an explicit back end that
cannot run raises with the reason instead of falling back.
"""

import logging
from types import ModuleType
from typing import Literal, get_args

import torch

from common.kernels.blocked import sweep as blocked
from common.kernels.core.problem import Problem

Backend = Literal["auto", "dense", "blocked", "triton"]

DENSE_PAIRS = 2**18  # up to this many pairs the whole matrix is cheaper than any loop

_log = logging.getLogger(__name__)
_announced: set[str] = set()


def choose(problem: Problem, backend: str, tiled: bool = False) -> str:
    """The back end that runs a problem: "dense" (unless `tiled`), "blocked" or "triton".

    Raises:
        ValueError: for an unknown name, or "triton" where it cannot run (with the reason).
    """
    if backend not in get_args(Backend):
        raise ValueError(f"backend must be one of {get_args(Backend)}, got {backend!r}")
    if backend == "triton":
        reason = _triton_reason(problem)
        if reason is not None:
            raise ValueError(f"backend='triton' is impossible here: {reason}")
    if backend != "auto":
        return backend
    if not tiled and problem.num_rows * problem.num_cols <= DENSE_PAIRS:
        return _announce("dense", "small problem")
    if problem.q.device.type != "cuda":
        return _announce("blocked", f"device {problem.q.device.type}")
    reason = _triton_reason(problem)
    return _announce("triton", "CUDA") if reason is None else _announce("blocked", reason)


def tiled_module(backend: str) -> ModuleType:
    """The module of a tiled back end, see `problem` for its functions."""
    if backend == "triton":
        from common.kernels.gpu import backend as triton_backend  # imports triton: only on demand

        return triton_backend
    return blocked


def _triton_reason(problem: Problem) -> str | None:
    try:
        from common.kernels.gpu import backend as triton_backend
    except ImportError as error:
        return f"Triton cannot be imported ({error})"
    reason: str | None = triton_backend.unsupported(problem)
    return reason


def _announce(backend: str, reason: str) -> str:
    if backend not in _announced and not torch.compiler.is_compiling():
        _announced.add(backend)
        _log.info("contrastive kernels: using the %s back end (%s)", backend, reason)
    return backend
