"""Decoupled contrastive learning on a SimCLR, MoCo or NNCLR host."""

import torch
from torch import Tensor

from common.encoders.heads import MLPHead, ProjectedEncoder
from common.encoders.momentum import MomentumEncoder
from common.encoders.queue import FeatureQueue, SupportSet
from common.encoders.sync_norm import synchronise_batch_norm
from common.families.images.networks import projected_encoder
from common.families.images.validation import KnnValidatedModule
from projects.dcl.config import Config
from projects.dcl.objective import ObjectiveOutput, OneWayObjective, TwoViewObjective
from projects.dcl.views import TwoViewBatch


class DCL(KnnValidatedModule):
    """Two views of every image under InfoNCE, DCL or DCLW.

    - simclr: both views through one network, against all other vectors of the global batch.
    - moco: view 1 as query, view 2 through the momentum encoder as key, against a queue.
    - nnclr: the nearest neighbour of one view in a support set, against predictions of the other.

    Source: Yeh et al. 2022, section 3, arXiv 2110.06848.

    Args:
        cfg: the experiment's config.
        network: encoder and projector; None builds those of the config.

    Distributed: gathers negatives; queue and support set hold the rows of all ranks.
    """

    def __init__(self, cfg: Config, network: ProjectedEncoder | None = None) -> None:
        super().__init__(cfg.optim, k=cfg.eval.items_k, temperature=cfg.eval.knn_temperature)
        method, model, self.diagnose_every = cfg.method, cfg.model, cfg.trainer.log_every_n_steps
        self.network = network or projected_encoder(cfg)
        self.host, self.average = method.host, method.reduction == "mean"
        self.objective: TwoViewObjective | OneWayObjective
        if self.host == "simclr":
            self.objective = TwoViewObjective(method)
        else:
            self.objective = OneWayObjective(method, in_batch=self.host == "nnclr")
        if self.host == "moco":
            self.in_batch_negatives = method.loss == "dclw"  # its weights average over the batch
            self.momentum_encoder = MomentumEncoder(self.network, method.momentum)
            self.queue = FeatureQueue(method.queue_size, model.out_dim)
        if self.host == "nnclr":
            self.predictor = MLPHead(
                model.out_dim, model.predictor, model.out_dim, norm=model.head_norm
            )
            self.support = SupportSet(method.support_size, model.out_dim)
        if model.sync_batchnorm:
            synchronise_batch_norm(self)
        self._new_rows: list[Tensor] = []  # enqueued after the optimiser step

    def losses(self, batch: TwoViewBatch) -> dict[str, Tensor]:
        """Loss, in-batch top-1, and now and then mean and variation of the coupling q_B."""
        out = getattr(self, f"_{self.host}")(batch["view_1"], batch["view_2"])
        terms = {"loss": out.loss, "top1": out.hits.float().mean()}
        if len(out.npc):
            terms |= {"npc_mean": out.npc.mean(), "npc_variation": out.npc.std() / out.npc.mean()}
        return terms

    def _simclr(self, view_1: Tensor, view_2: Tensor) -> ObjectiveOutput:
        z_1, z_2 = self.network(torch.cat([view_1, view_2])).chunk(2)
        diagnose = (self.global_step + 1) % self.diagnose_every == 0
        output: ObjectiveOutput = self.objective(z_1, z_2, diagnose)
        return output

    def _moco(self, view_1: Tensor, view_2: Tensor) -> ObjectiveOutput:
        key = self.momentum_encoder(view_2)  # no gradient
        self._new_rows.append(key)
        output: ObjectiveOutput = self.objective(self.network(view_1), key, self.queue.features)
        return output

    def _nnclr(self, view_1: Tensor, view_2: Tensor) -> ObjectiveOutput:
        z = self.network(torch.cat([view_1, view_2]))
        z_1, z_2 = z.detach().chunk(2)
        p_1, p_2 = self.predictor(z).chunk(2)
        self._new_rows.append(z_1)
        first = self.objective(self.support.nearest(z_1), p_2)
        second = self.objective(self.support.nearest(z_2), p_1)
        loss = (first.loss + second.loss) * (0.5 if self.average else 1.0)
        return ObjectiveOutput(loss, torch.cat([first.npc, second.npc]), first.hits)

    def after_optimizer_step(self) -> None:
        """Move the momentum encoder, then enqueue what this step has seen."""
        if self.host == "moco":
            self.momentum_encoder.update(self.network)
        if self._new_rows:
            store = self.queue if self.host == "moco" else self.support
            store.enqueue(torch.cat(self._new_rows))
            self._new_rows = []

    def negatives_per_query(self, global_batch_size: int) -> int:
        """Other samples' views (SimCLR, NNCLR) or the queue (MoCo)."""
        if self.host == "moco":
            return len(self.queue)
        return max(0, global_batch_size - 1) * (2 if self.host == "simclr" else 1)
