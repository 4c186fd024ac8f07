"""Pictures of a report: maps of embeddings and galleries of nearest neighbours."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from common.evaluation.matrices import as_labels, as_matrix


def principal_components(x: Tensor, num_components: int = 2) -> Tensor:
    """Coordinates on the leading principal components, each with its largest loading positive.

    Args:
        x: (N, D).
        num_components: K <= min(N, D).

    Returns:
        (N, K) float64.

    >>> principal_components(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), 1).tolist()
    [[1.0], [-1.0]]
    """
    centred = as_matrix(x, "x").double()
    centred = centred - centred.mean(dim=0)
    _, _, axes = torch.linalg.svd(centred, full_matrices=False)
    axes = axes[:num_components]
    largest = axes.abs().argmax(dim=1, keepdim=True)
    coordinates: Tensor = centred @ (axes * axes.gather(1, largest).sign()).T
    return coordinates


def embedding_map(
    features: Tensor, labels: Tensor, class_names: Sequence[str], title: str = ""
) -> Any:
    """Figure of the unit features on their two leading principal components, coloured by class.

    Args:
        features: (N, D).
        labels: (N,) int in [0, C).
        class_names: C names for the legend.
        title: printed above.

    Returns:
        A matplotlib figure for ``Workspace.figure``.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    labels = as_labels(labels, len(features), "labels", len(class_names))
    points = principal_components(F.normalize(features.float(), dim=1)).numpy()
    points = np.pad(points, ((0, 0), (0, 2 - points.shape[1])))  # of a single sample
    figure = Figure(figsize=(6, 4.5))
    axes = figure.subplots()
    colours = colormaps["tab10" if len(class_names) <= 10 else "nipy_spectral"]
    for c, name in enumerate(class_names):
        members = points[(labels == c).numpy()]
        colour = colours(c if len(class_names) <= 10 else c / len(class_names))
        axes.scatter(members[:, 0], members[:, 1], s=6, color=colour, label=name, linewidths=0)
    axes.set_title(title)
    axes.set_xlabel("first principal component")
    axes.set_ylabel("second")
    if len(class_names) <= 20:
        axes.legend(fontsize=7, markerscale=2, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def class_gallery(
    query: tuple[Tensor, Tensor],
    gallery: tuple[Tensor, Tensor],
    query_picture: Callable[[int], Any],
    gallery_picture: Callable[[int], Any],
    *,
    num_queries: int = 8,
    num_results: int = 6,
) -> list[dict[str, Any]]:
    """Nearest neighbours of some items, right where the class agrees, for ``Workspace.gallery``.

    Args:
        query: features (Q, D) and labels (Q,).
        gallery: features (G, D) and labels (G,).
        query_picture: PIL image of a query by index.
        gallery_picture: PIL image of a gallery item by index.
        num_queries: rows, evenly spaced over the queries.
        num_results: neighbours by cosine in each row, at most G.
    """
    pool = F.normalize(gallery[0].float(), dim=1)
    count = min(num_queries, len(query[0]))
    rows = []
    for q in range(0, len(query[0]) // count * count, len(query[0]) // count):
        best = (pool @ F.normalize(query[0][q].float(), dim=0)).topk(min(num_results, len(pool)))
        results = [
            {
                "item": gallery_picture(i),
                "score": score,
                "correct": bool(gallery[1][i] == query[1][q]),
            }
            for score, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]
        rows.append({"query": query_picture(q), "results": results})
    return rows


def score_figure(predicted: Sequence[float], gold: Sequence[float], title: str) -> Any:
    """Predicted against gold similarity of sentence pairs, one dot per pair."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5, 3.5))
    axes = figure.subplots()
    axes.scatter(gold, predicted, s=4, alpha=0.4)
    axes.set_xlabel("gold score")
    axes.set_ylabel("cosine")
    axes.set_title(title)
    return figure
