"""Choice of the back end: dense for small problems, Triton on CUDA, else blocked torch.

Transforms of `torch.func` and forward-mode differentiation run dense at any size.

The choice of ``backend="auto"`` is announced once per process and kind; an explicit back end that
cannot run raises with the reason instead of falling back.
"""

import logging
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import ModuleType
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .blocked import sweep as blocked
from .core.problem import Problem
from .crossover import Kind, needs_plain, plain_pairs

Backend = Literal["auto", "dense", "blocked", "triton"]


class BackendError(ValueError):
    """A back end that was asked for by name cannot run on this device or these inputs."""


_log = logging.getLogger(__name__)
_announced: set[str] = set()


def choose(problem: Problem, backend: str, tiled: bool = False, kind: Kind | None = None) -> str:
    """The back end that runs a problem: "dense" (unless `tiled`), "blocked" or "triton".

    Args:
        problem: what is to be computed.
        backend: asked for.
        tiled: the rows are sharded, which the dense form is not.
        kind: of the loss, for `plain_pairs`; None is read off the problem.

    Raises:
        ValueError: for an unknown name, "triton" where it cannot run (with the reason), or a
            transform where only tiles would do.
    """
    if backend not in get_args(Backend):
        raise ValueError(f"backend must be one of {get_args(Backend)}, got {backend!r}")
    if needs_plain():
        if tiled or backend in ("blocked", "triton"):
            raise ValueError(
                "torch.func transforms and forward-mode differentiation run on one process with "
                f"backend='auto' or 'dense'; got backend={backend!r}"
                + (" on several ranks" if tiled else "")
            )
        return "dense"
    if backend == "triton":
        reason = _triton_reason(problem)
        if reason is not None:
            raise BackendError(f"backend='triton' is impossible here: {reason}")
    if backend != "auto":
        return backend
    kind = kind or problem.kind
    limit = plain_pairs(problem.q.device.type, kind, problem.q.shape[1])
    if not tiled and problem.num_rows * problem.num_cols <= limit:
        return _announce("dense", "small problem")
    if problem.q.device.type != "cuda":
        return _announce("blocked", f"device {problem.q.device.type}")
    reason = _triton_reason(problem) or _toolchain_reason()
    if reason is None:
        return _announce("triton", "CUDA")
    return _announce("blocked", reason, logging.WARNING)


def tiled_module(backend: str) -> ModuleType:
    """The module of a tiled back end, see `problem` for its functions."""
    if backend == "triton":
        from .gpu import backend as triton_backend  # imports triton: only on demand

        return triton_backend
    return blocked


def _triton_reason(problem: Problem) -> str | None:
    try:
        from .gpu import backend as triton_backend
    except ImportError as error:
        return f"Triton cannot be imported ({error})"
    reason: str | None = triton_backend.unsupported(problem)
    return reason


@lru_cache
def _toolchain_reason() -> str | None:
    from .gpu.toolchain import unmet

    lacks = unmet()
    return f"Triton needs {lacks}; the fused kernels would be faster" if lacks else None


def _announce(backend: str, reason: str, level: int = logging.INFO) -> str:
    if backend not in _announced and not torch.compiler.is_compiling():
        _announced.add(backend)
        _log.log(level, "contrastive kernels: using the %s back end (%s)", backend, reason)
    return backend


# --- losses that no spec describes: torch code on row blocks, recomputed --------------------------

_BLOCK_PAIRS = 2**22  # pairs per block unless block_rows is given


def blocked_autograd(
    tile_fn: Callable[..., Tensor],
    q: Tensor,
    k: Tensor,
    side: Mapping[str, Tensor] | None = None,
    block_rows: int | None = None,
) -> Tensor:
    """Apply `tile_fn` to blocks of queries against all keys; O(block * M) memory, exact gradients.

    Args:
        tile_fn: ``tile_fn(q_block (R, D), k (M, D), **side_block) -> (R, ...)``; run twice, so it
            must not be random unless through torch's generators.
        q: (N, D) queries.
        k: (M, D) keys.
        side: name -> (N, ...) tensors, sliced with the queries and passed by keyword.
        block_rows: R; default so that a block has about 4 M pairs.

    Returns:
        (N, ...): the blocks' results.

    Raises:
        ValueError: if a side tensor does not have N rows or `block_rows` is not positive.

    Distributed: local.

    >>> z = torch.eye(3)
    >>> blocked_autograd(lambda q, k: (q @ k.T).sum(1), z, z, block_rows=2)
    tensor([1., 1., 1.])
    """
    num_rows, side = q.shape[0], dict(side or {})
    for name, value in side.items():
        if value.shape[0] != num_rows:
            raise ValueError(f"side[{name!r}] has {value.shape[0]} rows, expected {num_rows}")
    if block_rows is None:
        block_rows = max(1, _BLOCK_PAIRS // max(1, k.shape[0]))
    if block_rows < 1:
        raise ValueError(f"block_rows must be positive, got {block_rows}")
    parts = []
    for start in range(0, num_rows, block_rows):
        part = slice(start, start + block_rows)
        extra = {name: value[part] for name, value in side.items()}
        parts.append(_recomputed(tile_fn, q[part], k, extra))
    return torch.cat(parts)


def _recomputed(
    tile_fn: Callable[..., Tensor], q: Tensor, k: Tensor, side: Mapping[str, Tensor]
) -> Tensor:
    def block(q_RD: Tensor, k_MD: Tensor) -> Tensor:
        return tile_fn(q_RD, k_MD, **side)

    out: Tensor = checkpoint(block, q, k, use_reentrant=False)
    return out
