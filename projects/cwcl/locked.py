"""Training against a frozen image tower: module, data with cached features (LiT, CWCL)."""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from common.config import UserError
from common.data.image import sources as im
from common.data.image.benchmarks import load_image_set
from common.data.image_text.captions import CaptionedImages
from common.data.lookup import data_root
from common.data.module import ContrastiveData
from common.data.text.tokenizers import ClipTokenizer
from common.encoders.modes import evaluated
from common.evaluation.features.cached import Rows, cached_features
from common.evaluation.features.frozen import source_outputs
from common.families.image_text.data import (
    eval_transform,
    image_text_data,
    normalization,
    train_pairs,
    train_transform,
)
from common.families.image_text.module import ImageTextModule, build_tokenizer
from common.families.image_text.protocol import ImageTextConfig
from projects.cwcl.config import LockedTowers
from projects.cwcl.frozen_vectors import FrozenFeatures
from projects.cwcl.locked_towers import (
    CentredTower,
    LockedEncoder,
    build_locked,
    from_features,
    given_part,
    tower_features,
)


class LockedConfig(ImageTextConfig, Protocol):
    """A config whose towers can be locked."""

    @property
    def model(self) -> LockedTowers:
        """Towers."""


def build_towers(cfg: LockedConfig, *, weights: bool = True) -> LockedEncoder:
    """The towers of a config; without weights for a dry run."""
    model = cfg.model
    encoder = build_locked(
        open_clip=model.open_clip,
        vision=model.vision,
        vision_pretrained=model.vision_pretrained if weights else "random",
        image_size=cfg.data.image_size,
        text_tower=model.text_tower,
        text=model.text,
        projected=model.projected,
        embed_dim=model.embed_dim,
        pretrained=model.pretrained if weights else "random",
        tokenizer=build_tokenizer(model),
        normalization=normalization(cfg.data),
    )
    if model.activation_checkpointing:
        encoder.set_grad_checkpointing()
    return encoder


class LockedModule(ImageTextModule):
    """Two towers of which the image tower may be frozen: in eval mode, without gradient.

    Args:
        cfg: the experiment's config.
        encoder: towers; None builds those of the config.
    """

    def __init__(self, cfg: LockedConfig, encoder: LockedEncoder | None = None) -> None:
        super().__init__(cfg, encoder or build_towers(cfg))
        self.locked = cfg.model.locked
        if self.locked:
            given_part(self.encoder).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "LockedModule":
        """Set the mode; a locked tower stays in eval mode."""
        super().train(mode)
        if self.locked:
            given_part(self.encoder).eval()
        return self

    def image_side(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images (B, 3, H, W), or their cached tower features (B, F).

        Returns:
            Tower features (B, F), the same centred (B, F), embeddings (B, D).
        """
        features = images
        if images.ndim == 4:
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self.locked):
                features = tower_features(self.encoder, images)
        return features, *from_features(self.encoder, features)

    def set_mean(self, mean: Tensor) -> None:
        """Set what is subtracted from tower features."""
        tower = given_part(self.encoder)
        assert isinstance(tower, CentredTower)
        tower.mean.copy_(mean)


def locked_data(
    cfg: LockedConfig, module: LockedModule, tokenizer: ClipTokenizer, about: Mapping[str, Any]
) -> ContrastiveData:
    """Pairs of the config; with `model.cache` the images are read and encoded once, here.

    Also sets the module's mean feature (`model.centred`).

    Args:
        cfg: the experiment's config.
        module: its image tower makes the features.
        tokenizer: texts -> ids.
        about: what the images depend on, for a cache that is kept on disk.

    Raises:
        UserError: missing files, a stream that cannot be cached, or a cache of something else.

    Distributed: every rank computes all features, on its own device.
    """
    model = cfg.model
    plain = eval_transform(cfg.data)
    if cfg.data.source == "webdataset":
        if model.cache or model.centred:
            raise UserError(
                "a stream of shards has no cached or centred features: set model.cache=false and "
                "model.centred=false, or give the pairs as a CSV"
            )
        transform = train_transform(cfg.data) if model.augment else plain
        return image_text_data(cfg, tokenizer, transform=transform)
    images: im.ImageSource
    images, texts = train_pairs(cfg, plain)
    if model.cache or model.centred:
        features, kept = _features(cfg, module, images, about)
        if model.centred:
            module.set_mean(features.mean(0))
        if model.cache:
            images = FrozenFeatures(features, kept, len(images))
    if model.augment:
        images, texts = train_pairs(cfg, train_transform(cfg.data))
    val = {}
    if cfg.eval.validate is not None:
        root = data_root(cfg.eval.root or cfg.data.root)
        val["zeroshot"] = load_image_set(cfg.eval.validate, root, plain)
    train = CaptionedImages(images, texts, tokenizer, seed=cfg.seed)
    return ContrastiveData(
        train,
        batch_size=cfg.data.batch_size,
        seed=cfg.seed,
        num_workers=cfg.data.num_workers,
        val=val,
        eval_batch_size=cfg.eval.batch_size,
    )


def _features(
    cfg: LockedConfig, module: LockedModule, images: im.ImageSource, about: Mapping[str, Any]
) -> Rows:
    def compute() -> Rows:
        with evaluated(module, cfg.trainer.accelerator):
            device = module.logit_scale.log_scale.device
            (features,), kept = source_outputs(
                lambda batch: [tower_features(module.encoder, batch)],
                images,
                device,
                batch_size=cfg.eval.batch_size,
                num_workers=cfg.data.num_workers,
            )
        return features, kept

    return cached_features(compute, cfg.model.cache_dir, given_part(module.encoder), about)
