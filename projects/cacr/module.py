"""Contrastive attraction and contrastive repulsion as a training module."""

from typing import Any

import torch
from torch import Tensor, nn

from common.data.image.multi_view import MultiViewBatch
from common.encoders.heads import MLPHead, ProjectedEncoder
from common.encoders.momentum import MomentumEncoder
from common.encoders.queue import FeatureQueue
from common.engine.optim import build_optimizer, scaled_optim
from common.families.images.validation import KnnValidatedModule
from projects.cacr.config import Config
from projects.cacr.networks import build_network
from projects.cacr.objective import (
    DIAGNOSED_QUERIES,
    MomentumObjective,
    MultiViewObjective,
    QueueObjective,
    momentum_at,
    weight_diagnostics,
)


def network_options(cfg: Config) -> dict[str, Any]:
    """Arguments of `build_network`."""
    model = cfg.model
    return {
        "backbone": model.backbone,
        "widths": list(model.widths),
        "image_size": cfg.data.image_size,
        "cifar_stem": model.cifar_stem,
        "freeze_patch_embed": model.freeze_patch_embed,
        "projector": list(model.projector),
        "out_dim": model.out_dim,
        "head_norm": model.head_norm,
        "projector_last_norm": model.projector_last_norm,
    }


class CACR(KnnValidatedModule):
    """K + 1 views of every image under attraction and repulsion, or under InfoNCE.

    - batch: all views through one network, against each other.
    - queue: queries of all views against the momentum encoder's keys and a queue.
    - momentum: predictions from all views (and local crops) against the momentum encoder's keys.

    Source: Zheng et al. 2023, arXiv 2105.03746.

    Args:
        cfg: the experiment's config.
        network: encoder and projector; None builds those of the config.

    Distributed: gathers negatives; the queue holds the rows of all ranks.
    """

    def __init__(self, cfg: Config, network: ProjectedEncoder | None = None) -> None:
        super().__init__(cfg.optim, k=cfg.eval.items_k, temperature=cfg.eval.knn_temperature)
        method, model = cfg.method, cfg.model
        self.network = network or build_network(**network_options(cfg))
        self.host, self.milestones = method.host, cfg.optim.milestones
        self.tau_pos, self.tau_neg = method.tau_pos, method.tau_neg
        self.diagnose_every = cfg.trainer.log_every_n_steps
        self.objective: MultiViewObjective | QueueObjective | MomentumObjective
        if self.host == "batch":
            self.objective = MultiViewObjective(method)
        else:
            self.start_momentum = method.momentum
            self.rising_momentum = method.momentum_schedule == "cosine"
            self.momentum_encoder = MomentumEncoder(self.network, method.momentum)
        if self.host == "queue":
            self.objective = QueueObjective(method)
            self.in_batch_negatives = method.in_batch_negatives
            self.queue = FeatureQueue(method.queue_size, model.out_dim)
        if self.host == "momentum":
            self.objective = MomentumObjective(method)
            self.local_keys = method.local_keys
            # p_v and pi- of the loss as weights of squared distances: 1 - cosine is half of one.
            self.tau_pos, self.tau_neg = 1 / method.temperature, 1 / (2 * method.temperature)
            self.predictor = MLPHead(
                model.out_dim, model.predictor, model.out_dim, norm=model.head_norm,
                last_norm=model.predictor_last_norm, last_affine=False,
            )  # fmt: skip
        if model.sync_batchnorm:
            nn.SyncBatchNorm.convert_sync_batchnorm(self)  # type: ignore[no-untyped-call]
        self._new_rows: list[Tensor] = []  # enqueued after the optimiser step

    def losses(self, batch: MultiViewBatch) -> dict[str, Tensor]:
        """Loss and its terms; on logged steps also entropy and rank correlation of the weights."""
        terms: dict[str, Tensor] = getattr(self, f"_{self.host}")(batch)
        return terms

    def _batch(self, batch: MultiViewBatch) -> dict[str, Tensor]:
        z = embed_views(self.network, batch["views"])
        terms: dict[str, Tensor] = self.objective(z)
        return terms | self._diagnose(z[0], z[1:], z[1])

    def _queue(self, batch: MultiViewBatch) -> dict[str, Tensor]:
        queries = embed_views(self.network, batch["views"])
        keys = embed_views(self.momentum_encoder, batch["views"])  # no gradient
        self._new_rows.append(keys[-1])  # only the last view's, as in the release
        terms: dict[str, Tensor] = self.objective(queries, keys, self.queue.features)
        return terms | self._diagnose(queries[0], keys[1:], keys[1])

    def _momentum(self, batch: MultiViewBatch) -> dict[str, Tensor]:
        queries = [*self._predict(batch["views"])]
        keys = [*embed_views(self.momentum_encoder, batch["views"])]  # no gradient
        if "local_views" in batch:
            queries += [*self._predict(batch["local_views"])]
            if self.local_keys:
                keys += [*embed_views(self.momentum_encoder, batch["local_views"])]
        terms: dict[str, Tensor] = self.objective(queries, keys)
        return terms | self._diagnose(keys[0], torch.stack(queries[1:]), queries[1])

    def _predict(self, views: Tensor) -> Tensor:
        """Predictions (V, B, D)."""
        predicted: Tensor = self.predictor(embed_views(self.network, views).flatten(0, 1))
        return predicted.view(*views.shape[:2], -1)

    def _diagnose(self, query: Tensor, positives: Tensor, negatives: Tensor) -> dict[str, Tensor]:
        """`weight_diagnostics` of a few queries of this rank, on logged steps."""
        if (self.global_step + 1) % self.diagnose_every:
            return {}
        few = slice(0, DIAGNOSED_QUERIES)
        found = weight_diagnostics(
            query[few], positives[:, few], negatives, self.tau_pos, self.tau_neg
        )
        return {name: query.new_tensor(value) for name, value in found.items()}

    def after_optimizer_step(self) -> None:
        """Move the momentum encoder, then enqueue what this step has seen."""
        if self.host != "batch":
            if self.rising_momentum:
                done = self.global_step / self.trainer.max_steps if self._trainer else 0.0
                self.momentum_encoder.momentum = momentum_at(done, self.start_momentum)
            self.momentum_encoder.update(self.network)
        if self._new_rows:
            self.queue.enqueue(torch.cat(self._new_rows))
            self._new_rows = []

    def negatives_per_query(self, global_batch_size: int) -> int:
        """Other samples in one other view; with a queue its rows and other samples' queries."""
        stored = len(self.queue) if self.host == "queue" else 0
        return stored + (max(0, global_batch_size - 1) if self.in_batch_negatives else 0)

    def configure_optimizers(self) -> Any:
        """The common optimiser and schedule; with milestones a division by ten at each."""
        configured = super().configure_optimizers()
        if not self.milestones:
            return configured
        total = self.trainer.max_steps
        edges = [round(fraction * total) for fraction in self.milestones]
        optimizer = build_optimizer(
            self.parameter_groups(), scaled_optim(self.optim, self.global_batch_size)
        )

        def factor(step: int) -> float:
            return float(0.1 ** sum(step >= edge for edge in edges))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


def embed_views(network: nn.Module, views: Tensor) -> Tensor:
    """Views (V, B, 3, S, S) -> embeddings (V, B, D), all views in one pass."""
    embeddings: Tensor = network(views.flatten(0, 1))
    return embeddings.view(*views.shape[:2], -1)
