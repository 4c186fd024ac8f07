"""LaCLIP's objective: CLIP's symmetric loss on drawn texts, and the multi-text variant."""

from collections.abc import Sequence

import torch
from torch import Tensor

from common.data.image.benchmarks import IMAGE_SETS, judged_as_imagenet
from common.data.image_text.captions import ImageTextBatch
from common.evaluation.image_text.clip_templates import clip_templates
from common.evaluation.image_text.zeroshot import LACLIP_TEMPLATES, OPENAI_TEMPLATES
from common.families.image_text.module import Encoder, ImageTextModule
from common.losses.image_text import ClipLoss
from projects.laclip.config import Config


class LaCLIP(ImageTextModule):
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
        super().__init__(cfg, encoder, validation_templates(cfg))
        self.loss = ClipLoss(backend=cfg.method.loss_backend)

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


def validation_templates(cfg: Config) -> Sequence[str]:
    """Sentences of `eval.validate`, those that the evaluation takes for the same set."""
    name = cfg.eval.validate or "imagenet"
    if name in IMAGE_SETS and not judged_as_imagenet(name):
        return clip_templates(name)
    return OPENAI_TEMPLATES if cfg.eval.templates == "openai" else LACLIP_TEMPLATES
