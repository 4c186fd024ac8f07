"""Zero-shot accuracy against the number of prompt templates."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from common.evaluation.image_text.zeroshot import zeroshot_accuracy
from common.evaluation.matrices import blocks


def template_sweep(
    image_embeddings: Tensor,
    labels: Tensor,
    encode_text: Callable[[list[str]], Tensor],
    class_names: Sequence[str],
    templates: Sequence[str],
    counts: Sequence[int],
    *,
    batch_size: int = 256,
) -> dict[str, float]:
    """Top-1 with class vectors from the first T templates, for several T.

    A class vector is the unit mean of unit text embeddings, see `zeroshot.class_embeddings`; every
    text is encoded once.

    Args:
        image_embeddings: (N, D).
        labels: (N,) int in [0, C).
        encode_text: B sentences -> (B, D), model in evaluation mode.
        class_names: C names.
        templates: sentences with one ``{}``, in the order in which they are added.
        counts: numbers of templates, each in [1, len(templates)].
        batch_size: sentences per call.

    Returns:
        ``top1_templates_<T>`` for every T.

    Raises:
        ValueError: a count that is out of range, a template without ``{}``, or as
            `zeroshot_accuracy`.

    Distributed: local.
    """
    if not counts or min(counts) < 1 or max(counts) > len(templates):
        raise ValueError(f"counts must lie in [1, {len(templates)}], got {list(counts)}")
    for template in templates:
        if template.count("{}") != 1:
            raise ValueError(f"a template holds '{{}}' exactly once, got {template!r}")
    units = []
    for template in templates[: max(counts)]:
        texts = [template.replace("{}", name) for name in class_names]
        with torch.no_grad():
            parts = [encode_text(texts[part]).float() for part in blocks(len(texts), batch_size)]
        units.append(F.normalize(torch.cat(parts), dim=1).cpu())
    total = torch.stack(units).cumsum(0)  # (T, C, D)
    return {
        f"top1_templates_{count}": zeroshot_accuracy(
            image_embeddings.cpu(), labels.cpu(), total[count - 1], ks=(1,)
        )["top1"]
        for count in counts
    }
