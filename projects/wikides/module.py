"""Phase II as a module: a ranker of candidates."""

import torch
from torch import Tensor
from torch.nn import functional as F

from common.engine.module import ContrastiveModule
from common.losses.output import at_least_float32
from projects.wikides.batches import RankBatch
from projects.wikides.config import Config
from projects.wikides.encoder import RankerEncoder
from projects.wikides.objective import Objective


class Ranker(ContrastiveModule):
    """Phase II: candidates ranked by their similarity with the paragraph.

    Source: Ta et al. 2023, "WikiDes", section 4 (phase II), arXiv 2209.13101.

    Args:
        cfg: the experiment's config.
        encoder: shared by paragraphs, candidates and descriptions.

    Distributed: local; the mean over ranks is that of one process, as every row counts alike.
    """

    in_batch_negatives = False

    def __init__(self, cfg: Config, encoder: RankerEncoder) -> None:
        super().__init__(cfg.optim)
        self.encoder, self.monitor = encoder, cfg.eval.monitor
        self.objective = Objective(cfg.method)

    def scores(self, batch: RankBatch) -> tuple[Tensor, Tensor]:
        """Scores of the candidates (B, C), 0 where there is none, and of the descriptions (B,)."""
        mask = batch["mask"]
        document = at_least_float32(self.encoder(**batch["document"]))
        # descriptions, then the candidates that there are
        texts = at_least_float32(self.encoder(**batch["texts"]))
        target, candidates = torch.split(texts, [len(document), len(texts) - len(document)])
        owner = torch.arange(len(document), device=mask.device)[:, None].expand_as(mask)[mask]
        sim = F.cosine_similarity(candidates, document[owner], dim=1)
        rouge = batch["rouge"].to(sim)
        flat = self.objective.score(sim, rouge[mask])
        # a dense table, as every candidate has its place by rank
        table = torch.zeros_like(rouge).masked_scatter(mask, flat)
        gold = F.cosine_similarity(target, document, dim=1)
        return table, self.objective.score(gold, batch["target_rouge"])

    def losses(self, batch: RankBatch) -> dict[str, Tensor]:
        """Loss, how often the best candidate scores highest, and the description above all."""
        scores, gold = self.scores(batch)
        out = self.objective(scores, gold, batch["mask"], batch["ranks"])
        highest = scores.detach().masked_fill(~batch["mask"], -torch.inf).amax(1)
        return {
            "loss": out.loss,
            "top1": out.hits.float().mean(),
            "gold_on_top": gold.detach().ge(highest).float().mean(),
        }

    def negatives_per_query(self, global_batch_size: int) -> int:
        """None: candidates are compared with each other."""
        return 0

    def validation_step(self, batch: RankBatch, batch_idx: int) -> None:
        """Log what the chosen candidates have of ROUGE (mean of ROUGE-1, -2, -L).

        ``val/gold_rouge`` is against the description; ``val/selection_loss`` is the released
        criterion, 1 - the mean of the chosen and the gold text against the paragraph.
        """
        scores, _ = self.scores(batch)
        chosen = scores.masked_fill(~batch["mask"], -torch.inf).argmax(1, keepdim=True)
        options, rows = {"on_epoch": True, "sync_dist": True}, len(scores)
        gold = batch["gold_quality"].gather(1, chosen).mean()
        source = batch["source_quality"].gather(1, chosen)[:, 0]
        criterion = 1 - (source + batch["target_quality"]).mean() / 2
        self.log("val/gold_rouge", gold, batch_size=rows, **options)  # type: ignore[arg-type]
        self.log("val/selection_loss", criterion, batch_size=rows, **options)  # type: ignore[arg-type]
