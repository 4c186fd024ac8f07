"""How well classes are told apart in an embedding space: silhouette, and distances of centroids.

# N samples, D dims, C classes
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


def class_separation(x: Tensor, labels: Tensor) -> dict[str, float]:
    """Silhouette by cosine distance, and between- over within-class distance.

    With a_i the mean cosine distance to the other samples of the class and b_i the smallest mean
    distance to another class: ``silhouette = mean_i (b_i - a_i) / max(a_i, b_i)``.
    ``separation_ratio``:
    mean Euclidean distance between the classes' centroids over the mean distance of a sample to its
    centroid, on unit vectors.

    Sources: Rousseeuw 1987, section 2 (silhouette; by scikit-learn); the ratio as in Obadinma et
    al. 2023, section 5, arXiv 2303.02577, in our reading.

    Args:
        x: (N, D).
        labels: (N,), at least two classes and fewer classes than samples.

    Returns:
        ``silhouette`` in [-1, 1] and ``separation_ratio`` >= 0 (infinite where classes are points).

    Raises:
        ValueError: one class only, as many classes as samples, or other lengths.

    >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    >>> class_separation(x, torch.tensor([0, 0, 1, 1]))["silhouette"]
    1.0
    """
    from sklearn.metrics import silhouette_score

    gold = labels.cpu().numpy()
    names = np.unique(gold)
    if x.ndim != 2 or len(x) != len(gold) or not 2 <= len(names) < len(gold):
        raise ValueError(
            f"{tuple(x.shape)} vectors of {len(names)} classes: need two to N - 1 classes"
        )
    unit = F.normalize(x.detach().double().cpu(), dim=1)
    centres = torch.stack([unit[torch.from_numpy(gold == name)].mean(0) for name in names])
    own = centres[torch.from_numpy(np.searchsorted(names, gold))]
    within = (unit - own).norm(dim=1).mean()
    between = torch.pdist(centres).mean()
    ratio = float(between / within) if within > 0 else float("inf")
    silhouette = float(silhouette_score(unit.numpy(), gold, metric="cosine"))
    return {"silhouette": silhouette, "separation_ratio": ratio}
