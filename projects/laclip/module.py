"""LaCLIP's objective: CLIP's symmetric contrastive loss on drawn texts, and the multi-text variant."""

from typing import Any

import torch
from torch import Tensor

from common.data.image_text.captions import ImageTextBatch
from common.data.text.tokenizers import ClipTokenizer
from common.encoders.image_text.dual import DualEncoder, build_dual_encoder
from common.encoders.image_text.open_clip_dual import OpenClipDualEncoder
from common.engine.module import ContrastiveModule
from common.evaluation.image_text.zeroshot import LACLIP_TEMPLATES, class_embeddings
from common.losses.image_text import ClipLoss
from common.losses.temperature import LogitScale
from projects.laclip.config import Config, ModelConfig

Encoder = DualEncoder | OpenClipDualEncoder


def build_tokenizer(cfg: ModelConfig) -> ClipTokenizer:
    """CLIP's byte-pair encoding at the context length of the config's text tower."""
    if isinstance(cfg.open_clip, str):
        from open_clip import get_model_config

        config = get_model_config(cfg.open_clip) or {}  # an unknown name is refused by the encoder
        return ClipTokenizer(config.get("text_cfg", {}).get("context_length", 77))
    sizes = cfg.text if cfg.open_clip is None else cfg.open_clip["text_cfg"]
    return ClipTokenizer(sizes.get("context_length", 77))


def build_encoder(cfg: ModelConfig, image_size: int) -> Encoder:
    """The two towers of the config."""
    encoder = build_dual_encoder(
        open_clip=cfg.open_clip,
        vision=cfg.vision,
        image_size=image_size,
        text=cfg.text,
        embed_dim=cfg.embed_dim,
        official_init=cfg.official_init,
        pretrained=cfg.pretrained,
        tokenizer=build_tokenizer(cfg),
    )
    if cfg.activation_checkpointing:
        encoder.set_grad_checkpointing()
    return encoder


class LaCLIP(ContrastiveModule):
    """Image and text tower under the symmetric InfoNCE loss with a learnable logit scale.

    With N pairs over all ranks, unit embeddings v_i, t_i and multiplier s:
    ``L = 1/2 [CE(s v t^T) + CE(s t v^T)]``, the texts being drawn by the data set. Multi-text
    (LaCLIP-MT) encodes each image once and averages L over its T texts; every text has an N x N
    matrix of its own, so that another text of the same image is never a negative.

    Source: Fan et al. 2023 (arXiv 2305.20088), its objective and multi-text extension; Radford et
    al. 2021, figure 3 (arXiv 2103.00020).

    Args:
        cfg: the experiment's config.
        encoder: towers; None builds those of the config.

    Distributed: gathers negatives.
    """

    def __init__(self, cfg: Config, encoder: Encoder | None = None) -> None:
        super().__init__(cfg.optim)
        self.encoder = encoder or build_encoder(cfg.model, cfg.data.image_size)
        self.logit_scale = LogitScale(cfg.model.logit_scale_init, cfg.model.max_logit_scale)
        self.loss = ClipLoss(backend=cfg.method.loss_backend)
        self._classes: Tensor | None = None  # class embeddings during one validation

    def losses(self, batch: ImageTextBatch) -> dict[str, Tensor]:
        """Loss, logit scale and in-batch top-1; tokens are (B, L), multi-text (B, T, L)."""
        image = self.encoder.encode_image(batch["images"])
        tokens = batch["tokens"] if batch["tokens"].ndim == 3 else batch["tokens"][:, None]
        num_texts = tokens.shape[1]
        text = self.encoder.encode_text(tokens.flatten(0, 1))  # rows: image 1 text 1, text 2, ...
        scale = self.logit_scale()
        terms = [self.loss(image, text[m::num_texts], scale) for m in range(num_texts)]
        loss = torch.stack([term.loss for term in terms]).mean()
        top1 = terms[0].hits.float().mean()
        return {"loss": loss, "logit_scale": scale.detach(), "batch_top1": top1}

    def after_optimizer_step(self) -> None:
        """Keep the raw logit scale in [0, ln max_logit_scale]."""
        self.logit_scale.clamp_()

    # -- validation: zero-shot accuracy on a labelled set, for the choice of the checkpoint --------

    def on_validation_epoch_start(self) -> None:
        """Embed the class names of the validation set."""
        trainer: Any = self.trainer
        names = trainer.datamodule.val_sets["zeroshot"].class_names
        self._classes = class_embeddings(self.encode_texts, names, LACLIP_TEMPLATES)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Share of images whose nearest class embedding is their own."""
        assert self._classes is not None
        scores = self.encoder.encode_image(batch["images"]).float() @ self._classes.T
        correct = (scores.argmax(dim=1) == batch["labels"]).float()
        self.log("val/zeroshot_top1", correct.mean(), batch_size=len(correct), sync_dist=True)

    def encode_texts(self, texts: list[str]) -> Tensor:
        """Embeddings (B, D) of sentences, on the module's device."""
        assert self.encoder.tokenizer is not None
        tokens = self.encoder.tokenizer(texts)
        return self.encoder.encode_text(tokens.to(self.logit_scale.log_scale.device)).float()
