"""The local protocol: MTEB's seven task types, TF-IDF, and the miner on planted positives."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from common.engine.workspace import Workspace
from common.evaluation.retrieval.text_mining import mine_text_negatives, planted_share
from common.families.retrieval.evaluation import before_and_after
from projects.nv_embed.config import Config
from projects.nv_embed.embedding_benchmark.sets import (
    Classes,
    Encode,
    Retrieval,
    score_sets,
    show_set,
    tfidf_of,
)
from projects.nv_embed.encoder.instructed import InstructedEncoder
from projects.nv_embed.eval_sets import build_set, planted_task, wikides
from projects.nv_embed.module import NvEmbed
from projects.nv_embed.stages import recipe_of

PLANTED_NEGATIVES = 4  # mined for each query


class Encoded:
    """Embeddings under an instruction; each distinct text is encoded once.

    Args:
        encoder: in evaluation mode.
        batch_size: texts per pass.
    """

    def __init__(self, encoder: InstructedEncoder, batch_size: int) -> None:
        self.encoder, self.batch_size = encoder, batch_size
        self.rows: dict[tuple[str, str], Tensor] = {}

    def __call__(self, texts: Sequence[str], instruction: str = "") -> Tensor:
        """N texts -> (N, D)."""
        new = [t for t in dict.fromkeys(texts) if (instruction, t) not in self.rows]
        if new:
            vectors = self.encoder.encode(new, self.batch_size, instruction=instruction)
            self.rows |= {(instruction, t): row for t, row in zip(new, vectors, strict=True)}
        return torch.stack([self.rows[instruction, text] for text in texts])


def evaluate(cfg: Config, module: NvEmbed, workspace: Workspace) -> dict[str, float]:
    """Main score of every task, averages by type, the mean of the primary tasks, and the mechanism.

    Alongside them ``tfidf_*`` and, if the config asks, ``untrained_*``.
    """
    sets = {name: build_set(cfg, name) for name in cfg.eval.tasks}

    def measure(encoder: InstructedEncoder, output: Workspace | None) -> dict[str, float]:
        encode = Encoded(encoder, cfg.eval.batch_size)
        metrics, items = score_sets(lambda _: encode, sets, cfg.eval.primary)
        _keep(items, workspace, "untrained_" if output is None else "")
        for name, data in sets.items():
            if isinstance(data, Classes) and not data.train:
                metrics |= {f"{name}_{k}": v for k, v in class_cosines(encode, data).items()}
        for name, data in sets.items() if output is not None else ():
            show_set(encode, data, name, workspace)
        if cfg.eval.planted and cfg.data.source == "sets":
            metrics |= planted_metrics(cfg, encode)
        return metrics

    metrics = before_and_after(cfg, recipe_of(cfg), module.encoder, measure, workspace)
    if cfg.eval.lexical:
        report, items = score_sets(tfidf_of, sets, cfg.eval.primary)
        averages = [k for k in report if k.endswith("average") and k != "primary_average"]
        kept = {k: v for k, v in report.items() if k not in averages and not k.endswith("_chance")}
        metrics |= {f"tfidf_{k}": v for k, v in kept.items()}
        _keep(items, workspace, "tfidf_")
    if int(module.negatives_seen):
        metrics["own_class_negatives"] = float(module.own_class_seen / module.negatives_seen)
    return metrics


def class_cosines(encode: Encode, data: Classes) -> dict[str, float]:
    """Mean cosine of two texts of one class (``within_cosine``), of two (``between_cosine``).

    What in-batch negatives of the own class act on.

    Args:
        encode: texts, instruction -> (N, D).
        data: labelled texts.
    """
    rows = F.normalize(encode(data.test, data.instruction).double(), dim=1)
    labels = torch.tensor(data.test_labels)
    cosines, same = rows @ rows.T, labels[:, None] == labels
    others = ~torch.eye(len(rows), dtype=torch.bool)
    means = [float(cosines[chosen].mean()) for chosen in (same & others, ~same)]
    return dict(zip(("within_cosine", "between_cosine"), means, strict=True))


def test_documents(cfg: Config) -> list[str]:
    """Documents of the retrieval test set, for the task "search"."""
    if cfg.data.source == "synthetic":
        data = build_set(cfg, "retrieval")
        assert isinstance(data, Retrieval)
        return data.documents
    return wikides(cfg.data.root, None).documents


def planted_metrics(cfg: Config, encode: Encode) -> dict[str, float]:
    """How often a teacher mines descriptions that are right, with the filter and without.

    ``mined_planted`` and ``mined_planted_unfiltered``: share of planted positives among the
    negatives that the encoder mines for queries that have one; ``mined_removed``: share of nearest
    candidates dropped by the filter. ``bm25_*``: the same of BM25, the teacher of the mini config.
    """
    task, planted = planted_task(cfg.data.root, cfg.eval.max_items, cfg.eval.split)
    among = [q for q, golds in enumerate(planted) if golds]
    right = [sorted(golds) for golds in task.relevant]
    encoders: dict[str, Any] = {
        "query_encoder": lambda texts: encode(texts, task.instruction),
        "document_encoder": lambda texts: encode(texts, ""),
    }
    metrics: dict[str, float] = {}
    for teacher, functions in (("mined", encoders), ("bm25", {})):
        for suffix, ratio in (("", cfg.data.mining.ratio or 0.95), ("_unfiltered", None)):
            mined = mine_text_negatives(
                task.queries, task.documents, right, PLANTED_NEGATIVES, ratio=ratio, **functions
            )
            metrics[f"{teacher}_planted{suffix}"] = planted_share(mined, planted, among=among)
            if ratio is not None:
                metrics[f"{teacher}_removed"] = mined.removed
    return metrics


def _keep(items: dict[str, list[float]], workspace: Workspace, row: str) -> None:
    for metric, values in items.items():
        workspace.items(f"{row}{metric}", values)
