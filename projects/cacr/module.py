"""Contrastive attraction and contrastive repulsion as a training module."""

import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from common.data.image.multi_view import MultiViewBatch
from common.encoders.heads import MLPHead, ProjectedEncoder
from common.encoders.momentum import MomentumEncoder
from common.encoders.queue import FeatureQueue
from common.encoders.sync_norm import synchronise_batch_norm
from common.engine.optim import milestone_schedule
from common.families.images.networks import embed_views, projected_encoder
from common.families.images.validation import KnnValidatedModule
from common.losses.cacr import CACRLoss
from projects.cacr.config import Config
from projects.cacr.diagnostics import batch_diagnostics
from projects.cacr.objective import build_objective
from projects.cacr.terms import multi_view_terms, queue_terms


def new_network(cfg: Config) -> ProjectedEncoder:
    """The network with which training begins."""
    network = projected_encoder(cfg)
    if cfg.model.zero_init_residual:
        for block in network.modules():
            if isinstance(block, Bottleneck):
                nn.init.zeros_(block.bn3.weight)
    return network


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
        self.method, self.milestones = method, cfg.optim.milestones
        self.network, self.objective = network or new_network(cfg), build_objective(method)
        self.tau_pos, self.tau_neg = method.tau_pos, method.tau_neg
        self.diagnose_every = cfg.trainer.log_every_n_steps
        if method.host != "batch":
            self.momentum_encoder = MomentumEncoder(self.network, method.momentum)
        if method.host == "queue":
            self.in_batch_negatives = method.in_batch_negatives
            self.queue = FeatureQueue(method.queue_size, model.out_dim)
        if method.host == "momentum":
            # p_v and pi- of the loss as weights of squared distances: 1 - cosine is half of one.
            self.tau_pos, self.tau_neg = 1 / method.temperature, 1 / (2 * method.temperature)
            self.predictor = MLPHead(
                model.out_dim,
                model.predictor,
                model.out_dim,
                norm=model.head_norm,
                last_norm=model.predictor_last_norm,
                last_affine=False,
                last_bias=False,  # MoCo v3's
            )
        if model.sync_batchnorm:
            synchronise_batch_norm(self)
        self._new_rows: list[Tensor] = []  # enqueued after the optimiser step

    def losses(self, batch: MultiViewBatch) -> dict[str, Tensor]:
        """Loss and its terms; on logged steps also entropy and rank correlation of the weights."""
        terms: dict[str, Tensor] = getattr(self, f"_{self.method.host}")(batch)
        return terms

    def _batch(self, batch: MultiViewBatch) -> dict[str, Tensor]:
        z = embed_views(self.network, batch["views"])
        terms = multi_view_terms(cast(CACRLoss, self.objective), z, self.method)
        return terms | self._diagnose(z[0], z[1:], z[1])

    def _queue(self, batch: MultiViewBatch) -> dict[str, Tensor]:
        queries = embed_views(self.network, batch["views"])
        keys = embed_views(self.momentum_encoder, batch["views"])  # no gradient
        self._new_rows.append(keys[-1])  # only the last view's, as in the release
        stored = self.queue.features
        terms = queue_terms(cast(Any, self.objective), queries, keys, stored, self.method)
        in_batch = self.in_batch_negatives
        negatives = (queries[0], stored) if in_batch else (stored,)
        return terms | self._diagnose(queries[0], keys[1:], negatives, in_batch=in_batch)

    def _momentum(self, batch: MultiViewBatch) -> dict[str, Tensor]:
        queries = [*self._predict(batch["views"])]
        keys = [*embed_views(self.momentum_encoder, batch["views"])]  # no gradient
        if "local_views" in batch:
            queries += [*self._predict(batch["local_views"])]
            if self.method.local_keys:
                keys += [*embed_views(self.momentum_encoder, batch["local_views"])]
        terms = {"loss": self.objective(queries, keys).loss}
        positives = torch.stack(queries[1:])
        return terms | self._diagnose(keys[0], positives, keys[0], anchors=queries[1])

    def _predict(self, views: Tensor) -> Tensor:
        """Predictions (V, B, D)."""
        predicted: Tensor = self.predictor(embed_views(self.network, views).flatten(0, 1))
        return predicted.view(*views.shape[:2], -1)

    def _diagnose(
        self, query: Tensor, positives: Tensor, negatives: Any, **options: Any
    ) -> dict[str, Tensor]:
        """What the weights say, on logged steps."""
        if (self.global_step + 1) % self.diagnose_every:
            return {}
        return batch_diagnostics(query, positives, negatives, self.tau_pos, self.tau_neg, **options)

    def after_optimizer_step(self) -> None:
        """Move the momentum encoder, then enqueue what this step has seen."""
        if self.method.host != "batch":
            if self.method.momentum_schedule == "cosine":
                done = self.global_step / self.trainer.max_steps if self._trainer else 0.0
                self.momentum_encoder.momentum = cosine_momentum(done, self.method.momentum)
            self.momentum_encoder.update(self.network)
        if self._new_rows:
            self.queue.enqueue(torch.cat(self._new_rows))
            self._new_rows = []

    def negatives_per_query(self, global_batch_size: int) -> int:
        """Other samples in one other view; with a queue its rows and other samples' queries."""
        stored = len(self.queue) if self.method.host == "queue" else 0
        return stored + (max(0, global_batch_size - 1) if self.in_batch_negatives else 0)

    def configure_optimizers(self) -> Any:
        """The common optimiser and schedule; with milestones a division by ten at each."""
        optimizers = super().configure_optimizers()
        if self.milestones:
            optimizers["lr_scheduler"]["scheduler"] = milestone_schedule(
                optimizers["optimizer"], self.milestones, self.trainer.max_steps
            )
        return optimizers


def cosine_momentum(progress: float, start: float) -> float:
    """Momentum of a key encoder that rises to 1 with half a cosine.

        m = 1 - (1 - start) (1 + cos(pi * progress)) / 2

    Source: Grill et al. 2020 (BYOL), arXiv 2006.07733; Chen et al. 2021 (MoCo v3), released code,
    arXiv 2104.02057.

    Args:
        progress: share of training that is done, in [0, 1].
        start: momentum of the first step.

    >>> cosine_momentum(0.0, 0.99), cosine_momentum(1.0, 0.99)
    (0.99, 1.0)
    """
    return 1 - (1 - start) * (1 + math.cos(math.pi * progress)) / 2
