"""Pairs that are scored during training: F1-max, AUC, and the objective on the positive ones."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.nn import functional as F

from common.config import UserError
from common.distributed.process import gather_objects
from projects.moe_embeddings.cocitation import Pair
from projects.moe_embeddings.encoder import DomainEncoder
from projects.moe_embeddings.objective import Objective
from projects.moe_embeddings.pair_classification import pair_metrics


class PairScores:
    """Scores of validation pairs, collected batch by batch.

    Args:
        encoder: of the documents.
        experts: expert of a document, given its text and the number of its domain.
    """

    def __init__(self, encoder: DomainEncoder, experts: Callable[[str, int], int]) -> None:
        self.encoder, self.experts = encoder, experts
        self.seen: list[tuple[float, int, float]] = []  # score, label, loss

    @torch.no_grad()
    def add(self, batch: Sequence[Pair], objective: Objective) -> None:
        """Score the pairs of a batch.

        Positive ones have a loss against each other, within this rank.
        """
        sides = []
        domains = [pair.domain for pair in batch]
        for texts in ([pair.a for pair in batch], [pair.b for pair in batch]):
            numbers = self.encoder.indices(domains, len(texts))
            assigned = [self.experts(t, d) for t, d in zip(texts, numbers, strict=True)]
            sides.append(
                self.encoder.encode(texts, domains, len(texts), experts=assigned, normalize=False)
            )
        right = torch.tensor([pair.label == 1 for pair in batch])
        # negative pairs have no loss: no weight either
        losses = torch.full((len(batch),), torch.nan, dtype=torch.float32)
        if right.any():
            first, second = (side[right].to(self.encoder.device) for side in sides)
            rows = objective(first, second, gather=False).per_sample
            losses[right] = rows.float().cpu()
        scores = F.cosine_similarity(sides[0], sides[1]).tolist()
        labels = [pair.label for pair in batch]
        self.seen += list(zip(scores, labels, losses.tolist(), strict=True))

    def result(self) -> dict[str, float]:
        """``f1``, ``auc`` and ``loss`` over the pairs of all ranks.

        What was collected is forgotten.

        Raises:
            UserError: a score that is not finite.
        """
        rows = [row for part in gather_objects(self.seen) for row in part]
        self.seen = []
        scores, labels, losses = zip(*rows, strict=True)
        if not np.isfinite(scores).all():
            raise UserError(
                "validation: a score is NaN or infinite, the encoder has diverged: lower optim.lr"
            )
        metrics = pair_metrics(scores, labels)
        loss = float(torch.tensor(losses).nanmean())
        return {"f1": metrics["f1"], "auc": metrics["auc"], "loss": loss}
