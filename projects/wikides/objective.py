"""Phase II: scores of candidates, fused with ROUGE, and the loss over their ranks.

# B paragraphs, C candidates
"""

import torch
from torch import Tensor, nn

from common.losses.functional.margin import candidate_ranking
from common.losses.output import LossOutput
from projects.wikides.config import MethodConfig


def fused(sim: Tensor, rouge: Tensor) -> Tensor:
    """Harmonic mean of similarity and ROUGE, 0 where their sum is not above 0.

        score(c, D) = 2 sim r / (sim + r)

    Source: Ta et al. 2023, "WikiDes", section 4 (metric fusion), arXiv 2209.13101.

    Args:
        sim: any shape; negative ones make a negative score while the sum is above 0.
        rouge: the same shape, in [0, 1].

    >>> fused(torch.tensor([1.0, -0.5]), torch.tensor([0.5, 0.25]))
    tensor([0.6667, 0.0000])
    """
    total = sim + rouge
    safe = total.where(total > 0, torch.ones_like(total))  # no division by 0 in the backward either
    return (2 * sim * rouge / safe).where(total > 0, torch.zeros_like(total))


class Objective(nn.Module):
    """Candidates in the order of their quality, the description above all.

        L = 1/(B n) sum_i max(0, s_i - g + lambda_g)
            + sum_{d=1}^{n-1} 1/(B (n - d)) sum_i max(0, s_{i+d} - s_i + lambda d)

    Rows with fewer candidates have their own n; equally good ones share a rank and are in no pair.
    ``loss=official`` has ``g - s_i`` in the first term, and places as ranks.

    Source: Ta et al. 2023, "WikiDes", arXiv 2209.13101, after Liu and Liu 2021, "SimCLS", equation
    3, arXiv 2106.01890.

    Args:
        method: section of the config.

    Distributed: local.
    """

    def __init__(self, method: MethodConfig) -> None:
        super().__init__()
        self.method = method

    def score(self, sim: Tensor, rouge: Tensor) -> Tensor:
        """What candidates are ranked by: similarity, ROUGE, or their harmonic mean.

        Args:
            sim: cosines with the paragraph, any shape.
            rouge: ROUGE-1 F1 with the paragraph, the same shape; a constant.
        """
        rouge = rouge.detach().to(sim)
        if not self.method.use_rouge:
            return sim  # s(c, D) = cos(e_c, e_D)
        if not self.method.use_sim:
            return rouge + 0 * sim  # a graph with a zero gradient: the encoder stays as it is
        if self.method.sim_range == "clamp":
            sim = sim.clamp(0, 1)
        elif self.method.sim_range == "unit":
            sim = (1 + sim) / 2
        return fused(sim, rouge)

    def forward(
        self, scores: Tensor, gold: Tensor, mask: Tensor, ranks: Tensor | None = None
    ) -> LossOutput:
        """Loss of a batch.

        Args:
            scores: (B, C), best candidate first; for ``official`` in any order.
            gold: (B,) scores of the descriptions.
            mask: (B, C) bool, which candidates there are.
            ranks: (B, C) int64, 0 for the best; None: their places.
        """
        margin, gold_margin = self.method.margin, self.method.gold_margin
        return candidate_ranking(
            scores,
            gold,
            margin,
            margin if gold_margin is None else gold_margin,
            target_on_top=self.method.loss == "simcls",
            mask=mask,
            ranks=ranks,
        )
