"""N-way K-shot classification by the nearest class mean."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from common.evaluation.matrices import as_labels, as_matrix, exact_math


def few_shot_class_mean(
    features: Tensor,
    labels: Tensor,
    *,
    ways: int = 5,
    shots: int = 5,
    queries: int = 15,
    episodes: int = 600,
    seed: int = 0,
) -> dict[str, float]:
    """Accuracy of nearest-class-mean classification over random episodes.

    Each episode draws ``ways`` classes and of each ``shots + queries`` distinct samples. A class
    is represented by the mean of its unit support features; a query goes to the class with the
    largest cosine. A query whose own class ties with another counts as wrong.
    Source: Snell et al. 2017, "Prototypical Networks", eq. 1, arXiv 1703.05175 (the class mean;
    cosine instead of Euclidean distance, no training).

    Args:
        features: (N, D) frozen features.
        labels: (N,) int >= 0; every class that occurs needs ``shots + queries`` samples.
        ways: classes per episode.
        shots: support samples per class.
        queries: query samples per class.
        episodes: number of episodes; episode e is the same for any larger number.
        seed: of the draw.

    Returns:
        ``few_shot_top1`` (mean over episodes), ``few_shot_top1_ci95`` (half width of the normal
        95% interval of that mean, 0 for one episode) and ``few_shot_top1_chance``.

    Raises:
        ValueError: shapes do not fit, too few classes, or a class with too few samples.

    Distributed: local.

    >>> x = torch.eye(2).repeat_interleave(4, dim=0)
    >>> y = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    >>> few_shot_class_mean(x, y, ways=2, shots=1, queries=2, episodes=3)["few_shot_top1"]
    1.0
    """
    features = F.normalize(as_matrix(features, "features"), dim=1)
    labels = as_labels(labels, len(features), "labels").cpu()
    if min(ways - 1, shots, queries, episodes) < 1:
        raise ValueError("few-shot needs ways >= 2 and shots, queries, episodes >= 1")
    members = [np.flatnonzero(labels.numpy() == c) for c in np.unique(labels.numpy())]
    if len(members) < ways:
        raise ValueError(f"{ways}-way episodes need {ways} classes, the data have {len(members)}")
    smallest = min(map(len, members))
    if smallest < shots + queries:
        raise ValueError(
            f"a class has {smallest} samples, but {shots} shots + {queries} queries are drawn "
            "without replacement; lower one of them"
        )
    accuracy = np.empty(episodes)
    with exact_math(features.device):
        for episode in range(episodes):
            rng = np.random.default_rng((seed, episode))
            classes = rng.choice(len(members), ways, replace=False)
            drawn = [rng.choice(members[c], shots + queries, replace=False) for c in classes]
            index = torch.from_numpy(np.stack(drawn))
            accuracy[episode] = _episode(features[index], shots)
    spread = float(accuracy.std(ddof=1)) if episodes > 1 else 0.0
    return {
        "few_shot_top1": float(accuracy.mean()),
        "few_shot_top1_ci95": 1.96 * spread / episodes**0.5,
        "few_shot_top1_chance": 1 / ways,
    }


def _episode(features: Tensor, shots: int) -> float:
    """Accuracy of one episode; features (ways, shots + queries, D), unit rows."""
    ways = len(features)
    prototypes = F.normalize(features[:, :shots].mean(dim=1), dim=1)
    scores = features[:, shots:] @ prototypes.T  # (ways, queries, ways)
    right = torch.arange(ways, device=scores.device)[:, None, None].expand(-1, scores.shape[1], 1)
    rival = scores.scatter(2, right, -float("inf")).amax(dim=2)
    margin = 1e-12 if scores.dtype == torch.float64 else 1e-6
    return float((scores.gather(2, right)[..., 0] > rival + margin).double().mean())
