"""The Siamese student: built from the pretrained language model, trained on labels and logits."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from common.encoders.heads import PairHead
from common.encoders.modes import untrained
from common.encoders.pretrained import ARCHITECTURES, stand_in
from projects.dse.config import Config
from projects.dse.layer_pooling import layer_encoder
from projects.dse.objective import Objective
from projects.dse.pair_classifier import Pair, PairModule
from projects.dse.scorer import PairScorer, layer_tower

WWM = "bert-large-uncased-whole-word-masking"
SIZES = {**ARCHITECTURES, WWM: ARCHITECTURES["bert-large-uncased"]}


class DSE(PairModule):
    """Both sentences through one encoder; the head's logits follow labels and teacher.

    Source: Barkan et al. 2020, "Distilled Sentence Embedding", section 3, arXiv 1908.05161.

    Args:
        cfg: the experiment's config.
        scorer: what is trained; no part of it comes from the teacher.

    Distributed: local pairs, mean over them.
    """

    def __init__(self, cfg: Config, scorer: PairScorer) -> None:
        super().__init__(cfg.optim, cfg.data.pair_task, cfg.eval.thresholds)
        self.scorer = scorer
        self.objective = Objective(self.task.kind, cfg.distill.alpha)
        if cfg.student.freeze:  # its dropout stays on, as released
            tower = layer_tower(scorer.encoder)
            for part in (tower.model, tower.pooler):  # BERT's own pooler is part of BERT
                if part is not None:
                    part.requires_grad_(False)

    def losses(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Loss, its terms, and how much of the teacher's logits is explained."""
        logits = self.scorer(batch["input_ids"], batch["attention_mask"]).float()
        teacher = batch.get("teacher")
        terms: dict[str, Tensor] = self.objective(logits, batch["labels"], teacher)
        if self.task.kind == "multiclass":
            terms["accuracy"] = logits.argmax(1).eq(batch["labels"]).float().mean()
        return terms

    def pair_logits(self, pairs: Sequence[Pair], batch_size: int = 128) -> Tensor:
        """Logits (N, C): each distinct sentence is encoded once."""
        first, second = zip(*pairs, strict=True)
        return self.scorer.score_sides(first, second, batch_size=batch_size).float()


def build_scorer(cfg: Config, planned: bool = False) -> PairScorer:
    """The student before training, from the global random state.

    Args:
        cfg: the experiment's config.
        planned: stand in random weights of the same shape where the weights are not here.

    Raises:
        UserError: see `layer_encoder`.
    """
    student = cfg.student
    absent = stand_in(student.encoder, SIZES) if planned else None
    encoder = layer_encoder(
        student.encoder if absent is None else "random",
        config=student.config if absent is None else absent,
        dropout=student.dropout,
        attention=student.attention,
        max_length=cfg.data.max_length,
        length_groups=student.length_groups,
        kind=student.pool.kind,
        top_layers=student.pool.top_layers,
        use_cls=student.pool.use_cls,
        sqrt_len=student.pool.sqrt_len,
        pool_dropout=student.pool.dropout,
        projection_dim=student.projection_dim,
    )
    task = cfg.data.pair_task
    head = PairHead(encoder.num_features, student.head.dims, task.num_logits, student.head.kind)
    return PairScorer(encoder, head, task.labels)


def first_student(cfg: Config) -> DSE:
    """The student before training; the draw does not depend on the teacher."""
    return untrained(lambda: DSE(cfg, build_scorer(cfg)), cfg.seed).train()


def probe(module: DSE, pairs: Sequence[Pair]) -> dict[str, Tensor]:
    """Vectors and logits of a few pairs, compared after export and reload."""
    vectors = module.scorer.encode([text for pair in pairs for text in pair])
    logits = module.pair_logits(pairs)
    return {"embeddings": torch.nn.functional.normalize(vectors), "logits": logits}
