"""The towers of a config, and the Lightning module that a project gives its loss to."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from common.config import UserError
from common.data.text.tokenizers import ClipTokenizer
from common.encoders.image_text.dual import DualEncoder, build_dual_encoder
from common.encoders.image_text.open_clip_dual import OpenClipDualEncoder
from common.engine.module import ContrastiveModule
from common.evaluation.image_text.zeroshot import LACLIP_TEMPLATES, class_embeddings
from common.families.image_text.config import TwoTowers
from common.families.image_text.own_tokenizer import OwnTokenizer
from common.families.image_text.protocol import ImageTextConfig
from common.losses.temperature import LogitScale

Encoder = DualEncoder | OpenClipDualEncoder


def build_tokenizer(model: TwoTowers) -> ClipTokenizer:
    """CLIP's tokenizer at the context length of the text encoder, or the open_clip model's.

    Raises:
        UserError: a tokenizer of its own that is not on this machine.
    """
    if isinstance(model.open_clip, str):
        from open_clip import get_model_config

        config = get_model_config(model.open_clip) or {}  # the encoder refuses an unknown name
        sizes = config.get("text_cfg", {})
        if sizes.get("hf_tokenizer_name"):
            return OwnTokenizer(model.open_clip)
    else:
        sizes = model.text if model.open_clip is None else model.open_clip["text_cfg"]
        if sizes.get("hf_tokenizer_name"):
            raise UserError(
                "model.open_clip: a config whose text tower has a tokenizer of its own is taken by"
                " its name alone"
            )
    return ClipTokenizer(sizes.get("context_length", 77))


def build_encoder(model: TwoTowers, image_size: int) -> Encoder:
    """The two towers of the config.

    Raises:
        UserError: an open_clip model of another image size.
    """
    encoder = build_dual_encoder(
        open_clip=model.open_clip,
        vision=model.vision,
        image_size=image_size,
        text=model.text,
        embed_dim=model.embed_dim,
        official_init=model.official_init,
        pretrained=model.pretrained,
        tokenizer=build_tokenizer(model),
    )
    if isinstance(encoder, OpenClipDualEncoder) and encoder.image_size != image_size:
        raise UserError(
            f"data.image_size={image_size}, but model.open_clip takes images of "
            f"{encoder.image_size} pixels: make them equal"
        )
    if model.activation_checkpointing:
        encoder.set_grad_checkpointing()
    return encoder


class ImageTextModule(ContrastiveModule):
    """Two towers and a learnable logit scale; zero-shot accuracy as validation.

    Attributes:
        encoder: what is trained, evaluated and exported.
        logit_scale: multiplier of the similarities.

    Args:
        cfg: the experiment's config.
        encoder: towers; None builds those of the config.
        templates: sentences of the validation's classes.
    """

    def __init__(
        self,
        cfg: ImageTextConfig,
        encoder: Encoder | None = None,
        templates: Sequence[str] = LACLIP_TEMPLATES,
    ) -> None:
        super().__init__(cfg.optim)
        self.encoder = encoder or build_encoder(cfg.model, cfg.data.image_size)
        self.logit_scale = LogitScale(cfg.model.logit_scale_init, cfg.model.max_logit_scale)
        self.templates = templates
        self._classes: Tensor | None = None  # class embeddings during one validation

    def after_optimizer_step(self) -> None:
        """Keep the raw logit scale in [0, ln max_logit_scale]."""
        self.logit_scale.clamp_()

    def encode_texts(self, texts: list[str]) -> Tensor:
        """Embeddings (B, D) of sentences, on the module's device."""
        assert self.encoder.tokenizer is not None
        tokens = self.encoder.tokenizer(texts)
        return self.encoder.encode_text(tokens.to(self.logit_scale.log_scale.device)).float()

    # -- validation: zero-shot accuracy on a labelled set, for the choice of the checkpoint --------

    def on_validation_epoch_start(self) -> None:
        """Embed the class names of the validation set."""
        trainer: Any = self.trainer
        names = trainer.datamodule.val_sets["zeroshot"].class_names
        self._classes = class_embeddings(self.encode_texts, names, self.templates)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Share of images whose nearest class embedding is their own."""
        assert self._classes is not None
        scores = self.encoder.encode_image(batch["images"]).float() @ self._classes.T
        correct = (scores.argmax(dim=1) == batch["labels"]).float()
        self.log("val/zeroshot_top1", correct.mean(), batch_size=len(correct), sync_dist=True)
