"""Unit embeddings of the two towers, for evaluations."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from common.evaluation import encoding
from common.families.image_text.data import eval_transform
from common.families.image_text.module import ImageTextModule
from common.families.image_text.protocol import ImageTextConfig


def encode_images(cfg: ImageTextConfig, module: ImageTextModule, images: Tensor) -> Tensor:
    """Unit embeddings (N, D) of uint8 images (N, 3, H, W), on the CPU."""
    transform, device = eval_transform(cfg.data), module.logit_scale.log_scale.device

    def encode(rows: list[int]) -> Tensor:
        batch = transform.batch(images[torch.tensor(rows)]).to(device)
        return module.encoder.encode_image(batch).float()

    order = list(range(len(images)))
    return F.normalize(encoding.encode(encode, order, batch_size=cfg.eval.batch_size), dim=1)


def encode_texts(cfg: ImageTextConfig, module: ImageTextModule, texts: Sequence[str]) -> Tensor:
    """Unit embeddings (N, D) of texts, on the CPU."""
    rows = encoding.encode_texts(module.encode_texts, list(texts), batch_size=cfg.eval.batch_size)
    return F.normalize(rows, dim=1)
