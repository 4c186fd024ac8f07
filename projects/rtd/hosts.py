"""The hosts: how LinCIR, Pic2Word and SEARLE train phi, each with both towers of CLIP frozen."""

from typing import NotRequired, TypedDict

import torch
from torch import Tensor
from torch.nn import functional as F

from common.losses.image_text import ClipLoss
from common.losses.two_view import NTXentLoss
from projects.rtd.composer import Composer
from projects.rtd.config import Config
from projects.rtd.module import ComposedModule


class CaptionBatch(TypedDict):
    """Captions and what hides their key phrases."""

    caption: Tensor  # (B, L)
    hidden: Tensor  # (B, L) key phrases replaced by $
    noise: Tensor  # (B, P) u n
    ids: NotRequired[Tensor]


class ImageBatch(TypedDict):
    """Unlabelled images."""

    images: Tensor  # (B, 3, H, W)
    ids: NotRequired[Tensor]


class InvertedBatch(TypedDict):
    """Images with the token that inverts each, and a phrase of a concept near it."""

    images: Tensor  # (B, P) image embeddings
    tokens: Tensor  # (B, F) inverted tokens
    phrase: Tensor  # (B, L) phrase with its concept
    hidden: Tensor  # (B, L) the same with $ in its place
    ids: NotRequired[Tensor]


class LinCIR(ComposedModule):
    """Self-masking projection: captions alone.

        L = mean (psi_T(c) - psi_T(c with key phrases replaced by phi(psi_T(c) + u n)))^2

    Source: Gu et al. 2024, arXiv 2312.01998, and its official code.
    """

    in_batch_negatives = False

    def __init__(self, cfg: Config, composer: Composer) -> None:
        super().__init__(composer, cfg.phi.optim, "phi")
        self.noise_scale = cfg.phi.noise_scale

    def losses(self, batch: CaptionBatch) -> dict[str, Tensor]:
        """Terms of a batch of captions."""
        with torch.no_grad():
            whole = self.composer.anchor(batch["caption"])
        pseudo = self.composer.pseudo_words(whole + self.noise_scale * batch["noise"])
        hidden = self.composer.anchor(batch["hidden"], pseudo)
        return {"loss": F.mse_loss(hidden.float(), whole.float())}


class Pic2Word(ComposedModule):
    """Images alone: symmetric InfoNCE of an image and "a photo of $" with its own pseudo word.

    Source: Saito et al. 2023, arXiv 2302.03084.

    Distributed: gathers negatives.
    """

    def __init__(self, cfg: Config, composer: Composer) -> None:
        super().__init__(composer, cfg.phi.optim, "phi")
        self.objective = ClipLoss()
        self.sentence = cfg.rtd.special
        self.scale = float(torch.tensor(composer.encoder.log_scale).exp())

    def losses(self, batch: ImageBatch) -> dict[str, Tensor]:
        """Terms of a batch of images."""
        with torch.no_grad():
            images = self.composer.encoder.encode_image(batch["images"])
        ids = self.composer.tokens([self.sentence] * len(images))
        texts = self.composer.anchor(ids, self.composer.pseudo_words(images))
        return {"loss": self.objective(images, texts, self.scale).loss}


class Searle(ComposedModule):
    """Distillation of inverted tokens, with phrases that keep the pseudo word a word.

        L = w_1 NT-Xent(token, phi(image)) + w_2 (1 - cos(phrase, phrase with phi(image)))

    Source: Baldrati et al. 2023, arXiv 2303.15247.

    Distributed: gathers negatives.
    """

    def __init__(self, cfg: Config, composer: Composer) -> None:
        super().__init__(composer, cfg.phi.optim, "phi")
        self.options = cfg.phi.searle
        self.objective = NTXentLoss()

    def losses(self, batch: InvertedBatch) -> dict[str, Tensor]:
        """Terms of a batch of image embeddings."""
        options = self.options
        pseudo = self.composer.pseudo_words(batch["images"])
        distil = self.objective(batch["tokens"], pseudo, 1 / options.temperature).loss
        with torch.no_grad():
            phrase = self.composer.anchor(batch["phrase"])
        regular = phrase_loss(phrase, self.composer.anchor(batch["hidden"], pseudo))
        loss = options.distil_weight * distil + options.regular_weight * regular
        return {"loss": loss, "distil": distil, "regular": regular}


def phrase_loss(phrase: Tensor, replaced: Tensor) -> Tensor:
    """Mean of 1 - cosine between phrases and the same with a pseudo word, (B, D) each."""
    return (1 - F.cosine_similarity(phrase, replaced, dim=1)).mean()


HOSTS: dict[str, type[LinCIR] | type[Pic2Word] | type[Searle]] = {
    "lincir": LinCIR,
    "pic2word": Pic2Word,
    "searle": Searle,
}
