"""Ranks of the validation items while training, and the value that selects weights and stops."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from common.distributed.collectives import all_gather_no_grad
from projects.mclrec.ranking import rank_metrics, target_ranks
from projects.mclrec.sasrec import SASRec

MONITOR = "val/mrr_at_10_rounded"
DIGITS = 4  # metric_decimal_place of the release: gains below it are none


class ValidationRanks:
    """Ranks of the validation items among all items, batch by batch.

    Args:
        encoder: scores items.
        ks: of the metrics.
    """

    def __init__(self, encoder: SASRec, ks: Sequence[int]) -> None:
        self.encoder, self.ks = encoder, sorted({*ks, 10})  # 10: what the weights are selected by
        self.ranks: list[Tensor] = []

    def add(self, batch: Mapping[str, Tensor]) -> None:
        """Rank the targets of a batch of `HeldOut`; items of its ``history`` take no part."""
        scores = self.encoder.scores(self.encoder.user_vectors(batch["items"], batch["lengths"]))
        self.ranks.append(target_ranks(scores, batch["target"], batch.get("history")))

    def result(self) -> dict[str, float]:
        """Metrics over the users of all ranks by their logged keys, `MONITOR` among them."""
        ranks = all_gather_no_grad(torch.cat(self.ranks)).cpu().numpy()
        self.ranks = []
        metrics = {f"val/{name}": value for name, value in rank_metrics(ranks, self.ks).items()}
        return metrics | {MONITOR: round(metrics["val/mrr_at_10"], DIGITS)}
