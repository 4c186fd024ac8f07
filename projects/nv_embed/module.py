"""The two objectives: in-batch and hard negatives, or a query's own hard negatives alone."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from common.distributed.collectives import all_gather_no_grad
from common.encoders.text.language_models.causal import block_classes
from common.engine.module import ContrastiveModule
from common.kernels.specs.base import Exclude
from common.losses.info_nce import InfoNCELoss
from common.losses.output import LossOutput
from projects.nv_embed.config import Config, MethodConfig
from projects.nv_embed.encoder.instructed import InstructedEncoder


class Objective(nn.Module):
    """InfoNCE of queries against documents.

    With in-batch negatives, over the B queries of all ranks and n hard negatives each:

        L_1 = -log e^{q_i.d_i/t} / sum_j (e^{q_i.d_j/t} + sum_k e^{q_i.d_jk/t})

    without, over a query's own n negatives:

        L_2 = -log e^{q_i.d_i/t} / (e^{q_i.d_i/t} + sum_k e^{q_i.d_ik/t})

    Source: Lee et al. 2024, section 3.3, arXiv 2405.17428 (in words; the formulas are those of
    in-batch training with hard negatives).

    Args:
        method: temperature and options.
        in_batch: which of the two.
    """

    def __init__(self, method: MethodConfig, *, in_batch: bool) -> None:
        super().__init__()
        self.scale, self.in_batch = 1 / method.temperature, in_batch
        self.loss = InfoNCELoss(
            in_batch=in_batch,
            own_hard_only=not (in_batch and method.shared_hard_negatives),
            gather=method.gather and in_batch,
            backend=method.loss_backend,
        )

    def forward(
        self, query: Tensor, positive: Tensor, negative: Tensor, left_out: Exclude | None = None
    ) -> LossOutput:
        """Loss of raw embeddings (B, D), (B, D) and (B, n, D).

        `left_out`: documents that are no negatives.
        """
        out: LossOutput = self.loss(
            query, positive, self.scale, hard_negatives=negative, mask=left_out
        )
        return out


class NvEmbed(ContrastiveModule):
    """An instructed encoder with the objective of one stage.

    Args:
        cfg: the experiment's config.
        encoder: trained in place; the stages share it.
        in_batch: the stage has in-batch negatives.

    Attributes:
        negatives_seen: in-batch positives of other queries that were compared so far.
        own_class_seen: how many of them belong to the query's own class.

    Distributed: gathers negatives in a stage with in-batch negatives, else local.
    """

    negatives_seen: Tensor
    own_class_seen: Tensor

    def __init__(self, cfg: Config, encoder: InstructedEncoder, *, in_batch: bool = False) -> None:
        lr = None if in_batch else cfg.method.stage_2_lr
        super().__init__(replace(cfg.optim, lr=lr or cfg.optim.lr))
        self.encoder = encoder
        self.objective = Objective(cfg.method, in_batch=in_batch)
        self.in_batch_negatives = in_batch
        self.num_hard = cfg.data.num_negatives
        self.shared_hard = cfg.method.shared_hard_negatives
        self.gather, self.mask = cfg.method.gather, in_batch and cfg.method.mask_own_class
        self.register_buffer("negatives_seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("own_class_seen", torch.zeros((), dtype=torch.int64))

    def continue_counts(self, before: "NvEmbed") -> None:
        """Go on with the counts of an earlier stage."""
        self.negatives_seen.copy_(before.negatives_seen)
        self.own_class_seen.copy_(before.own_class_seen)

    def negatives_per_query(self, global_batch_size: int) -> int:
        """B (1 + n) - 1 with in-batch negatives, else n."""
        if not self.in_batch_negatives:
            return self.num_hard
        hard = self.num_hard * (global_batch_size if self.shared_hard else 1)
        return global_batch_size - 1 + hard

    def fsdp_units(self) -> set[type[nn.Module]]:
        """The blocks of the language model."""
        return block_classes(self.encoder.model)

    def embed(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, D), positives (B, D) and hard negatives (B, n, D) of a batch."""
        query, document = self.encoder(**batch["query"]), self.encoder(**batch["document"])
        rows = len(query)
        return query, document[:rows], document[rows:].unflatten(0, (rows, -1))

    def losses(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Loss of the stage, share of queries whose positive wins, in-batch mates of one class."""
        left_out = own_class(batch["label"], batch["document_label"]) if self.mask else None
        out = self.objective(*self.embed(batch), left_out)
        terms = {"loss": out.loss, "accuracy": out.hits.float().mean()}
        if self.in_batch_negatives:
            kinds = torch.stack([batch["task"], batch["label"]], dim=1)
            if self.gather:
                kinds = all_gather_no_grad(kinds)
            same, total = own_class_negatives(*kinds.unbind(1))
            if self.training:
                self.own_class_seen += same
                self.negatives_seen += total
            terms["own_class_negatives"] = same / max(1, total)
        return terms


def own_class(label: Tensor, documents: Tensor) -> Exclude:
    """Documents of a batch that are of a query's class.

    Args:
        label: (B,) class of the queries, -1 without.
        documents: (B, 1 + n) class of the positive and of the negatives, -1 where it is not known.
    """
    columns = torch.cat([documents[:, 0], documents[:, 1:].flatten()])
    return Exclude(label.where(label.ge(0), -2), columns)  # -2: no document's


def own_class_negatives(task: Tensor, label: Tensor) -> tuple[Tensor, int]:
    """Pairs of different rows of one class, and all pairs of different rows.

    Args:
        task: (B,) index of the training set.
        label: (B,) class, -1 without.

    >>> own_class_negatives(torch.tensor([0, 0, 1]), torch.tensor([4, 4, -1]))
    (tensor(2), 6)
    """
    same = (label[:, None] == label) & (task[:, None] == task) & label.ge(0)[:, None]
    return same.sum() - same.diagonal().sum(), len(label) * (len(label) - 1)
