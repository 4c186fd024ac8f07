"""The two towers as functions, and how much a text's embedding depends on its wording."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from common.families.image_text.drawings import UNSEEN_TEMPLATES
from common.families.image_text.embedding import encode_images, encode_texts
from projects.laclip.config import Config
from projects.laclip.module import LaCLIP


@dataclass(frozen=True)
class Encoders:
    """Unit rows (N, D) of uint8 images and of texts."""

    images: Callable[[Tensor], Tensor]
    texts: Callable[[Sequence[str]], Tensor]


def encoders(cfg: Config, module: LaCLIP) -> Encoders:
    """Those of a model."""
    return Encoders(
        lambda pixels: encode_images(cfg, module, pixels),
        lambda texts: encode_texts(cfg, module, texts),
    )


def prompt_agreement(model: Encoders, classes: Sequence[str]) -> float:
    """Cosine within classes across templates, minus that across classes within templates."""
    prompts = [t.replace("{}", name) for name in classes for t in UNSEEN_TEMPLATES]
    rows = model.texts(prompts).reshape(len(classes), len(UNSEEN_TEMPLATES), -1)  # (C, T, D)
    return float(_cosine_of_others(rows) - _cosine_of_others(rows.transpose(0, 1)))


def _cosine_of_others(rows: Tensor) -> Tensor:
    """Mean cosine of different unit vectors of a group, mean of groups; (G, K, D)."""
    size = rows.shape[1]
    return ((rows.sum(1).square().sum(-1) - size) / (size * (size - 1))).mean()
