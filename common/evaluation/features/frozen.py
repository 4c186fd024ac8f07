"""Frozen features of in-memory images, computed once, and the probes on them."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from common.data.image.sources import ImageSource
from common.data.module import worker_context
from common.evaluation.encoding import encode, evaluation_mode
from common.evaluation.features.geometry import effective_rank, participation_ratio, uniformity
from common.evaluation.features.knn import accuracies, knn_correct
from common.evaluation.features.linear_probe import L2_GRID, ProbeScores, scored_linear_probe


def frozen_features(
    encoder: nn.Module,
    images: Tensor,
    normalise: Callable[[Tensor], Tensor],
    batch_size: int = 512,
) -> Tensor:
    """Features of images from the encoder in evaluation mode, which is left as it was.

    Args:
        encoder: images (B, 3, H, W) float32 -> (B, F).
        images: (N, 3, S, S) uint8.
        normalise: uint8 batch -> float batch, such as ``EvalTransform(size).batch``.
        batch_size: images per forward pass.

    Returns:
        (N, F) float32 on the CPU.

    Raises:
        ValueError: no images.

    Distributed: local.
    """
    device = next((p.device for p in encoder.parameters()), torch.device("cpu"))

    def run(rows: list[int]) -> Tensor:
        features: Tensor = encoder(normalise(images[torch.tensor(rows)]).to(device))
        return features.float()

    with evaluation_mode(encoder):
        return encode(run, range(len(images)), batch_size=batch_size)


class SourceBatches(Dataset[tuple[Tensor, list[int]]]):
    """Consecutive batches of a source, for loader processes."""

    def __init__(self, source: ImageSource, batch_size: int) -> None:
        self.source, self.batch_size = source, batch_size

    def __len__(self) -> int:
        return -(-len(self.source) // self.batch_size)

    def __getitem__(self, index: int) -> tuple[Tensor, list[int]]:
        start = index * self.batch_size
        rows = list(range(start, min(start + self.batch_size, len(self.source))))
        images, kept = self.source.load(rows)
        return images, [rows[position] for position in kept]


def source_outputs(
    network: Callable[[Tensor], Sequence[Tensor]],
    source: ImageSource,
    device: torch.device,
    *,
    batch_size: int = 512,
    num_workers: int = 0,
    progress: Callable[[Iterable[Any], str, int], Iterable[Any]] = lambda items, *_: items,
    name: str = "features",
) -> tuple[list[Tensor], Tensor]:
    """All outputs of a network for an image source, also one that reads files.

    Args:
        network: images (B, 3, H, W) float32 -> tensors (B, ...); already in evaluation mode.
        source: images by index with an evaluation transform; unreadable ones are left out.
        device: of the network.
        batch_size: images per forward pass.
        num_workers: loader processes.
        progress: wraps the loop over batches.
        name: what the progress bar says.

    Returns:
        One float32 tensor (K, ...) on the CPU for each output, and the K <= N indices that they
        belong to.

    Distributed: local.
    """
    batches = SourceBatches(source, batch_size)
    context = worker_context(num_workers)
    loader = DataLoader(
        batches, batch_size=None, num_workers=num_workers, multiprocessing_context=context
    )
    parts: list[list[Tensor]] = []
    kept: list[int] = []
    for images, rows in progress(loader, name, len(batches)):
        parts.append([output.float().cpu() for output in network(images.to(device))])
        kept += rows
    return [torch.cat(column) for column in zip(*parts, strict=True)], torch.tensor(kept)


def source_features(
    encoder: nn.Module,
    source: ImageSource,
    *,
    batch_size: int = 512,
    num_workers: int = 0,
    progress: Callable[[Iterable[Any], str, int], Iterable[Any]] = lambda items, *_: items,
) -> tuple[Tensor, Tensor]:
    """Features of an image source; the encoder is left as it was.

    Args:
        encoder: images (B, 3, H, W) float32 -> (B, F).
        source: see `source_outputs`; so are the following.
        batch_size: images per forward pass.
        num_workers: loader processes.
        progress: wraps the loop over batches.

    Returns:
        Features (K, F) float32 on the CPU, and the K <= N indices that they belong to.

    Distributed: local.
    """
    device = next((p.device for p in encoder.parameters()), torch.device("cpu"))
    with evaluation_mode(encoder):
        (features,), kept = source_outputs(
            lambda images: [encoder(images)],
            source,
            device,
            batch_size=batch_size,
            num_workers=num_workers,
            progress=progress,
        )
    return features, kept


def frozen_probes(
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    *,
    num_classes: int,
    ks: Sequence[int] = (20, 200),
    temperature: float = 0.1,
    probe: bool = True,
    l2_grid: Sequence[float] = L2_GRID,
    seed: int = 0,
) -> ProbeScores:
    """k-nearest-neighbour accuracy, linear probe and geometry of frozen features.

    Args:
        train: features (N, F) and labels (N,).
        test: features (M, F) and labels (M,).
        num_classes: C.
        ks: neighbourhood sizes; those above N are left out.
        temperature: of the weighted vote.
        probe: whether to fit the linear probe, the slowest part.
        l2_grid: strengths that the probe chooses from.
        seed: of the probe's validation split.

    Returns:
        The metrics of `knn_accuracy` and `linear_probe`, and ``uniformity``, ``effective_rank``
        and ``participation_ratio`` of the test features; the samples of the votes and the probe.

    Distributed: local.
    """
    usable = [k for k in ks if k <= len(train[0])]
    correct = knn_correct(
        *train, *test, ks=usable, temperature=temperature, num_classes=num_classes
    )
    metrics = accuracies(correct, num_classes)
    if probe:
        linear = scored_linear_probe(
            *train, *test, num_classes=num_classes, l2_grid=l2_grid, seed=seed
        )
        metrics |= linear.metrics
        correct |= linear.correct
    metrics["uniformity"] = uniformity(test[0])
    metrics["effective_rank"] = effective_rank(test[0])
    metrics["participation_ratio"] = participation_ratio(test[0])
    return ProbeScores(metrics, correct)
