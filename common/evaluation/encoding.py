"""Encode a collection once: evaluation mode, length sorting, progress."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from common.encoders.modes import evaluation_mode as evaluation_mode
from common.evaluation.matrices import blocks


class Progress(Protocol):
    """Anything that shows the progress of an iteration, such as ``Workspace.progress``."""

    def __call__(self, iterable: Iterable[slice], description: str, total: int) -> Iterable[slice]:
        """Yield the items of ``iterable``."""


def no_progress(iterable: Iterable[slice], description: str, total: int) -> Iterable[slice]:
    """Show nothing."""
    return iterable


def encode(
    encoder: Callable[[list[Any]], Tensor],
    items: Sequence[Any],
    *,
    batch_size: int = 64,
    length: Callable[[Any], int] | None = None,
    progress: Progress = no_progress,
    description: str = "encode",
) -> Tensor:
    """Embed ``items`` in batches of similar length and return them in the given order.

    Args:
        encoder: list of B items -> (B, D), model in evaluation mode (see `evaluation_mode`).
        items: N texts, images, ...
        batch_size: items per call.
        length: sort key, for instance ``len`` for texts; longest first, so that a lack of memory
            shows in the first batch. ``None`` keeps the order.
        progress: wraps the loop over batches.
        description: label of the progress bar.

    Returns:
        (N, D) on the CPU, dtype of the encoder (half becomes float32).

    Raises:
        ValueError: no items, or the encoder gives another number of rows.

    Distributed: local.
    """
    if not items:
        raise ValueError("there is nothing to encode")
    order = list(range(len(items)))
    if length is not None:
        order.sort(key=lambda i: -length(items[i]))
    batches = list(blocks(len(order), batch_size))
    embeddings = torch.empty(0)
    with torch.no_grad():
        for part in progress(batches, description, len(batches)):
            batch = [items[i] for i in order[part]]
            rows = encoder(batch)
            if rows.ndim != 2 or len(rows) != len(batch):
                raise ValueError(
                    f"the encoder gave {tuple(rows.shape)} for {len(batch)} items, not (B, D)"
                )
            if not len(embeddings):  # filled in place: there is no second copy at any time
                dtype = rows.dtype if rows.dtype == torch.float64 else torch.float32
                embeddings = torch.empty(len(order), rows.shape[1], dtype=dtype)
            embeddings[torch.tensor(order[part])] = rows.detach().cpu().to(embeddings.dtype)
    return embeddings


def encode_texts(
    encoder: Callable[[list[str]], Tensor],
    texts: Sequence[str],
    *,
    batch_size: int = 64,
    progress: Progress = no_progress,
) -> Tensor:
    """`encode` of texts sorted by length.

    Args:
        encoder: list of B texts -> (B, D), model in evaluation mode.
        texts: N texts.
        batch_size: texts per call.
        progress: wraps the loop over batches.
    """
    return encode(encoder, texts, batch_size=batch_size, length=len, progress=progress)
