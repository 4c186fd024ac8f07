"""Documents of a pair found among those of the batch, each by the expert of its domain."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch.callbacks import EarlyStopping
from torch import Tensor
from torch.nn import functional as F

from common.distributed.process import gather_objects
from common.engine.module import ContrastiveModule
from common.evaluation.text.pair_classification import pair_metrics
from common.losses.auxiliary.routing import (
    AccumulatedInformation,
    load_balancing,
    router_information,
    specified_expert,
)
from projects.moe_embeddings.cocitation import Pair
from projects.moe_embeddings.config import Config
from projects.moe_embeddings.data import PairBatch, expert_of
from projects.moe_embeddings.encoder import DomainEncoder
from projects.moe_embeddings.objective import Objective, gathered


class MoeEmbeddings(ContrastiveModule):
    """One pass over both documents of every pair, then the objective on pooled states.

    Source: Hallee et al. 2024, "Contrastive learning and mixture of experts enables precise vector
    embeddings", arXiv 2401.15713.

    Args:
        cfg: the experiment's config.
        encoder: what is trained.

    Distributed: gathers negatives and router statistics (local if not ``method.gather``).
    """

    def __init__(self, cfg: Config, encoder: DomainEncoder) -> None:
        super().__init__(cfg.optim)
        self.encoder, self.method, self.experts = encoder, cfg.method, expert_of(cfg)
        self.objective = Objective(cfg.method)
        self.information: AccumulatedInformation | None = None
        if cfg.method.router_loss == "mutual_information" and cfg.method.detached_mi:
            layout = encoder.layout
            kinds = len(layout.domains), layout.num_experts
            self.information = AccumulatedInformation(*kinds, layout.top_k)
        self._seen: list[tuple[float, int, float]] = []  # score, label, loss

    def losses(self, batch: PairBatch) -> dict[str, Tensor]:
        """Loss, its terms, share of documents that find their partner, cosine of pairs."""
        found = self.encoder(batch["input_ids"], batch["attention_mask"], batch["expert"])
        first, second = found.chunk(2)
        out = self.objective(first, second)
        assert out.hits is not None
        router = self.router_losses(batch["domain"])
        return {
            "loss": out.loss + sum(router.values(), out.loss.new_zeros(())),
            "contrast": out.loss,
            "top1": out.hits.float().mean(),
            "positive_cosine": F.cosine_similarity(first.detach(), second.detach()).mean(),
            **router,
        }

    def router_losses(self, domain: Tensor) -> dict[str, Tensor]:
        """Weighted losses of the last pass's router logits, for documents of the domains (2 B,)."""
        method, routes = self.method, self.encoder.routes
        found: dict[str, Tensor] = {}
        if routes is None or not routes.logits:
            return found
        logits = routes.logits
        if method.gather:
            logits, domain = gathered(logits, domain)
        if method.balance_weight:
            found["balance"] = method.balance_weight * load_balancing(logits)
        if method.router_loss == "specified":
            found["specified"] = method.router_weight * specified_expert(logits, domain)
        elif self.information is not None:
            found["information"] = method.router_weight * self.information(logits, domain)
        elif method.router_loss == "mutual_information":
            kinds = len(self.encoder.layout.domains)
            told = router_information(logits, domain, kinds)
            found["information"] = -method.router_weight * told
        return found

    def after_optimizer_step(self) -> None:
        """Keep the temperature in its range."""
        self.objective.clamp_()

    def configure_callbacks(self) -> list[Any]:
        """Early stopping on the validation pairs, if the config asks; its state is in checkpoints."""
        if self.method.patience is None:
            return []
        mode = "max" if self.method.monitor == "f1" else "min"
        key = f"val/{self.method.monitor}"
        return [EarlyStopping(key, patience=self.method.patience, mode=mode, check_finite=False)]

    @torch.no_grad()
    def validation_step(self, batch: Sequence[Pair], batch_idx: int) -> None:
        """Score pairs; the loss is that of the positive ones of the batch."""
        sides = []
        for side in (0, 1):
            texts, domains = [pair[side] for pair in batch], [pair.domain for pair in batch]
            numbers = self.encoder.indices(domains, len(texts))
            experts = [self.experts(t, d) for t, d in zip(texts, numbers, strict=True)]
            sides.append(
                self.encoder.encode(texts, domains, len(texts), experts=experts, normalize=False)
            )
        right = torch.tensor([pair.label == 1 for pair in batch])
        loss = float("nan")
        if right.any():
            kept = self.objective.gather
            self.objective.gather = False  # ranks have unequal numbers of batches
            loss = float(self.objective(sides[0][right], sides[1][right].to(sides[0])).loss)
            self.objective.gather = kept
        scores = F.cosine_similarity(*sides).tolist()
        rows = zip(scores, batch, strict=True)
        self._seen += [(score, pair.label, loss) for score, pair in rows]

    def on_validation_epoch_end(self) -> None:
        """Log ``val/f1``, ``val/auc`` and ``val/loss`` over the pairs of all ranks."""
        seen = [row for own in gather_objects(self._seen) for row in own]
        self._seen = []
        scores, labels, losses = zip(*seen, strict=True)
        found = pair_metrics(scores, labels)
        self.log("val/f1", found["f1"])
        self.log("val/auc", found["auc"])
        self.log("val/loss", float(torch.tensor(losses).nanmean()))
