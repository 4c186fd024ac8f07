"""Monitors: do languages fall apart, and does the batch tell what belongs together?

Legend: B pairs, D dimension.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from common.evaluation.search import search
from common.losses.output import full_precision
from projects.ccp.head import PairHead


@torch.no_grad()
def separation(vectors: Tensor, languages: Tensor) -> dict[str, Tensor]:
    """Distance of language means against the variance within languages, of unit vectors.

    Collapse to language identity shows as a large ``language_distance`` and a small
    ``within_variance``.

    Source: Wu et al. 2022, arXiv 2206.03281 (collapse of a shared bank).

    Args:
        vectors: (N, D).
        languages: (N,) int64; negative rows are left out.

    Returns:
        ``within_variance``: sum over dimensions, mean over languages; ``language_distance``: mean
        squared distance of two means, 0 with fewer than two languages.
    """
    unit = F.normalize(vectors.float(), dim=1)
    means, within = [], []
    for language in sorted({*languages[languages >= 0].tolist()}):
        rows = unit[languages == language]
        means.append(rows.mean(0))
        within.append((rows - means[-1]).square().sum(1).mean())
    if not means:
        zero = unit.new_zeros(())
        return {"within_variance": zero, "language_distance": zero}
    stack = torch.stack(means)
    pairs = len(means) * (len(means) - 1)
    squared = torch.cdist(stack, stack).square().sum()
    return {
        "within_variance": torch.stack(within).mean(),
        "language_distance": squared / pairs if pairs else squared,
    }


def other_language_share(vectors: Sequence[Tensor], k: int = 10) -> float:
    """Share of sentences of other languages among the nearest ones, of equally large samples.

    Args:
        vectors: (N, D) of each language.
        k: neighbours.
    """
    every = torch.cat(list(vectors))
    label = torch.cat([torch.full((len(rows),), i) for i, rows in enumerate(vectors)])
    neighbours = search(every, every, k, exclude=torch.arange(len(every))).indices
    return float((label[neighbours] != label[:, None]).float().mean())


@full_precision
@torch.no_grad()
def batch_hits(center: Tensor, context: Tensor) -> Tensor:
    """Whether each centre is nearest to its own context among those of the batch, (B,) float.

    Only values of equal B can be held against each other.

    Args:
        center: (B, D), any length.
        context: (B, D), row i belongs to ``center[i]``.

    >>> batch_hits(torch.eye(2), torch.tensor([[2.0, 0.0], [3.0, 1.0]])).tolist()
    [1.0, 1.0]
    """
    z = [F.normalize(x.float(), dim=1) for x in (center, context)]
    return ((z[0] @ z[1].T).argmax(1) == torch.arange(len(z[0]), device=z[0].device)).float()


@torch.no_grad()
def leakage(
    head: PairHead, center: Tensor, context: Tensor, batch_size: int = 64
) -> dict[str, float]:
    """Accuracy of held-out pairs with the statistics of their batch, and without.

    The context of a sentence is looked for among those of a batch. What batch statistics add over
    running ones is information about the batch.

    Args:
        head: of the training; is not changed.
        center: (N, F) states.
        context: (N, F).
        batch_size: pairs; a rest is left out.

    Returns:
        ``accuracy_batch`` (as in training), ``accuracy_single`` (running statistics, as of
        single-sentence batches) and ``leakage``, their difference.
    """
    probe = copy.deepcopy(head)
    metrics = {}
    for name, training in (("accuracy_single", False), ("accuracy_batch", True)):
        probe.train(training)
        hits = []
        for start in range(0, len(center) - batch_size + 1, batch_size):
            rows = slice(start, start + batch_size)
            probe.load_state_dict(head.state_dict())  # the statistics of the training
            hits.append(batch_hits(*probe(center[rows], context[rows])))
        metrics[name] = float(torch.cat(hits).mean()) if hits else float("nan")
    metrics["leakage"] = metrics["accuracy_batch"] - metrics["accuracy_single"]
    return metrics
