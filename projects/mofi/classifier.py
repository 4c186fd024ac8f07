"""The classifier over entities: which classes a step sees, and how their vectors move."""

import torch
from torch import Tensor, nn

from common.config import OptimConfig
from common.data.samplers import sample_rng
from common.distributed.collectives import all_gather_no_grad
from projects.mofi.class_matrix import ClassMatrix, sample_classes
from projects.mofi.config import MethodConfig
from projects.mofi.objective import classification_loss

CLASS_STREAM = 31


class EntityClassifier(nn.Module):
    """Cosines to one vector an entity, under a margin, over sampled entities.

    Source: Wu et al. 2024, section 3.2 (arXiv 2306.07952).

    Attributes:
        matrix: class vectors W with their optimiser.

    Args:
        num_classes: C.
        dim: D.
        method: margin, scale, sampling.
        optim: constants of Adam.
        seed: of the sampled classes.
        counts: (C,) images of each class, for sampling by frequency.

    Distributed: global on every rank.
    """

    def __init__(
        self,
        num_classes: int,
        dim: int,
        method: MethodConfig,
        optim: OptimConfig,
        seed: int,
        counts: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.method, self.seed = method, seed
        self.matrix = ClassMatrix(
            num_classes,
            dim,
            std=method.class_std,
            moments=method.class_moments,
            betas=(optim.betas[0], optim.betas[1]),
            eps=optim.eps,
            weight_decay=method.class_weight_decay,
        )
        self.odds = None
        if method.sampling == "frequency" and counts is not None:
            self.odds = counts.double().numpy() ** method.frequency_power

    def forward(self, image: Tensor, labels: Tensor, entities: Tensor) -> Tensor:
        """L_cls of embeddings (B, D), drawn entities (B,) and all entities (B, E).

        The margin is there in training only.
        """
        m, matrix = self.method, self.matrix
        rng = sample_rng(self.seed, 0, int(matrix.step), CLASS_STREAM)
        everyone = all_gather_no_grad(labels)
        ids, log_counts = sample_classes(everyone, matrix.num_classes, m.sampled, rng, self.odds)
        own_ids = matrix.own(ids)
        corrections = None
        if log_counts is not None and m.logq_correction:
            corrections = log_counts[torch.isin(ids, own_ids)]
        margin = m.margin if self.training else 0.0
        return classification_loss(
            image,
            matrix.take(own_ids),
            own_ids,
            labels,
            scale=m.scale,
            margin=margin,
            margin_on=m.margin_on,
            entities=entities,
            log_counts=corrections,
        )
