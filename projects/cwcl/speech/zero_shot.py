"""Spoken keywords and intents without labels: the nearest class text in a common space."""

import re
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from common.evaluation.matrices import as_labels, as_pair, exact_math, tie_margin

Encode = Callable[[list[str]], Tensor]


def class_phrase(name: str) -> str:
    """The name of an intent as words.

    >>> class_phrase("alarm_set"), class_phrase("IN:CREATE_ALARM"), class_phrase("musicLikeness")
    ('alarm set', 'create alarm', 'music likeness')
    """
    name = name.removeprefix("IN:")
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return " ".join(re.split(r"[\W_]+", name)).strip().lower()


def prompt_embeddings(encode: Encode, prompts: Sequence[Sequence[str]]) -> Tensor:
    """One unit vector per class: the mean of its texts' unit embeddings.

    Args:
        encode: texts -> (B, D), model in evaluation mode.
        prompts: for each of C classes one or more texts: phrases, or example utterances.

    Returns:
        (C, D) on the CPU.

    Raises:
        ValueError: no class, or a class without text.
    """
    if not prompts or not all(prompts):
        raise ValueError("every class needs a text")
    texts = [text for row in prompts for text in row]
    with torch.no_grad():
        units = F.normalize(encode(texts).float().cpu(), dim=1)
    parts = torch.split(units, [len(row) for row in prompts])
    return F.normalize(torch.stack([part.mean(0) for part in parts]), dim=1)


def spoken_zeroshot(
    embeddings: Tensor, labels: Tensor, classes: Tensor, *, name: str = "top1"
) -> tuple[dict[str, float], list[float]]:
    """Accuracy of the nearest class text by cosine; ties count as wrong.

    Args:
        embeddings: (N, D) of utterances, or of their transcripts (the text model's own ceiling).
        labels: (N,) int in [0, C).
        classes: (C, D), see `prompt_embeddings`.
        name: of the metric.

    Returns:
        ``<name>`` and ``<name>_chance``, and every utterance's 1.0 or 0.0.

    Raises:
        ValueError: shapes or labels that do not fit.

    Distributed: local.
    """
    x, c = as_pair(embeddings.float().cpu(), classes.float().cpu(), "cosine")
    labels = as_labels(labels.cpu(), len(x), "labels", len(c))
    with exact_math(x.device):
        scores = x @ c.T
        threshold = scores.gather(1, labels[:, None]) - tie_margin(x, c)[:, None]
    rivals = scores.scatter(1, labels[:, None], -float("inf")) >= threshold
    correct = (~rivals.any(1)).double()
    return {name: float(correct.mean()), f"{name}_chance": 1 / len(c)}, correct.tolist()
