"""A query encoder trained against a momentum encoder, or against itself in the batch."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from common.config import UserError
from common.encoders.modes import evaluation_mode
from common.encoders.momentum import MomentumEncoder
from common.encoders.queue import FeatureQueue
from common.encoders.text.sentence import SentenceEncoder
from common.engine.module import ContrastiveModule
from common.families.retrieval.config import check_queue
from common.losses.grad_cache import cached_encode
from projects.contriever.config import Config
from projects.contriever.objective import Objective


class Contriever(ContrastiveModule):
    """Two views of a chunk as query and key; or questions and passages, in fine-tuning.

    A step moves the key encoder towards the query encoder as it is before the step, encodes the
    keys, forms the loss against the queue of earlier keys, and then enqueues the keys of all ranks.

    Source: Izacard et al. 2022, section 3, arXiv 2112.09118.

    Args:
        cfg: the experiment's config.
        encoder: what is trained, for queries and documents.
        finetune: the stage of questions and passages, always in batch.

    Attributes:
        queue: earlier keys; None in batch.
        momentum_encoder: of the keys; None in batch.

    Distributed: gathers negatives; the queue holds the keys of all ranks, in rank order.
    """

    def __init__(self, cfg: Config, encoder: SentenceEncoder, *, finetune: bool = False) -> None:
        options = cfg.finetune
        tuned = replace(
            cfg.optim, lr=options.lr, warmup_steps=options.warmup_steps, warmup_epochs=0.0
        )
        super().__init__(tuned if finetune else cfg.optim)
        self.encoder, self.finetune = encoder, finetune
        self.num_negatives = options.num_negatives if finetune else 0
        self.chunk_size = options.chunk_size if finetune else None
        self.in_batch_negatives = finetune or cfg.method.objective == "in_batch"
        self.objective = Objective(
            cfg.method,
            in_batch=self.in_batch_negatives,
            temperature=options.temperature if finetune else None,
        )
        self.key_dropout = cfg.method.key_encoder_dropout
        self.queue: FeatureQueue | None = None
        self.momentum_encoder: MomentumEncoder | None = None
        self._new_keys: list[Tensor] = []  # enqueued after the optimiser step
        if not self.in_batch_negatives:
            self.momentum_encoder = MomentumEncoder(encoder.tower, cfg.method.momentum)
            size = cfg.method.queue_size
            self.queue = FeatureQueue(size, encoder.num_features, normalize=False)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """One group: the release decays every parameter, biases and norms too."""
        trained = [p for p in self.parameters() if p.requires_grad]
        return [{"params": trained, "weight_decay": self.optim.weight_decay}]

    def on_fit_start(self) -> None:
        """Refuse a queue that the global batch does not divide (devices may be counted late)."""
        if self.queue is not None:
            try:
                check_queue(len(self.queue), self.global_batch_size)
            except ValueError as error:
                raise UserError(str(error)) from error

    def losses(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Loss, share of queries whose positive scores best, mean deviation of a dimension."""
        query = self.objective.query(self._encode(batch["query"]))
        rows = len(query)
        if self.queue is None or self.momentum_encoder is None:
            keys = self.objective.document(self._encode(batch["key"]))
            wrong = keys[rows:].reshape(rows, -1, keys.shape[1])
            negatives = wrong if len(keys) > rows else None
            out = self.objective(query, keys := keys[:rows], negatives=negatives)
        else:
            if not self._new_keys:  # the first batch of an optimiser step
                self.momentum_encoder.update(self.encoder.tower)
            keys = self.keys(batch["key"])
            out = self.objective(query, keys, queue=self.queue.features)
            if self.training:
                self._new_keys.append(keys)
        assert out.hits is not None
        spread = {"query_std": query, "key_std": keys}
        stds = {name: x.detach().float().std(0, correction=0).mean() for name, x in spread.items()}
        return {"loss": out.loss, "accuracy": out.hits.float().mean(), **stds}

    def _encode(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Vectors of a batch; with a gradient cache in the memory of a chunk."""
        if self.chunk_size is None:
            vectors: Tensor = self.encoder(**inputs)
        else:
            vectors = cached_encode(
                lambda part: self.encoder(**part), dict(inputs), self.chunk_size
            )
        return vectors

    @torch.no_grad()
    def keys(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Keys of the momentum encoder for ids and mask (B, L), (B, D) without gradient."""
        assert self.momentum_encoder is not None
        quiet = nullcontext() if self.key_dropout else evaluation_mode(self.momentum_encoder)
        with quiet:
            embeddings = self.momentum_encoder(inputs["input_ids"], inputs["attention_mask"])
        return self.objective.document(embeddings)

    def after_optimizer_step(self) -> None:
        """Enqueue the keys of this step."""
        if self.queue is not None and self._new_keys:
            self.queue.enqueue(torch.cat(self._new_keys))
            self._new_keys = []

    def negatives_per_query(self, global_batch_size: int) -> int:
        """The queue; in batch the other golds and the explicit negatives of all."""
        if self.queue is not None:
            return len(self.queue)
        return global_batch_size * (1 + self.num_negatives) - 1
