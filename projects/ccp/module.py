"""Pre-training: contexts are told from other sentences of the same language."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from common.distributed.collectives import all_gather_no_grad
from common.engine.module import ContrastiveModule
from common.losses.auxiliary.tokens import masked_lm_loss
from projects.ccp.config import Config
from projects.ccp.head import PairHead
from projects.ccp.monitors import batch_hits, separation
from projects.ccp.objective import Objective
from projects.ccp.shared_bank import SharedBank
from projects.ccp.towers import Towers

CENTER, CONTEXT = 0, 1  # sides of the bank's rows


class CCP(ContrastiveModule):
    """Pre-training: a sentence selects its context among sentences of its language.

    Source: Wu et al. 2022, arXiv 2206.03281.

    Args:
        cfg: the experiment's config.
        encoder: what is trained.
        mlm_head: states -> logits, with ``method.mlm_weight``.
        pretraining: False: the encoder alone, as an export holds it.

    Attributes:
        head: dropped after the training; None without `pretraining`.
        bank: vectors of earlier steps with language and side; None without `pretraining`.

    Distributed: gathers negatives, reduces the statistics of the head; the bank is equal on all
    ranks. A batch is of one language on all ranks.
    """

    def __init__(
        self,
        cfg: Config,
        encoder: Towers,
        mlm_head: nn.Module | None = None,
        *,
        pretraining: bool = True,
    ) -> None:
        super().__init__(cfg.optim)
        method, width = cfg.method, encoder.passage.num_features
        self.encoder, self.method, self.mlm_head = encoder, method, mlm_head
        self.rings = cfg.data.num_languages if method.language_bank else 1
        self.head: PairHead | None = None
        self.bank: SharedBank | None = None
        self._new: list[tuple[Tensor, Tensor, Tensor]] = []  # enqueued after the optimiser step
        self._seen: list[Tensor] = []
        if pretraining:
            self.head = PairHead(
                width,
                norm=method.norm,
                last_norm=method.last_norm,
                eps=method.norm_eps,
                momentum=method.norm_momentum,
            )
            self.bank = SharedBank(
                method.bank_size,
                width,
                ["language", "side"],
                initial=method.bank_initial,
                rings=self.rings,
            )
            self.objective = Objective(
                method.temperature, in_batch=method.in_batch_negatives, backend=method.loss_backend
            )

    def losses(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Both directions, the masked language model, and the monitors of collapse and leakage."""
        assert self.head is not None
        assert self.bank is not None
        states = self.encoder.passage(**batch["inputs"])
        center, context = self.head(*states.chunk(2))
        language = batch["language"]
        valid = self.negatives(int(language[0]))
        bank = self.bank.features
        terms = self.objective(
            center,
            context,
            context_bank=bank,
            center_bank=bank,
            context_valid=valid[CONTEXT],
            center_valid=valid[CENTER],
        )
        if self.training:
            self._new.append((center.detach(), context.detach(), language))
        loss = self.method.cts_weight * terms.loss  # Eq. 3
        logged = {
            "center_to_context": terms.center_to_context.loss,
            "context_to_center": terms.context_to_center.loss,
            "accuracy": torch.stack([p.hits for p in terms if p.hits is not None]).float().mean(),
            "batch_accuracy": batch_hits(center.detach(), context.detach()).mean(),
            **separation(bank, self.bank.label("language")),
        }
        if self.mlm_head is not None:
            logged["mlm"] = self._masked_lm(self.mlm_head, batch)
            loss = loss + self.method.mlm_weight * logged["mlm"]
        return {"loss": loss, **logged}

    def negatives(self, language: int) -> tuple[Tensor, Tensor]:
        """Rows (K,) of the bank that are negatives of centres' and of contexts' side."""
        assert self.bank is not None
        labels = {"language": language} if self.method.language_bank else {}
        if self.method.bank_sides == "both":
            return (self.bank.valid(**labels),) * 2
        return self.bank.valid(**labels, side=CENTER), self.bank.valid(**labels, side=CONTEXT)

    def _masked_lm(self, head: nn.Module, batch: Mapping[str, Any]) -> Tensor:
        states = self.encoder.passage.tower.model(**batch["masked"]).last_hidden_state
        return masked_lm_loss(head, states, batch["labels"])

    def after_optimizer_step(self) -> None:
        """Enqueue both sides of this step, of all ranks."""
        if self.bank is None:
            return
        for center, context, language in self._new:
            for side, rows in ((CENTER, center), (CONTEXT, context)):  # rank order within a side
                self.bank.enqueue(rows, language=language, side=torch.full_like(language, side))
        self._new = []

    def negatives_per_query(self, global_batch_size: int) -> int:
        """At most the bank of the query's language and the other rows of both sides."""
        size = self.method.bank_size // self.rings
        size //= 1 if self.method.bank_sides == "both" else 2
        return size + 2 * (global_batch_size - 1) * self.method.in_batch_negatives

    def validation_step(
        self, batch: Mapping[str, Any], batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Held-out pairs of one language: running statistics know no batch, each is on its own."""
        assert self.head is not None
        self._seen.append(batch_hits(*self.head(*self.encoder.passage(**batch["inputs"]).chunk(2))))

    def on_validation_epoch_end(self) -> None:
        """Log ``val/batch_accuracy``, to be held against ``train/batch_accuracy`` (leakage)."""
        hits = all_gather_no_grad(torch.cat(self._seen))
        self._seen = []
        self.log("val/batch_accuracy", hits.mean())
