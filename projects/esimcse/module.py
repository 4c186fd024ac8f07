"""SimCSE with a second view of another length and a queue of keys of a momentum encoder."""

from typing import Any

import torch
from torch import Tensor

from common.encoders.modes import evaluation_mode
from common.encoders.momentum import MomentumEncoder
from common.encoders.queue import GrowingQueue
from common.encoders.text.sentence import SentenceEncoder
from common.encoders.text.tower import TextTower, load_transformer
from common.families.sentences.module import SentenceModule
from common.losses.info_nce import InfoNCELoss
from common.losses.output import LossOutput
from projects.esimcse.config import Config


class ESimCSE(SentenceModule):
    """Sentences against their repeated versions, those of the batch, and earlier keys.

        L_i = -log exp(s(h_i, h_i+) / tau)
                   / (sum_j exp(s(h_i, h_j+) / tau) + sum_m exp(s(h_i, k_m) / tau))

    A key k is the sentence as it is, through the momentum copy of transformer and pooler (without
    dropout and gradient) and the online head of the encoder, if it has one. Keys of a batch enter
    the queue after the optimiser step, so that no batch meets its own.

    Source: Wu et al. 2022, section 3 and equation 4, arXiv 2109.04380.

    Args:
        cfg: the experiment's config.
        encoder: the online encoder.

    Distributed: gathers negatives; the queue holds the keys of all ranks, in rank order.
    """

    def __init__(self, cfg: Config, encoder: SentenceEncoder) -> None:
        super().__init__(cfg.optim, encoder)
        method, momentum = cfg.method, cfg.momentum
        self.scale, self.update_first = 1 / method.temperature, momentum.order == "before_step"
        self.contrast = InfoNCELoss(gather=method.gather, backend=method.loss_backend)
        self.queue: GrowingQueue | None = None
        self.momentum_encoder: MomentumEncoder | None = None
        self._new_keys: list[Tensor] = []  # enqueued after the optimiser step
        if not cfg.queue.size:
            return
        self.queue = GrowingQueue(cfg.queue.size, encoder.num_features)
        if momentum.decay:
            source = self.backbone()
            if momentum.init == "random":
                architecture = source.model.config.to_dict()
                fresh = load_transformer(
                    "random", config=architecture, attention=cfg.model.attention
                )
                source = _headless(source, fresh)
            self.momentum_encoder = MomentumEncoder(source, momentum.decay)

    def backbone(self) -> TextTower:
        """The online tower without its head; shares the transformer."""
        return _headless(self.encoder.tower, self.encoder.tower.model)

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Loss and in-batch top-1 (against the queue as well)."""
        anchor, positive = self.views(batch, 2)
        if self.queue is not None:
            first_of_step = not self._new_keys  # of several batches of one optimiser step
            if self.momentum_encoder is not None and self.update_first and first_of_step:
                self.momentum_encoder.update(self.backbone())
            rows = len(anchor)
            self._new_keys.append(
                self.keys(batch["input_ids"][:rows], batch["attention_mask"][:rows])
            )
        out = self.objective(anchor, positive)
        assert out.hits is not None
        return {"loss": out.loss, "top1": out.hits.float().mean()}

    def objective(self, anchor: Tensor, positive: Tensor) -> LossOutput:
        """Loss of a batch against the queue as it is.

        Args:
            anchor: (B, D) raw embeddings.
            positive: (B, D), row i belongs to anchor i.
        """
        earlier = None if self.queue is None else self.queue.rows()
        output: LossOutput = self.contrast(anchor, positive, self.scale, queue=earlier)  # Eq. 4
        return output

    def keys(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Keys of sentences for the queue: no dropout, no gradient.

        Args:
            input_ids: (B, L) int64.
            attention_mask: (B, L).

        Returns:
            (B, D), not normalised.
        """
        momentum, head = self.momentum_encoder, self.encoder.tower.cls_head
        backbone = self.backbone() if momentum is None else momentum.network
        with evaluation_mode(backbone):
            features: Tensor = backbone(input_ids, attention_mask)
            return features if head is None else head(features)

    def after_optimizer_step(self) -> None:
        """Enqueue the keys of this step; move the momentum encoder if that comes after the step."""
        if self.queue is None:
            return
        if self.momentum_encoder is not None and not self.update_first:
            self.momentum_encoder.update(self.backbone())
        self.queue.enqueue(torch.cat(self._new_keys))
        self._new_keys = []

    def negatives_per_query(self, global_batch_size: int) -> int:
        """Other sentences of the batch and, once it is full, the queue."""
        return global_batch_size - 1 + (0 if self.queue is None else len(self.queue))


def _headless(tower: TextTower, model: Any) -> TextTower:
    """A tower of the same pooling around `model`, without a head."""
    pooling = "cls_before_pooler" if tower.pooling == "cls" else tower.pooling
    return TextTower(model, pooling, mask_token_id=tower.mask_token_id)
