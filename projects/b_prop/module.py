"""What is trained: a cross-encoder on pairs of word sets, or on judged queries."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from common.distributed.collectives import all_gather_no_grad
from common.encoders.text.cross_encoder import CrossEncoder
from common.engine.module import ContrastiveModule
from common.losses.functional.ranking import ranking_loss
from common.losses.output import LossOutput
from projects.b_prop.config import Config
from projects.b_prop.objective import Objective


class BProp(ContrastiveModule):
    """Word sets scored against their document, masked words alongside it.

    Or queries against documents.

    Source: Ma et al. 2021, "B-PROP", section 4, arXiv 2104.09791.

    Args:
        cfg: the experiment's config.
        ranker: what is trained; its head stays when it becomes a re-ranker.
        lm_head: states -> logits over the vocabulary, tied to the word embeddings; None without
            masked words.
        finetune: the stage of judged queries.

    Distributed: local pairs and groups, none is split between ranks; masked words form one mean.
    """

    in_batch_negatives = False

    def __init__(
        self,
        cfg: Config,
        ranker: CrossEncoder,
        lm_head: nn.Module | None = None,
        *,
        finetune: bool = False,
    ) -> None:
        tune = cfg.finetune
        warmup = round(tune.warmup_share * tune.steps)
        tuned = replace(
            cfg.optim,
            lr=tune.lr,
            weight_decay=tune.weight_decay,
            schedule="linear",
            warmup_steps=warmup,
            warmup_epochs=0.0,
            decay_steps=0,
        )
        super().__init__(tuned if finetune else cfg.optim)
        self.ranker, self.lm_head, self.tune = ranker, lm_head, tune if finetune else None
        self.objective = Objective(cfg.method)
        self._seen: list[Tensor] = []

    def losses(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Terms of a batch of word sets, or of groups of documents."""
        if self.tune is not None:
            out = self._groups(batch)
            assert out.hits is not None
            return {"loss": out.loss, "group_accuracy": out.hits.to(out.loss.dtype).mean()}
        logits, states = self.ranker.with_states(**batch["pairs"])
        terms: dict[str, Tensor] = self.objective(
            logits[:, 0], self.lm_head, states, batch["labels"]
        )
        return terms

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """Loss of each group of held-out queries."""
        self._seen.append(self._groups(batch).per_sample)

    def on_validation_epoch_end(self) -> None:
        """Log the mean over the groups of all ranks, as ``val/ranking_loss``."""
        losses = torch.cat(self._seen) if self._seen else torch.zeros(0, device=self.device)
        self._seen = []  # a rank may have had none; all take part in the exchange
        self.log("val/ranking_loss", all_gather_no_grad(losses).mean())

    def negatives_per_query(self, global_batch_size: int) -> int:
        """The other set of the pair; the other documents of the group."""
        return 1 if self.tune is None else self.tune.group_size - 1

    def _groups(self, batch: Mapping[str, Any]) -> LossOutput:
        assert self.tune is not None
        scores = self.ranker(**batch["pairs"]).reshape(-1, batch["group_size"])
        return ranking_loss(scores, self.tune.loss)
