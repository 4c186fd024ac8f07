"""The local protocol: the seven task types of MTEB, averages, and the miner against planted positives."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from common.encoders.modes import evaluated
from common.encoders.text.instructed import InstructedEncoder
from common.engine.workspace import Workspace
from common.evaluation.figures import embedding_map, score_figure
from common.evaluation.gallery import retrieval_gallery
from common.evaluation.retrieval.text_mining import mine_text_negatives, planted_share
from common.evaluation.text.embedding_tasks import (
    average_items,
    classification_correct,
    clustering_v_measure,
    pair_average_precision,
    reranking_scores,
    retrieval_scores,
    spearman_items,
    summarisation_spearman,
    type_averages,
)
from common.evaluation.text.sts import pair_cosine, spearman
from projects.nv_embed.config import Config
from projects.nv_embed.eval_sets import (
    Classes,
    EvalSet,
    Pairs,
    Reranking,
    Retrieval,
    Summaries,
    build_set,
    planted_task,
)
from projects.nv_embed.module import NvEmbed

PLANTED_NEGATIVES = 4  # mined for each query
CLASS_MAP_LIMIT = 10  # classes of an embedding map
Encode = Callable[[Sequence[str], str], Tensor]  # texts, instruction -> (N, D)
Score = tuple[str, float, list[float]]  # metric, value, its items (empty: it has none)


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
            found = self.encoder.encode(new, self.batch_size, instruction=instruction)
            self.rows |= {(instruction, t): row for t, row in zip(new, found, strict=True)}
        return torch.stack([self.rows[instruction, text] for text in texts])


def evaluate(cfg: Config, module: NvEmbed, workspace: Workspace) -> dict[str, float]:
    """Main score of every task, averages by type, the mean of the primary tasks, and the mechanism."""
    metrics: dict[str, float] = {}
    by_type: dict[str, dict[str, float]] = {}
    items: dict[str, list[float]] = {}
    with evaluated(module.encoder, cfg.trainer.accelerator):
        encode = Encoded(module.encoder, cfg.eval.batch_size)
        for name in cfg.eval.tasks:
            data = build_set(cfg, name)
            (metric, value, own), kind = score_set(encode, data, name)
            metrics[metric] = value
            by_type.setdefault(kind, {})[name] = value
            if own:
                items[name] = own
                workspace.items(metric, own)
            if isinstance(data, Classes) and kind == "classification":
                metrics[f"{metric}_chance"] = 1 / (1 + max(data.test_labels))
            show(encode, data, name, workspace)
        if cfg.eval.planted and cfg.data.source == "sets":
            metrics |= planted_metrics(cfg, encode)
    primary = {name: items[name] for name in cfg.eval.primary if name in items}
    if len(primary) == len(cfg.eval.primary):
        values = average_items(primary)
        workspace.items("primary_average", values)
        metrics["primary_average"] = sum(values) / len(values)
    metrics |= type_averages(by_type)
    if int(module.negatives_seen):
        metrics["own_class_negatives"] = float(module.own_class_seen / module.negatives_seen)
    return metrics


def score_set(encode: Encode, data: EvalSet, name: str) -> tuple[Score, str]:
    """Main score of a test set, and its type.

    Classification, clustering, pairs, STS and summaries have the instruction on every text,
    retrieval and reranking on queries only.
    """
    told = data.instruction
    if isinstance(data, Retrieval):
        scores = retrieval_scores(encode(data.queries, told), encode(data.documents, ""), data.relevant)  # fmt: skip
        return (f"{name}_ndcg_at_10", _mean(scores), scores), "retrieval"
    if isinstance(data, Reranking):
        candidates = [encode(texts, "") for texts in data.candidates]
        scores = reranking_scores(encode(data.queries, told), candidates, data.relevant)
        return (f"{name}_map", _mean(scores), scores), "reranking"
    if isinstance(data, Classes):
        labels, test = torch.tensor(data.test_labels), encode(data.test, told)
        if not data.train:
            value = clustering_v_measure(test, data.test_labels)
            return (f"{name}_v_measure", value, []), "clustering"
        train = encode(data.train, told)
        correct = classification_correct(train, torch.tensor(data.train_labels), test, labels)
        scores = correct.double().tolist()
        return (f"{name}_accuracy", _mean(scores), scores), "classification"
    if isinstance(data, Summaries):
        human, machine = ([encode(texts, told) for texts in side] for side in (data.human, data.machine))  # fmt: skip
        value = summarisation_spearman(human, machine, data.scores)
        return (f"{name}_spearman", value, []), "summarisation"
    first, second = encode(data.first, told), encode(data.second, told)
    if set(data.gold) <= {0.0, 1.0}:
        value = pair_average_precision(first, second, [g > 0 for g in data.gold])
        return (f"{name}_average_precision", value, []), "pair_classification"
    cosine = pair_cosine(first, second).tolist()
    value = spearman(cosine, data.gold)
    return (f"{name}_spearman", value, spearman_items(cosine, data.gold)), "sts"


def show(encode: Encode, data: EvalSet, name: str, workspace: Workspace) -> None:
    """Pictures of a task: nearest documents, map of few classes, predicted against gold."""
    if isinstance(data, Retrieval):
        rows = F.normalize(encode(data.queries, data.instruction), dim=1)
        scores = rows @ F.normalize(encode(data.documents, ""), dim=1).T
        right = [min(own) for own in data.relevant]
        gallery = retrieval_gallery(scores, data.queries, data.documents, right)
        workspace.gallery(f"nearest documents {name}", gallery)
    elif isinstance(data, Classes) and len(set(data.test_labels)) <= CLASS_MAP_LIMIT:
        labels = torch.tensor(data.test_labels)
        names = [str(i) for i in range(int(labels.max()) + 1)]
        points = encode(data.test, data.instruction)
        workspace.figure(f"map {name}", embedding_map(points, labels, names, name))
    elif isinstance(data, Pairs) and not set(data.gold) <= {0.0, 1.0}:
        cosine = pair_cosine(encode(data.first, data.instruction), encode(data.second, data.instruction))  # fmt: skip
        workspace.figure(name, score_figure(cosine.tolist(), data.gold, name))


def planted_metrics(cfg: Config, encode: Encode) -> dict[str, float]:
    """How often a teacher mines descriptions that are right, with the filter and without.

    ``mined_planted`` and ``mined_planted_unfiltered``: share of planted positives among the negatives
    that the encoder mines for queries that have one; ``mined_removed``: share of nearest candidates
    dropped by the filter. ``bm25_*``: the same of BM25, the teacher of the mini config.
    """
    task, planted = planted_task(cfg.data.root, cfg.eval.max_items)
    among = [q for q, own in enumerate(planted) if own]
    right = [sorted(own) for own in task.relevant]
    encoders: dict[str, Any] = {
        "query_encoder": lambda texts: encode(texts, task.instruction),
        "document_encoder": lambda texts: encode(texts, ""),
    }
    found: dict[str, float] = {}
    for teacher, functions in (("mined", encoders), ("bm25", {})):
        for suffix, ratio in (("", cfg.data.mining.ratio or 0.95), ("_unfiltered", None)):
            mined = mine_text_negatives(
                task.queries, task.documents, right, PLANTED_NEGATIVES, ratio=ratio, **functions
            )
            found[f"{teacher}_planted{suffix}"] = planted_share(mined, planted, among=among)
            if ratio is not None:
                found[f"{teacher}_removed"] = mined.removed
    return found


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
