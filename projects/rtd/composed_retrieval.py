"""Composed image retrieval: recall without the reference, within a subset, and mAP.

# Q queries, G gallery, P image embeddings, D joint space
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from common.evaluation.matrices import as_pair
from common.evaluation.retrieval.cross_modal import relevant_ranks
from common.evaluation.retrieval.ranking import average_precision
from common.evaluation.search import search
from projects.rtd.composed_sets import ComposedQuery, ComposedSet

RECALL_KS = {"fashioniq": (10, 50), "cirr": (1, 5, 10, 50), "circo": (5, 10, 25, 50), "genecis": ()}
SUBSET_KS = (1, 2, 3)
MAP_KS = (5, 10, 25, 50)
SUBMITTED = 50  # pictures a query of a server's file
EncodeImages = Callable[[Sequence[Any]], Tensor]  # PIL images -> (N, D), not normalised
# image embeddings of references (N, D) and a text each -> composed embeddings (N, D)
Compose = Callable[[Tensor, Sequence[str]], Tensor]


def recall_at(ranks: Tensor, ks: Sequence[int]) -> dict[str, float]:
    """Share of queries whose answer is among the first k.

    >>> recall_at(torch.tensor([1, 3]), (1, 5))
    {'recall_at_1': 0.5, 'recall_at_5': 1.0}
    """
    return {f"recall_at_{k}": float((ranks <= k).double().mean()) for k in ks}


def subset_ranks(
    query: Tensor, gallery: Tensor, subsets: Sequence[Sequence[int]], targets: Sequence[int]
) -> Tensor:
    """Rank of each target among the pictures of its subset, counted from 1; ties count against it.

    Args:
        query: (Q, D), L2-normalised.
        gallery: (G, D), L2-normalised.
        subsets: gallery places for each query, the target among them.
        targets: gallery places.

    Raises:
        ValueError: a target that its subset lacks, or rows with NaN or infinity.
    """
    query, gallery = as_pair(query, gallery, "dot")  # their lengths stay as they are
    ranks = torch.empty(len(query), dtype=torch.long)
    for i, (places, target) in enumerate(zip(subsets, targets, strict=True)):
        if target not in places:
            raise ValueError(f"the target of query {i} is not in its subset")
        scores = gallery[torch.tensor(list(places))] @ query[i]
        target_score = scores[list(places).index(target)]
        ranks[i] = int((scores >= target_score).sum())
    return ranks


def mean_average_precision(
    rankings: Sequence[Sequence[int]], relevant: Sequence[Sequence[int]], k: int
) -> float:
    """mAP@k of CIRCO: precision at every hit among the first k, over min(answers, k).

    Source: Baldrati et al. 2023, arXiv 2303.15247.

    Args:
        rankings: ranked gallery places for each query, at least k where the gallery has as many.
        relevant: right ones for each query, at least one.
        k: cut-off.

    >>> mean_average_precision([[4, 7, 5]], [[4, 5]], 5)  # (1 + 2/3) / 2
    0.8333333333333333
    """
    values = [
        average_precision(np.isin(row, right), len(right), k, capped=True)
        for row, right in zip(rankings, relevant, strict=True)
    ]
    return float(np.mean(values))


@torch.no_grad()
def compose_queries(
    queries: Sequence[ComposedQuery], references: Tensor, compose: Compose, batch_size: int = 64
) -> Tensor:
    """Unit composed embeddings; of several wordings the mean of unit embeddings, normalised.

    Args:
        queries: Q, each with equally many texts.
        references: (Q, D) image embeddings of their references, not normalised.
        compose: see `Compose`.
        batch_size: queries per call.

    Returns:
        (Q, D) float32 on the CPU, as galleries are, whatever `compose` runs on.
    """
    parts = []
    for start in range(0, len(queries), batch_size):
        rows = slice(start, start + batch_size)
        wordings = zip(*(query.texts for query in queries[rows]), strict=True)
        units = [F.normalize(compose(references[rows], list(texts)), dim=1) for texts in wordings]
        parts.append(F.normalize(torch.stack(units).mean(0), dim=1).float().cpu())
    return torch.cat(parts)


def composed_metrics(data: ComposedSet, query: Tensor, gallery: Tensor) -> dict[str, float]:
    """The official figures of a set, without its name before them.

    Args:
        data: queries with targets.
        query: (Q, D) composed embeddings, L2-normalised.
        gallery: (G, D), L2-normalised, in the order of ``data.gallery``.

    Returns:
        ``recall_at_k``; with subsets ``subset_recall_at_k``; for CIRCO ``map_at_k``. In [0, 1].

    Raises:
        ValueError: queries without targets.
    """
    place = {name: i for i, name in enumerate(data.gallery)}
    family = data.name.split("_")[0]
    if not all(q.targets for q in data.queries):
        raise ValueError(f"{data.name}: targets are not public; write a submission instead")
    targets = [place[q.targets[0]] for q in data.queries]
    metrics: dict[str, float] = {}
    if RECALL_KS.get(family, (1, 5, 10)):
        exclude = [[place[q.reference]] if data.exclude_reference else [] for q in data.queries]
        ranks = relevant_ranks(query, gallery, [[t] for t in targets], exclude=exclude)
        metrics |= recall_at(ranks, RECALL_KS.get(family, (1, 5, 10)))
    if all(q.subset for q in data.queries):
        subsets = [[place[name] for name in q.subset] for q in data.queries]
        subset_recalls = recall_at(subset_ranks(query, gallery, subsets, targets), SUBSET_KS)
        prefix = "" if family == "genecis" else "subset_"
        metrics |= {f"{prefix}{name}": value for name, value in subset_recalls.items()}
    if family == "circo":
        k = min(max(MAP_KS), len(gallery))
        best = search(query, gallery, k).indices.tolist()
        relevant = [[place[name] for name in q.targets] for q in data.queries]
        metrics |= {f"map_at_{k}": mean_average_precision(best, relevant, k) for k in MAP_KS}
    return metrics


def evaluate_composed(
    data: ComposedSet,
    encode_images: EncodeImages,
    compose: Compose,
    *,
    gallery: Tensor | None = None,
    batch_size: int = 64,
) -> tuple[dict[str, float], Tensor, Tensor]:
    """Embed a set's pictures and queries, and measure.

    Args:
        data: the set.
        encode_images: the frozen image tower, see `EncodeImages`.
        compose: see `Compose`.
        gallery: (G, D) embeddings of an earlier call, not normalised; they do not depend on the
            text tower.
        batch_size: pictures or queries per call.

    Returns:
        Metrics (none if targets are not public), unit queries (Q, D), and the gallery (G, D), not
        normalised.
    """
    if gallery is None:
        gallery = _encoded(data, data.gallery, encode_images, batch_size)
    place = {name: i for i, name in enumerate(data.gallery)}
    outside = sorted({q.reference for q in data.queries} - place.keys())
    everything = gallery
    if outside:  # FashionIQ and GeneCIS: a reference that is not searched
        everything = torch.cat([gallery, _encoded(data, outside, encode_images, batch_size)])
        place |= {name: len(gallery) + i for i, name in enumerate(outside)}
    references = everything[torch.tensor([place[q.reference] for q in data.queries])]
    query = compose_queries(data.queries, references, compose, batch_size)
    public = all(q.targets for q in data.queries)
    metrics = composed_metrics(data, query, F.normalize(gallery, dim=1)) if public else {}
    return metrics, query, gallery


def submission(data: ComposedSet, query: Tensor, gallery: Tensor) -> dict[str, dict[str, Any]]:
    """What the test servers of CIRR and CIRCO take.

    Args:
        data: cirr or circo.
        query: (Q, D), L2-normalised.
        gallery: (G, D), any length of rows.

    Returns:
        File name -> JSON content.
    """
    place = {name: i for i, name in enumerate(data.gallery)}
    units = F.normalize(gallery, dim=1)
    exclude = [[place[q.reference]] if data.exclude_reference else [] for q in data.queries]
    most = min(SUBMITTED, len(units) - int(data.exclude_reference))
    ranked = search(query, units, most, exclude=exclude).indices.tolist()
    names = {
        q.id: [data.gallery[i] for i in row] for q, row in zip(data.queries, ranked, strict=True)
    }
    if data.name != "cirr":
        return {"circo.json": {key: [int(n) for n in row] for key, row in names.items()}}
    subset = {}
    for i, q in enumerate(data.queries):
        scores = units[torch.tensor([place[name] for name in q.subset])] @ query[i]
        order = scores.argsort(descending=True, stable=True)[:3].tolist()
        subset[q.id] = [q.subset[j] for j in order]
    return {
        "cirr_recall.json": {"version": "rc2", "metric": "recall", **names},
        "cirr_subset.json": {"version": "rc2", "metric": "recall_subset", **subset},
    }


@torch.no_grad()
def _encoded(
    data: ComposedSet, names: Sequence[str], encode_images: EncodeImages, batch_size: int
) -> Tensor:
    rows = range(0, len(names), batch_size)
    return torch.cat(
        [
            encode_images([data.open(n) for n in names[i : i + batch_size]]).float().cpu()
            for i in rows
        ]
    )
