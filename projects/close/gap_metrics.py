"""How far apart the two modalities of a dual encoder lie.

Source: Liang et al. 2022, "Mind the Gap", arXiv 2203.02053; Gu, Clark & Kembhavi 2023, section 2,
arXiv 2211.09778.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def gap_report(text: Tensor, image: Tensor) -> dict[str, float]:
    """Mean cosines of pairs and of everything else, and the norm of the mean offset.

    Args:
        text: (N, D), N >= 2, normalised here.
        image: (N, D), row i belongs to text i.

    Returns:
        ``paired``, ``unpaired`` (image and another text), ``text_text`` and ``image_image`` (two
        different ones), ``offset``: the length of the difference of the means.

    Raises:
        ValueError: fewer than two pairs, or shapes that don't fit.

    >>> found = gap_report(torch.eye(2), torch.eye(2))
    >>> found["paired"], found["unpaired"], found["offset"]
    (1.0, 0.0, 0.0)
    """
    if text.shape != image.shape or len(text) < 2:
        raise ValueError(f"{tuple(text.shape)} texts and {tuple(image.shape)} images are no pairs")
    t, v = F.normalize(text.double(), dim=1), F.normalize(image.double(), dim=1)
    count = len(t)

    def others(a: Tensor, b: Tensor) -> float:
        whole, matching = a.sum(0) @ b.sum(0), (a * b).sum()
        return float((whole - matching) / (count * (count - 1)))

    return {
        "paired": float((t * v).sum(1).mean()),
        "unpaired": others(v, t),
        "text_text": others(t, t),
        "image_image": others(v, v),
        "offset": float(torch.linalg.vector_norm(v.mean(0) - t.mean(0))),
    }
