"""Documents of a pair found among those of the batch, each by the expert of its domain."""

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor
from torch.nn import functional as F

from common.config import UserError
from common.engine.callbacks import StopWithoutGain
from common.engine.module import ContrastiveModule
from projects.moe_embeddings.cocitation import Pair
from projects.moe_embeddings.config import Config
from projects.moe_embeddings.data import PairBatch, expert_of
from projects.moe_embeddings.encoder import DomainEncoder
from projects.moe_embeddings.objective import Objective
from projects.moe_embeddings.router import RouterLosses
from projects.moe_embeddings.validation import PairScores


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
        self.router = RouterLosses(cfg.method, encoder.layout)
        self.validation = PairScores(encoder, self.experts)

    def losses(self, batch: PairBatch) -> dict[str, Tensor]:
        """Loss, its terms, share of documents that find their partner, cosine of pairs."""
        embeddings = self.encoder(batch["input_ids"], batch["attention_mask"], batch["expert"])
        first, second = embeddings.chunk(2)
        out = self.objective(first, second)
        assert out.hits is not None
        routes = self.encoder.routes
        logits = [] if routes is None else routes.logits
        router: dict[str, Tensor] = self.router(logits, batch["domain"]) if logits else {}
        return {
            "loss": out.loss + sum(router.values(), out.loss.new_zeros(())),
            "contrast": out.loss,
            "top1": out.hits.float().mean(),
            "positive_cosine": F.cosine_similarity(first.detach(), second.detach()).mean(),
            **router,
        }

    def after_optimizer_step(self) -> None:
        """Keep the temperature in its range."""
        self.objective.clamp_()

    def configure_callbacks(self) -> list[Any]:
        """Early stopping on the validation pairs, if the config asks."""
        if self.method.patience is None:
            return []
        key = f"val/{self.method.monitor}"
        mode: Literal["min", "max"] = "max" if self.method.monitor == "f1" else "min"
        return [StopWithoutGain(key, self.method.patience, mode)]

    def validation_step(self, batch: Sequence[Pair], batch_idx: int) -> None:
        """Score pairs."""
        self.validation.add(batch, self.objective)

    def on_validation_epoch_end(self) -> None:
        """Log ``val/f1``, ``val/auc`` and ``val/loss`` over the pairs of all ranks."""
        for name, value in self.validation.result().items():
            self.log(f"val/{name}", value)


def check_domains_route(module: MoeEmbeddings) -> None:
    """Refuse with UserError a control outside its run, where domains decide on the expert."""
    if module.method.assignment != "domain":
        raise UserError(
            "method.assignment=hashed is a control of `make compare`: an export or a search would"
            " send documents to experts by domain; train with method.assignment=domain"
        )
