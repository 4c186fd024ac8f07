"""Titles against the skills of their adverts; and the baseline that predicts single skills."""

from torch import Tensor, nn

from common.losses.functional.masks import id_mask
from common.losses.info_nce import InfoNCELoss
from common.losses.output import LossOutput
from projects.vacancysbert.config import MethodConfig


class Objective(nn.Module):
    """Symmetric InfoNCE of titles T and skill sets S of the same adverts.

        L = -1/2B sum_i [log e^(T_i.S_i / tau) / sum_j w_ij e^(T_i.S_j / tau)
                       + log e^(S_i.T_i / tau) / sum_j w_ji e^(S_i.T_j / tau)]

    w_ij is 0 where advert j has the title or the skill set of advert i, and w_ii is 1.

    Source: Bocharova et al. 2023, "VacancySBERT", arXiv 2307.16638 (abstract: a Siamese network
    that matches titles with skills); the equation is a reconstruction, see the card.

    Args:
        method: section of the config.

    Distributed: gathers negatives, and the hashes behind w.
    """

    def __init__(self, method: MethodConfig) -> None:
        super().__init__()
        self.scale = 1 / method.temperature
        self.mask_duplicates = method.mask_duplicates
        self.loss = InfoNCELoss(method.symmetric, gather=method.gather, backend=method.loss_backend)

    def forward(self, titles: Tensor, skills: Tensor, duplicates: Tensor) -> LossOutput:
        """Loss of a batch.

        Args:
            titles: (B, D) raw embeddings.
            skills: (B, D), row i of the advert of title i.
            duplicates: (B, 2) int64, hashes of title and skill set.
        """
        ids = duplicates if self.mask_duplicates else None
        out: LossOutput = self.loss(titles, skills, self.scale, ids=ids)  # Eq. 1
        return out


class SkillPrediction(nn.Module):
    """Titles against rows of a table of skills: softmax over the skills drawn in the batch.

    A skill is drawn as often as it occurs, so the batch is a sample of its frequencies. Other
    skills of the same title and the same skill of other titles are no negatives.

    Source: after Decorte et al. 2021, "JobBERT", arXiv 2109.09605 (title embeddings against skill
    embeddings with negative sampling).

    Args:
        method: section of the config.
        dim: D of the titles.

    Distributed: gathers negatives.
    """

    def __init__(self, method: MethodConfig, dim: int) -> None:
        super().__init__()
        self.scale = 1 / method.temperature
        self.table = nn.Embedding(method.skill_buckets, dim)
        self.loss = InfoNCELoss(gather=method.gather, backend=method.loss_backend)

    def forward(self, titles: Tensor, skill_ids: Tensor, title_ids: Tensor) -> LossOutput:
        """Loss of a batch.

        Args:
            titles: (B, D) raw embeddings.
            skill_ids: (B, S) int64 rows of the table.
            title_ids: (B,) int64 hashes of the titles.
        """
        count = skill_ids.shape[1]
        ids = skill_ids.flatten()
        mask = id_mask(title_ids.repeat_interleave(count))
        out: LossOutput = self.loss(
            titles.repeat_interleave(count, 0), self.table(ids), self.scale, ids=ids, mask=mask
        )
        return out
