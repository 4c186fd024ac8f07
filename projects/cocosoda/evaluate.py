"""Code search on whole code bases: the method, the encoder before training, and words."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from common.encoders.text.sentence import SentenceEncoder
from common.engine.trainer import world_size
from common.engine.workspace import Workspace
from common.evaluation.features.geometry import alignment, uniformity
from common.evaluation.features.postprocessing import fit_whitening
from common.evaluation.gallery import retrieval_gallery
from common.evaluation.retrieval.bm25 import BM25
from common.evaluation.retrieval.runs import tfidf_vectors
from common.families.retrieval.baselines import RIDGE
from common.families.retrieval.evaluation import before_and_after
from projects.cocosoda.code.lexer import split_identifiers
from projects.cocosoda.code.search_sets import CodeSearchSet
from projects.cocosoda.config import Config
from projects.cocosoda.data import evaluation_sets
from projects.cocosoda.encoder import encode_codes, encode_queries
from projects.cocosoda.module import CoCoSoDa
from projects.cocosoda.ranks import Scores, gold_ranks, reciprocal, search_metrics
from projects.cocosoda.stages import recipe_of

LEXICAL = ("tfidf", "bm25")
METRICS = ("mrr", "recall_at_1", "recall_at_5", "recall_at_10")
COSQA = "cosqa"
Compare = Callable[[CodeSearchSet], Scores]  # a collection -> similarities of its queries
Vectors = Callable[[CodeSearchSet], tuple[Tensor, Tensor]]  # -> (Q, D) of queries, (C, D) of code


def evaluate(cfg: Config, module: CoCoSoDa, workspace: Workspace) -> dict[str, float]:
    """All rows of the table: the method, ``untrained_*``, ``tfidf_*``, ``bm25_*``, ``whitened_*``.

    Metrics are ``<row><set>_<metric>``; ``<row>average_<metric>`` is the unweighted mean over the
    languages, without CoSQA. ``alignment`` and ``uniformity_*`` are those of the first set.
    ``key_start_share`` is the share
    of the initial weights in the key encoder after the last step (m to the power of steps),
    ``queue_age`` the mean age of a queue's row in steps.

    Raises:
        UserError: missing data.
    """
    sets = evaluation_sets(cfg)

    def measure(encoder: SentenceEncoder, output: Workspace | None) -> dict[str, float]:
        row = "untrained_" if output is None else ""
        vectors = encoded(cfg, encoder)
        report = geometry(vectors(sets[0]), sets[0], cfg.eval.sample)
        report |= score_sets(cfg, cosines(vectors), workspace, row, sets)
        if output is not None and cfg.eval.whitened:
            compare = cosines(lambda data: whitened(*vectors(data)))
            rows = score_sets(cfg, compare, workspace, "whitened_", sets)
            report |= {f"whitened_{k}": v for k, v in rows.items()}
        return report

    metrics = before_and_after(cfg, recipe_of(cfg), module.encoder, measure, workspace)
    for name in LEXICAL if cfg.eval.lexical else ():
        rows = score_sets(cfg, lexical_compare(name), workspace, f"{name}_", sets)
        metrics |= {f"{name}_{k}": v for k, v in rows.items()}
    metrics |= memory(cfg)
    workspace.say(table(metrics, [data.name for data in sets]))
    return metrics


def score_sets(
    cfg: Config,
    compare: Compare,
    workspace: Workspace,
    row: str = "",
    sets: Sequence[CodeSearchSet] | None = None,
) -> dict[str, float]:
    """Metrics of every collection and their means; values by query are saved with the row's prefix.

    A gallery shows what the row finds for some queries, which are the same in all rows.

    Args:
        cfg: the project's config.
        compare: similarities of a collection's queries with its functions.
        workspace: of the run.
        row: "" or a prefix, which the returned names lack.
        sets: None: those of the config.
    """
    sets, metrics = sets or evaluation_sets(cfg), dict[str, float]()
    for data in sets:
        scores, title = compare(data), f"code search {data.name} {row.strip('_')}"
        values = reciprocal(gold_ranks(scores, data.gold_places), cfg.eval.max_rank)
        workspace.gallery(title.strip(), _gallery(scores, data))
        workspace.items(f"{row}{data.name}_mrr", values.tolist())
        metrics |= {f"{data.name}_{k}": v for k, v in search_metrics(values).items()}
    names = [data.name for data in sets if data.name != COSQA or len(sets) == 1]
    if len(names) > 1:
        for metric in METRICS:
            by_set = [metrics[f"{name}_{metric}"] for name in names]
            metrics[f"average_{metric}"] = sum(by_set) / len(by_set)
        workspace.mean_items(f"{row}average_mrr", [f"{row}{name}_mrr" for name in names])
    return metrics


def encoded(cfg: Config, encoder: SentenceEncoder) -> Vectors:
    """Vectors by an encoder in evaluation mode; a collection is encoded once."""
    size, cache = cfg.eval.batch_size, dict[str, tuple[Tensor, Tensor]]()

    def vectors(data: CodeSearchSet) -> tuple[Tensor, Tensor]:
        if data.name not in cache:
            queries = encode_queries(encoder, cfg.model, data.queries, size)
            cache[data.name] = queries, encode_codes(encoder, cfg.model, data.codes, size)
        return cache[data.name]

    return vectors


def cosines(vectors: Vectors) -> Compare:
    """Similarities of unit vectors."""

    def compare(data: CodeSearchSet) -> Scores:
        queries, codes = vectors(data)
        return lambda rows: queries[rows] @ codes.T

    return compare


def whitened(queries: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """Both sides in the coordinates in which all the code has identity covariance, of unit length.

    Source: Su et al. 2021, "Whitening Sentence Representations", arXiv 2103.15316.

    Args:
        queries: (Q, D).
        codes: (C, D), the whole code base, never a batch of it.
    """
    transform = fit_whitening(codes, ridge=RIDGE)
    both = (torch.nn.functional.normalize(transform(x), dim=1) for x in (queries, codes))
    return next(both), next(both)


def lexical_compare(name: str) -> Compare:
    """Words in common, parts of identifiers being words: "tfidf" or "bm25"."""

    def compare(data: CodeSearchSet) -> Scores:
        codes = [split_identifiers(code) for code in data.codes]
        queries = [split_identifiers(query) for query in data.queries]
        if name == "bm25":
            index = BM25(codes)
            return lambda rows: index.scores(queries[rows])
        vectors, encode = tfidf_vectors(codes, sublinear_tf=True)
        asked = encode(queries)
        return lambda rows: torch.from_numpy((asked[rows] @ vectors.T).toarray())

    return compare


def geometry(vectors: tuple[Tensor, Tensor], data: CodeSearchSet, sample: int) -> dict[str, float]:
    """Alignment of pairs and uniformity of both sides, of at most `sample` pairs of a collection.

    Source: Wang & Isola 2020, equations 1 and 2, arXiv 2005.10242.
    """
    pairs = [(i, golds[0]) for i, golds in enumerate(data.gold_places) if golds][:sample]
    if len(pairs) < 2:
        return {}
    queries, codes = (
        x[list(golds)] for x, golds in zip(vectors, zip(*pairs, strict=True), strict=True)
    )
    return {
        "alignment": alignment(queries, codes),
        "uniformity_code": uniformity(codes),
        "uniformity_query": uniformity(queries),
    }


def memory(cfg: Config) -> dict[str, float]:
    """How far keys and queues lag behind; nothing without a pre-training of fixed length."""
    method, steps = cfg.method, cfg.trainer.max_steps
    if not method.pretrain or steps is None:
        return {}
    metrics = {"key_start_share": method.momentum**steps}
    if method.queue_size:
        batch = cfg.data.batch_size * world_size(cfg.trainer) * cfg.trainer.accumulate_grad_batches
        metrics["queue_age"] = (method.queue_size / batch + 1) / 2
    return metrics


def table(metrics: dict[str, float], sets: list[str]) -> str:
    """MRR of all rows and collections as text."""
    names = [*sets, "average"] if "average_mrr" in metrics else sets
    lines = [f"{'MRR':12}" + "".join(f"{name:>12}" for name in names)]
    for row in ("", "whitened_", "untrained_", *(f"{name}_" for name in LEXICAL)):
        if f"{row}{names[0]}_mrr" in metrics:
            cells = [metrics.get(f"{row}{name}_mrr", float("nan")) for name in names]
            lines.append(f"{row.strip('_') or 'trained':12}" + "".join(f"{x:12.3f}" for x in cells))
    return "\n".join(lines)


def _gallery(scores: Scores, data: CodeSearchSet) -> list[dict[str, object]]:
    pairs = [(i, golds[0]) for i, golds in enumerate(data.gold_places) if golds]
    shown = pairs[:: max(1, len(pairs) // 6)][:6]
    if not shown:
        return []
    rows = torch.cat([scores(slice(i, i + 1)) for i, _ in shown])
    queries = [data.queries[i] for i, _ in shown]
    return retrieval_gallery(rows, queries, data.codes, [c for _, c in shown])
