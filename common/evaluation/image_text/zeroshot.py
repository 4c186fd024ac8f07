"""Zero-shot classification with template ensembles (Radford et al. 2021, CLIP).

``OPENAI_TEMPLATES`` (80) and ``IMAGENET_CLASS_NAMES`` (1,000) are read from open_clip on first use.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from common.evaluation.features.accuracy import mean_per_class_accuracy
from common.evaluation.matrices import (
    as_labels,
    as_matrix,
    as_pair,
    blocks,
    exact_math,
    tie_margin,
)

SIMPLE_TEMPLATES: tuple[str, ...] = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)
LACLIP_TEMPLATES = SIMPLE_TEMPLATES  # the same seven sentences
_KINDS = (
    "{}",
    "blurry {}",
    "black and white {}",
    "low contrast {}",
    "high contrast {}",
    "bad {}",
    "good {}",
)
# the 18 prompts of CLIP for CIFAR-10 and CIFAR-100 (Radford et al. 2021, released prompts)
CIFAR_TEMPLATES: tuple[str, ...] = tuple(
    f"{start} of {article} {{}}."
    for article in ("a", "the")
    for start in ("a " + kind.format("photo") for kind in _KINDS)
) + tuple(
    f"a photo of {article} {size} {{}}." for article in ("a", "the") for size in ("small", "big")
)


@lru_cache(maxsize=1)
def _open_clip_metadata() -> dict[str, tuple[str, ...]]:
    from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES

    return {
        "OPENAI_TEMPLATES": tuple(fill("{}") for fill in OPENAI_IMAGENET_TEMPLATES),
        "IMAGENET_CLASS_NAMES": tuple(IMAGENET_CLASSNAMES),
    }


def __getattr__(name: str) -> tuple[str, ...]:
    if name in ("OPENAI_TEMPLATES", "IMAGENET_CLASS_NAMES"):
        return _open_clip_metadata()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def class_embeddings(
    encode_text: Callable[[list[str]], Tensor],
    class_names: Sequence[str],
    templates: Sequence[str],
    *,
    batch_size: int = 256,
) -> Tensor:
    """One unit vector per class: the re-normalised mean over templates of unit text embeddings.

    Equation: ``w_c = unit(1/T sum_t unit(encode(template_t(c))))``.
    Source: Radford et al. 2021, section 3.1.4, arXiv 2103.00020.

    Args:
        encode_text: B sentences -> (B, D) embeddings, normalised or not, model in eval mode.
        class_names: C names.
        templates: T sentences with one ``{}`` for the class name.
        batch_size: sentences per call.

    Returns:
        (C, D) float32 (float64 if the encoder gives that), unit rows.

    Raises:
        ValueError: no class, no template, a template without ``{}``, or a class whose templates
            cancel out.

    Distributed: local.

    >>> encode = lambda texts: torch.tensor([[1.0, 0.0] if "a" in t else [0.0, 2.0] for t in texts])
    >>> class_embeddings(encode, ["a", "b"], ["{}", "{}!"]).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    if not class_names or not templates:
        raise ValueError("zero-shot classification needs class names and templates")
    for template in templates:
        if template.count("{}") != 1:
            raise ValueError(f"a template holds '{{}}' exactly once, got {template!r}")
    texts = [t.replace("{}", name) for name in class_names for t in templates]
    total: Tensor | None = None
    for part in blocks(len(texts), batch_size):
        with torch.no_grad():
            embeddings = as_matrix(encode_text(texts[part]), "text embeddings")
        if len(embeddings) != part.stop - part.start:
            raise ValueError(
                f"the encoder gave {len(embeddings)} rows for {part.stop - part.start} texts"
            )
        if total is None:
            total = embeddings.new_zeros((len(class_names), embeddings.shape[1]))
        rows = torch.arange(part.start, part.stop, device=total.device) // len(templates)
        total.index_add_(0, rows, F.normalize(embeddings, dim=1))
    assert total is not None
    mean = total / len(templates)
    if bool((mean.norm(dim=1) < 1e-6).any()):
        worst = class_names[int(mean.norm(dim=1).argmin())]
        raise ValueError(f"the templates of class {worst!r} cancel out or are all zero")
    return F.normalize(mean, dim=1)


def zeroshot_accuracy(
    image_embeddings: Tensor,
    labels: Tensor,
    class_embeddings: Tensor,
    *,
    ks: Iterable[int] = (1, 5),
    chunk_size: int = 4096,
) -> dict[str, float]:
    """Accuracy of classification by the largest cosine.

    Ties are pessimistic: the true class counts only if fewer than k others score as high.

    Args:
        image_embeddings: (N, D).
        labels: (N,) int in [0, C).
        class_embeddings: (C, D), see `class_embeddings`.
        ks: cut-offs for ``top<k>``.
        chunk_size: images per block.

    Returns:
        ``top1``, ``top5`` (1.0 when there are at most five classes), ``mean_per_class`` (mean of
        the recalls of the classes that occur), each with ``<name>_chance`` for uniform guessing.

    Raises:
        ValueError: shapes, dtypes or labels do not fit.

    Distributed: local.

    >>> zeroshot_accuracy(torch.eye(3), torch.tensor([0, 1, 0]), torch.eye(3))["mean_per_class"]
    0.75
    """
    images, classes = as_pair(image_embeddings, class_embeddings, "cosine")
    labels = as_labels(labels, len(images), "labels", len(classes)).to(images.device)
    before = torch.empty_like(labels)
    with exact_math(images.device):
        margin = tie_margin(images, classes)
        for rows in blocks(len(images), chunk_size):
            scores = images[rows] @ classes.T
            row_labels = labels[rows, None]
            threshold = scores.gather(1, row_labels) - margin[rows, None]
            before[rows] = (scores.scatter(1, row_labels, -float("inf")) >= threshold).sum(dim=1)
    metrics: dict[str, float] = {}
    for k in ks:
        metrics[f"top{k}"] = float((before < k).double().mean())
        metrics[f"top{k}_chance"] = min(1.0, k / len(classes))
    return metrics | {
        "mean_per_class": mean_per_class_accuracy(before == 0, labels),
        "mean_per_class_chance": 1 / len(classes),
    }
