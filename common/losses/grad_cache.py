"""Gradient cache: a loss on the embeddings of a large batch, in the memory of a small one."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten
from torch.utils.checkpoint import checkpoint


def cached_encode(encoder: Callable[[Any], Any], batch: Any, chunk_size: int) -> Any:
    """Encode a batch chunk by chunk and store only the embeddings.

    Autograd treats the result like the output of one large forward pass, but no activations are
    stored. The backward pass encodes every chunk a second time, with the random state of its first
    pass, and computes its share of the gradient:

        dL/dtheta = sum_c (d z_c / d theta)^T dL/dz_c,   z = [z_1, ..., z_C]

    The cost is one more forward pass; peak memory holds the activations of one chunk. The loss sees
    all embeddings at once, hence all negatives. Call it once for each tower.

    Source: Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited
    Setup", section 3.2, arXiv 2101.06983.

    Args:
        encoder: maps a chunk to a tensor with one row per sample, or to a tuple or dict of such
            tensors. It must be a function of the chunk, the parameters and torch's random state.
        batch: a tensor (B, ...), or nested tuples, lists and dicts of them; all with the same B.
            Every chunk gets other leaves, and tensors without dimensions, unchanged.
        chunk_size: rows per chunk, >= 1; B need not be a multiple.

    Returns:
        What `encoder` returns for the whole batch, rows in their order.

    Raises:
        ValueError: `chunk_size` < 1, no tensor with rows in `batch`, or leaves with different row
            counts.

    Distributed: local. Parameters receive their gradient once per backward pass, after the last
        chunk, so DDP reduces once and needs no `no_sync`; the loss gathers. The backward pass
        restores autocast, and a gradient scaler works as usual.

    Deviation: the paper runs the encoder without a graph and calls `backward` once per chunk; here
        each chunk is one activation checkpoint, which is the same arithmetic in one ordinary
        backward pass. Batch statistics (BatchNorm) are those of a chunk and are updated twice.

    >>> layer = torch.nn.Linear(4, 2)
    >>> cached_encode(layer, torch.ones(5, 4), chunk_size=2).shape
    torch.Size([5, 2])
    """
    outputs = [
        (
            checkpoint(encoder, chunk, use_reentrant=False, preserve_rng_state=True)
            if torch.is_grad_enabled()
            else encoder(chunk)
        )
        for chunk in split_rows(batch, chunk_size)
    ]
    return tree_map(lambda *rows: torch.cat(rows), *outputs)


def split_rows(batch: Any, chunk_size: int) -> list[Any]:
    """Split all tensors of a nested batch into chunks of `chunk_size` rows.

    Args:
        batch: see `cached_encode`.
        chunk_size: rows per chunk, >= 1.

    Returns:
        Batches of the same structure; the last may be shorter. A batch without rows gives one empty
        batch.

    Raises:
        ValueError: as `cached_encode`.
    """
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be >= 1, got {chunk_size}")
    num_rows = {len(leaf) for leaf in tree_leaves(batch) if _has_rows(leaf)}
    if len(num_rows) != 1:
        raise ValueError(
            "a batch to be cached needs tensors with one common number of rows, "
            f"found {sorted(num_rows) or 'no tensor'}"
        )
    leaves, structure = tree_flatten(batch)
    return [
        tree_unflatten(
            [x[start : start + chunk_size] if _has_rows(x) else x for x in leaves], structure
        )
        for start in range(0, max(1, num_rows.pop()), chunk_size)
    ]


def _has_rows(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.ndim > 0
