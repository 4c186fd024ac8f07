"""One encoder for code and queries, its moving average, and four queues of earlier vectors."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from common.config import UserError
from common.encoders.momentum import MomentumEncoder
from common.encoders.queue import FeatureQueue, QueueSet
from common.encoders.text.sentence import SentenceEncoder
from common.engine.module import ContrastiveModule
from common.families.retrieval.config import check_queue
from common.losses.output import unit
from projects.cocosoda.config import Config
from projects.cocosoda.finetune import FinetuneObjective
from projects.cocosoda.objective import KEYS, Objective
from projects.cocosoda.validation import MeanMRR


class CoCoSoDa(ContrastiveModule):
    """Pre-training with augmented keys and queues; or fine-tuning with the code of the batch.

    A step moves the key encoder towards the encoder as it is before the step, encodes the augmented
    code and query with it, forms the loss, and then writes all vectors into the queues. Both
    modalities share one encoder, so one key encoder serves both.

    Source: Shi et al. 2023, section 3, arXiv 2204.03293.

    Args:
        cfg: the experiment's config.
        encoder: what is trained.
        finetune: the second stage.

    Attributes:
        momentum_encoder: of the keys; None in fine-tuning.
        queues: earlier vectors by `KEYS`; None in fine-tuning and without queues.

    Distributed: gathers negatives; queues hold the vectors of all ranks, in rank order.
    """

    def __init__(self, cfg: Config, encoder: SentenceEncoder, *, finetune: bool = False) -> None:
        options, method = cfg.finetune, cfg.method
        lr = cfg.optim.lr if options.lr is None else options.lr
        tuned = replace(cfg.optim, lr=lr, warmup_steps=options.warmup_steps, warmup_epochs=0.0)
        super().__init__(tuned if finetune else cfg.optim)
        self.encoder, self.method = encoder, method
        self.momentum_encoder: MomentumEncoder | None = None
        self.queues: QueueSet | None = None
        scale = options.logit_scale
        self.objective = FinetuneObjective(scale, method) if finetune else Objective(method)
        if not finetune:
            self.momentum_encoder = MomentumEncoder(encoder.tower, method.momentum)
            if method.queue_size:
                width = encoder.num_features
                self.queues = QueueSet({k: FeatureQueue(method.queue_size, width) for k in KEYS})
        self._new: list[dict[str, Tensor]] = []  # enqueued after the optimiser step
        self.validation = MeanMRR(cfg)

    def on_fit_start(self) -> None:
        """Refuse queues that the global batch does not divide (devices may be counted late)."""
        if self.queues is not None:
            try:
                check_queue(self.method.queue_size, self.global_batch_size)
            except ValueError as error:
                raise UserError(str(error)) from error

    def losses(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Loss, share of rows whose positive scores best, share of augmented tokens."""
        code, query = (unit(self.encoder(**batch[k])) for k in ("code", "query"))
        if self.momentum_encoder is None:
            out = self.objective(query, code)
            return {"loss": out.loss, "accuracy": _share(out.hits)}
        if not self._new:  # the first batch of an optimiser step
            self.momentum_encoder.update(self.encoder.tower)
        augmented = {k: self.keys(batch[k]) for k in ("augmented_code", "augmented_query")}
        features = {"code": code, "query": query}
        original = features
        if self.method.original_keys == "momentum":
            original = {k: self.keys(batch[k]) for k in features}
        keys = {**original, **augmented}
        out = self.objective(features, keys, self.earlier)
        if self.training:
            self._new.append({k: v.detach() for k, v in keys.items()})
        terms = {"loss": out.loss, "accuracy": _share(out.hits)}
        if "altered" in batch:
            terms["altered_share"] = batch["altered"].mean()
        return terms

    @property
    def earlier(self) -> dict[str, Tensor] | None:
        """Vectors of earlier batches by `KEYS`, (K, D) each; None without queues."""
        if self.queues is None:
            return None
        return {k: cast(FeatureQueue, queue).features for k, queue in self.queues.items()}

    @torch.no_grad()
    def keys(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Unit vectors (B, D) of the key encoder for ids and mask (B, L), without gradient."""
        assert self.momentum_encoder is not None
        return unit(self.momentum_encoder(inputs["input_ids"], inputs["attention_mask"]))

    def after_optimizer_step(self) -> None:
        """Write the vectors of this step into the queues, all at the same place."""
        if self.queues is not None and self._new:
            self.queues.enqueue({k: torch.cat([part[k] for part in self._new]) for k in KEYS})
        self._new = []

    def negatives_per_query(self, global_batch_size: int) -> int:
        """The other pairs of the batch, and a queue."""
        return global_batch_size - 1 + (0 if self.queues is None else self.method.queue_size)

    def validation_step(
        self, batch: tuple[Sequence[str], Tensor], batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Embed queries of a language."""
        self.validation.add(self.encoder, dataloader_idx, *batch)

    def on_validation_epoch_end(self) -> None:
        """Log the mean MRR over the languages as ``val/mrr``."""
        queries = self.trainer.datamodule.val_sets.values()  # type: ignore[attr-defined]
        self.log("val/mrr", self.validation.compute(self.encoder, [item.data for item in queries]))


def _share(hits: Tensor | None) -> Tensor:
    assert hits is not None
    return hits.float().mean()
