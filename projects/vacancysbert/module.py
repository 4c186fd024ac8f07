"""One encoder for titles and skill sets, trained to bring those of an advert together."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from common.distributed.collectives import all_gather_no_grad
from common.engine.module import ContrastiveModule
from common.losses.functional.masks import masked_share
from common.losses.grad_cache import cached_encode
from projects.vacancysbert.config import Config
from projects.vacancysbert.encoder import TitleSkillEncoder
from projects.vacancysbert.normalisation import cosines, gold_ranks
from projects.vacancysbert.objective import Objective, SkillPrediction


class VacancySBERT(ContrastiveModule):
    """VacancySBERT, or a title encoder that predicts single skills (the baseline).

    Source: Bocharova et al. 2023, arXiv 2307.16638.

    Args:
        cfg: the experiment's config.
        encoder: what is trained, for titles and skills.

    Distributed: gathers negatives.
    """

    def __init__(self, cfg: Config, encoder: TitleSkillEncoder) -> None:
        super().__init__(cfg.optim)
        self.encoder, self.method = encoder, cfg.method
        self.batch_size, self.adverts = cfg.eval.batch_size, cfg.data.batch_size
        self.objective: Objective | SkillPrediction
        if cfg.method.objective == "pairs":
            self.objective = Objective(cfg.method)
        else:
            self.objective = SkillPrediction(cfg.method, encoder.num_features)
        self._seen: list[tuple[Tensor, Tensor]] = []

    def losses(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Loss, share of titles whose own skills score best, cosine of pairs, masked share."""
        titles = self._embed(self.encoder.embed_titles, batch["title"])
        same = batch["duplicates"]
        if isinstance(self.objective, SkillPrediction):
            out = self.objective(titles, batch["skill_ids"], same[:, 0])
            return {"loss": out.loss, "top1": out.hits.float().mean()}
        skills = self._embed(self.encoder.embed_skills, batch["skills"])
        out = self.objective(titles, skills, same)
        return {
            "loss": out.loss,
            "top1": out.hits.float().mean(),
            "positive_cosine": F.cosine_similarity(titles.detach(), skills.detach()).mean(),
            "masked_share": masked_share(same),
        }

    def _embed(self, embed: Callable[..., Tensor], inputs: Mapping[str, Tensor]) -> Tensor:
        """Embeddings of a batch; with a gradient cache in the memory of a chunk."""
        size = self.method.chunk_size
        if size is None:
            return embed(**inputs)
        vectors: Tensor = cached_encode(lambda part: embed(**part), dict(inputs), size)
        return vectors

    def negatives_per_query(self, global_batch_size: int) -> int:
        """Skills of the other adverts, duplicates included."""
        draws = self.method.skills_per_title if self.method.objective == "skills" else 1
        batch = global_batch_size if self.method.gather else self.adverts
        return max(0, batch * draws - draws)

    def validation_step(self, batch: tuple[Sequence[str], Tensor], batch_idx: int) -> None:
        """Embed titles; the standard ones are embedded once, at the end."""
        titles, gold = batch
        vectors = self.encoder.encode_titles(titles, self.batch_size)
        self._seen.append((vectors.to(self.device), gold.to(self.device)))

    def on_validation_epoch_end(self) -> None:
        """Log Recall@10 of titles alone over the queries of all ranks, as ``val/recall_at_10``."""
        titles, gold = (
            all_gather_no_grad(torch.cat(part)).cpu() for part in zip(*self._seen, strict=True)
        )
        self._seen = []
        (data,) = self.trainer.datamodule.val_sets.values()  # type: ignore[attr-defined]
        candidates = self.encoder.encode_titles(data.candidates, self.batch_size)
        ranks = gold_ranks(cosines(titles, candidates), gold)
        self.log("val/recall_at_10", ranks.le(10).float().mean())
