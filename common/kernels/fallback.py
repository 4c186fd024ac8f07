"""Fallback for losses that no spec describes: arbitrary torch code on row blocks, recomputed."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

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
