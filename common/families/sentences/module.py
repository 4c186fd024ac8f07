"""The encoder of a config, and the Lightning module that a project gives its loss to."""

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from common.config import OptimConfig
from common.distributed.collectives import all_gather_no_grad
from common.encoders.modes import untrained
from common.encoders.pretrained import ARCHITECTURES, stand_in
from common.encoders.text.sentence import SentenceEncoder, sentence_encoder
from common.engine.module import ContrastiveModule
from common.evaluation.text.sts import pair_cosine, spearman
from common.families.sentences.config import TextModel
from common.families.sentences.protocol import SentenceExperimentConfig


class SentenceModule(ContrastiveModule):
    """A sentence encoder with the loss of a project.

    Attributes:
        encoder: what is trained, evaluated and exported.

    Args:
        optim: optimiser section of the config.
        encoder: transformer, pooler and tokenizer.
    """

    def __init__(self, optim: OptimConfig, encoder: SentenceEncoder) -> None:
        super().__init__(optim)
        self.encoder = encoder
        self._seen: list[tuple[Tensor, Tensor]] = []

    def views(self, batch: Mapping[str, Tensor], count: int) -> tuple[Tensor, ...]:
        """Embeddings of the views, each (B, D), from one pass over the (count * B, L) rows."""
        z = self.encoder(batch["input_ids"], batch["attention_mask"])
        return torch.chunk(z, count)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Cosine of pairs."""
        first, second, scores = batch
        both = self.encoder.encode(first + second, batch_size=2 * len(first))
        cosine = pair_cosine(both[: len(first)], both[len(first) :])
        self._seen.append((cosine.to(self.device, torch.float32), scores.to(self.device)))

    def on_validation_epoch_end(self) -> None:
        """Log the Spearman correlation over the pairs of all ranks, as ``val/sts_spearman``."""
        cosine, gold = (
            all_gather_no_grad(torch.cat(part)).float().cpu().numpy()
            for part in zip(*self._seen, strict=True)
        )
        self._seen = []
        self.log("val/sts_spearman", spearman(cosine, gold))


S = TypeVar("S", bound=SentenceModule)  # a project's own


def build_encoder(model: TextModel) -> SentenceEncoder:
    """Encoder of the config, before training."""
    encoder = sentence_encoder(
        model.pretrained,
        model.pooling,
        config=model.config,
        dropout=model.dropout,
        mlp_only_train=model.mlp_only_train,
        attention=model.attention,
        max_length=model.max_length,
        length_groups=model.length_groups,
        template=model.template,
    )
    if model.random_init:
        network = encoder.tower.model
        encoder.tower.model = type(network)(network.config)
        encoder.tower.model.pooler = None
    return encoder


def first_encoder(cfg: SentenceExperimentConfig) -> SentenceEncoder:
    """The encoder that training begins with, in training mode, whatever was drawn before.

    For methods that start again from the same weights in a later stage or round.
    """
    return untrained(lambda: build_encoder(cfg.model), cfg.seed).train()


def planned_encoder(model: TextModel) -> SentenceEncoder:
    """As `build_encoder`, but random weights of the same shape where the weights are not here."""
    config = stand_in(model.pretrained, ARCHITECTURES)
    if config is None:
        return build_encoder(model)
    encoder = sentence_encoder(
        "random", model.pooling, config=config, mlp_only_train=model.mlp_only_train
    )
    # how long texts may be is told by the weights that it stands for, not by its own small
    # tokenizer
    encoder.tokenizer.model_max_length = 10**9
    return encoder
