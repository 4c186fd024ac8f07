"""Encode a collection once: evaluation mode, length sorting, progress, restartable cache."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from common.data.offline import claim, content_digest
from common.encoders.modes import evaluation_mode as evaluation_mode
from common.evaluation.matrices import blocks
from common.files import write_bytes


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
    parts = []
    with torch.no_grad():
        for part in progress(batches, description, len(batches)):
            batch = [items[i] for i in order[part]]
            rows = encoder(batch)
            if rows.ndim != 2 or len(rows) != len(batch):
                raise ValueError(
                    f"the encoder gave {tuple(rows.shape)} for {len(batch)} items, not (B, D)"
                )
            parts.append(rows.detach().cpu())
    embeddings = torch.cat(parts)
    embeddings = embeddings if embeddings.dtype == torch.float64 else embeddings.float()
    restored = torch.empty_like(embeddings)
    restored[torch.tensor(order)] = embeddings
    return restored


def encode_texts(
    encoder: Callable[[list[str]], Tensor],
    texts: Sequence[str],
    *,
    batch_size: int = 64,
    progress: Progress = no_progress,
    cache: Path | None = None,
    model_key: str = "",
    shard_size: int = 50_000,
) -> Tensor:
    """Embed texts sorted by length; with ``cache``, a broken run resumes after the last shard.

    Args:
        encoder: list of B texts -> (B, D), model in evaluation mode.
        texts: N texts.
        batch_size: texts per call.
        progress: wraps the loop over batches.
        cache: folder for finished shards, one per collection and model.
        model_key: names weights and settings of the encoder (checkpoint hash, pooling, prompt);
            needed with ``cache``, since old embeddings of another model must not be used.
        shard_size: texts per shard.

    Returns:
        (N, D) on the CPU.

    Raises:
        UserError: the cache was made for other texts, another ``model_key`` or ``shard_size``.
        ValueError: no texts, ``cache`` without ``model_key``, or as `encode`.

    Distributed: local.
    """
    if cache is None:
        return encode(encoder, texts, batch_size=batch_size, length=len, progress=progress)
    if not model_key or not texts:
        raise ValueError("a cache needs texts and a model_key that names the encoder's weights")
    owner = {"texts": content_digest(texts), "model": model_key, "shard_size": shard_size}
    claim(cache, owner, "embedding cache")
    shards = []
    for number, part in enumerate(blocks(len(texts), shard_size)):
        path = cache / f"shard-{number:05d}.safetensors"
        if not path.is_file():
            rows = encode(
                encoder,
                texts[part],
                batch_size=batch_size,
                length=len,
                progress=progress,
                description=f"encode {part.stop}/{len(texts)}",
            )
            write_bytes(path, save({"embeddings": rows}))
        shards.append(load_file(path)["embeddings"])
    return torch.cat(shards)
