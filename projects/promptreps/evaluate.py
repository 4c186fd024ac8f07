"""Dense, sparse and hybrid search of every set, a sweep of their weights, and BM25, in a table."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.data.retrieval.corpus_file import names_of, texts_of
from common.data.text.normalize import text_preparation
from common.encoders.modes import evaluated, untrained
from common.encoders.state_dict import read_state_dict, weights_digest
from common.engine.own_texts import show_queries
from common.engine.workspace import Workspace
from common.evaluation.retrieval.beir import RetrievalSet
from common.evaluation.retrieval.chosen_fusion import choose_fusion, weighted_runs
from common.evaluation.retrieval.ranking import Run
from common.evaluation.retrieval.runs import RunScores, lexical_run, run_scores
from common.families.retrieval.evaluation import (
    average_scores,
    keep_scores,
    load_set,
    named_sets,
    on_disk,
)
from common.families.retrieval.sets import set_counts
from common.files import write_text
from projects.promptreps.config import Config
from projects.promptreps.data import first_tokens, worded_texts
from projects.promptreps.encoder import PromptRepsEncoder, build_encoder, variant
from projects.promptreps.lexical.encoded_shards import encode_collection, shard_runs, unpacked
from projects.promptreps.lexical.hybrid import (
    DenseIndex,
    Encoded,
    NamedRun,
    SparseIndex,
    component_runs,
    fuse,
)
from projects.promptreps.stages import zero_shot_encoder

KS = (10, 100, 1000)
SHOWN = ("ndcg_at_10", "recall_at_100", "recall_at_1000", "mrr_at_10")


@dataclass(frozen=True)
class SetRuns:
    """The two searches of a set.

    Attributes:
        documents: what was encoded for them; of a large set its first shard.
    """

    dense: NamedRun
    sparse: NamedRun
    documents: Encoded

    def fused(self, alpha: float) -> NamedRun:
        """Their fusion; at 0 and 1 still over the documents of both lists."""
        return fuse(self.dense, self.sparse, alpha)


def evaluate(cfg: Config, encoder: PromptRepsEncoder, workspace: Workspace) -> dict[str, float]:
    """Metrics on every set of ``eval.beir``, ``<row><set>_<metric>``, and their averages.

    Rows: "" (the ranking that the config chooses), ``dense_``, ``sparse_``, ``hybrid_``,
    ``alpha_<weight>_``, ``chosen_`` (by a few judged queries), ``bm25_``, ``with_bm25_`` (the first
    row merged with BM25 by ranks, the encoder's weight again chosen); those of the encoder alone
    again as ``untrained_*`` and, for each of ``eval.rows``, as ``<name>_*``. table.md has all of
    them.

    Raises:
        UserError: a set that is missing or broken, or a model that cannot be had.
    """
    metrics: dict[str, float] = {}
    rows: list[str] = []  # the prefixes of metrics
    names, dev = named_sets(cfg.eval)
    with evaluated(encoder, cfg.trainer.accelerator):
        for place, name in names.items():
            data = load_set(cfg, place)
            metrics |= set_counts(data, name, workspace)
            metrics |= _one_set(cfg, encoder, data, name, workspace, rows)
        for place, name in dev.items():
            data = load_set(cfg, place)
            for row, run in _rankings(cfg, search_set(cfg, encoder, data)).items():
                scores = run_scores(data, run, KS).metrics
                metrics |= {f"{row}{name}_{metric}": value for metric, value in scores.items()}
        if cfg.eval.probe:
            metrics |= word_probe(cfg, encoder)
    metrics |= _further(cfg, encoder, workspace, rows)
    rows = list(dict.fromkeys(rows))  # every set has all of them
    for row in rows if len(names) > 1 else ():
        if any(f"{row}{name}_ndcg_at_10" not in metrics for name in names.values()):
            continue  # a weight can't be chosen on a set of one query
        means = average_scores(list(names.values()), metrics, row, "average", workspace)
        metrics |= {f"{row}{metric}": value for metric, value in means.items()}
    write_text(
        workspace.folder(".") / "table.md", table(metrics, rows, [*names.values(), "average"])
    )
    return metrics


def search_set(cfg: Config, encoder: PromptRepsEncoder, data: RetrievalSet) -> SetRuns:
    """Both searches for all queries of a set; one larger than a shard is encoded to files."""
    size, options = cfg.eval.batch_size, cfg.eval
    prepare = text_preparation(options.normalize_text, options.lower_case)
    queries = encoder.encode([prepare(text) for text in data.queries.values()], "query", size)
    query_ids, ids = list(data.queries), names_of(data.corpus)
    if len(data.corpus) > options.shard_size:
        paths = set_shards(cfg, encoder, data)
        assert paths is not None  # it waits
        dense, sparse = shard_runs(
            paths, ids, queries, query_ids, options.depth, remove_query=options.remove_query
        )
        return SetRuns(dense, sparse, unpacked(read_state_dict(paths[0])))
    documents = encoder.encode([prepare(text) for text in data.corpus.values()], "passage", size)
    dense, sparse = component_runs(
        DenseIndex(documents, ids),
        SparseIndex(documents, ids),
        queries,
        query_ids,
        options.depth,
        remove_query=options.remove_query,
    )
    return SetRuns(dense, sparse, documents)


def set_shards(
    cfg: Config, encoder: PromptRepsEncoder, data: RetrievalSet, *, wait: bool = True
) -> list[Path] | None:
    """Files of a set's representations, see `encode_collection`."""
    options, texts = cfg.eval, texts_of(data.corpus)
    prepare = text_preparation(options.normalize_text, options.lower_case)
    key = f"{weights_digest(encoder)} {json.dumps(settings_of(cfg, encoder), sort_keys=True)}"

    def encode(rows: list[str]) -> Encoded:
        return encoder.encode([prepare(text) for text in rows], "passage", options.batch_size)

    return encode_collection(
        encode,
        texts,
        on_disk(cfg, encoder).place(texts, key),
        key,
        shard_size=options.shard_size,
        wait=wait,
    )


def encode_large_sets(cfg: Config, encoder: PromptRepsEncoder) -> None:
    """Encode shards of the sets of the evaluation that no other process has."""
    with evaluated(encoder, cfg.trainer.accelerator):
        for place in dict.fromkeys([*cfg.eval.beir, *cfg.eval.dev]):
            data = load_set(cfg, place)
            if len(data.corpus) > cfg.eval.shard_size:
                set_shards(cfg, encoder, data, wait=False)


def settings_of(cfg: Config, encoder: PromptRepsEncoder) -> dict[str, Any]:
    """What representations depend on alongside the weights."""
    prepared = {"normalize_text": cfg.eval.normalize_text, "lower_case": cfg.eval.lower_case}
    return {"prompt": asdict(encoder.prompt), "representation": asdict(encoder.options)} | prepared


def _rankings(cfg: Config, runs: SetRuns) -> dict[str, Run]:
    """The rankings of a set by the prefix of their metrics, those of the sweep of weights last."""
    named: dict[str, Run] = {
        "dense_": runs.dense,
        "sparse_": runs.sparse,
        "hybrid_": runs.fused(cfg.eval.alpha),
    }
    swept = {f"alpha_{alpha:g}_": runs.fused(alpha) for alpha in cfg.eval.alphas}
    return {"": named[f"{cfg.eval.ranking}_"], **named, **swept}


def _one_set(
    cfg: Config,
    encoder: PromptRepsEncoder,
    data: RetrievalSet,
    name: str,
    workspace: Workspace,
    rows: list[str],
) -> dict[str, float]:
    """Metrics of a set; prefixes go into `rows`."""
    metrics: dict[str, float] = {}

    def keep(row: str, scores: RunScores) -> None:
        rows.append(row)
        kept = keep_scores(scores, row, name, workspace)
        metrics.update({f"{row}{metric}": value for metric, value in kept.items()})

    runs = search_set(cfg, encoder, data)
    rankings = _rankings(cfg, runs)
    for row, run in rankings.items():
        keep(row, run_scores(data, run, KS))
    mixed = {alpha: runs.fused(alpha) for alpha in cfg.eval.alphas if 0 < alpha < 1}
    candidates: dict[float, Run] = {0.0: runs.sparse, 1.0: runs.dense, **mixed}
    chosen = choose_fusion(data, candidates, cfg.eval.hybrid_queries)
    if chosen is not None:
        keep("chosen_", run_scores(data, chosen.run, KS))
        metrics[f"chosen_{name}_dense_weight"] = chosen.weight
        workspace.say(f"set '{name}', {chosen.helped('the dense vectors', 'the sparse ones')}")
    if cfg.eval.lexical:
        options = cfg.eval
        bm25 = lexical_run(
            data,
            "bm25",
            depth=options.depth,
            drop_identical=options.remove_query,
            on_disk=on_disk(cfg, encoder),
        )
        keep("bm25_", run_scores(data, bm25, KS))
        merges = weighted_runs(rankings[""], bm25, options.depth)
        merged = choose_fusion(data, merges, options.hybrid_queries)
        if merged is not None:
            keep("with_bm25_", run_scores(data, merged.run, KS))
            metrics[f"with_bm25_{name}_encoder_weight"] = merged.weight
            workspace.say(f"set '{name}', {merged.helped('the encoder', 'BM25')}")
    shown = runs.fused(cfg.eval.alpha)
    values = run_scores(data, shown, KS).per_query["ndcg_at_10"]
    show_queries(data, shown, values, workspace, name)
    return metrics | {f"{name}_weight_idf_correlation": idf_correlation(runs.documents)}


def _further(
    cfg: Config, encoder: PromptRepsEncoder, workspace: Workspace, rows: list[str]
) -> dict[str, float]:
    """Rows of other models and prompts, and of the model before its stages.

    Prefixes go into `rows`.
    """
    metrics: dict[str, float] = {}

    def add(prefix: str, other: PromptRepsEncoder) -> None:
        with evaluated(other, cfg.trainer.accelerator):
            for place, name in named_sets(cfg.eval)[0].items():
                data = load_set(cfg, place)
                for row, run in _rankings(cfg, search_set(cfg, other, data)).items():
                    if row:
                        rows.append(prefix + row)
                        scores = keep_scores(
                            run_scores(data, run, KS), prefix + row, name, workspace
                        )
                        metrics.update({f"{prefix}{row}{k}": v for k, v in scores.items()})

    if cfg.eval.untrained:
        add("untrained_", untrained(lambda: build_encoder(cfg.model), cfg.seed, like=encoder))
    for title, row in cfg.eval.rows.items():
        base = encoder if row.pretrained is None else zero_shot_encoder(cfg, row.pretrained)
        add(f"{title}_", variant(base, row.prompt, kind=row.kind))
    return metrics


def idf_correlation(documents: Encoded) -> float:
    """Mean over documents of the correlation between the weights of tokens and their idf.

    Documents of fewer than three tokens, or of equal weights, are left out; 0 if none is left.
    """
    vectors = documents["sparse"]
    counts: dict[int, int] = {}
    for vector in vectors:
        for token in vector:
            counts[token] = counts.get(token, 0) + 1
    correlations = []
    for vector in vectors:
        weights = np.array(list(vector.values()), dtype=float)
        rarity = np.log(len(vectors) / np.array([counts[t] for t in vector], dtype=float))
        if len(vector) > 2 and weights.std() > 0 and rarity.std() > 0:
            correlations.append(float(np.corrcoef(weights, rarity)[0, 1]))
    return float(np.mean(correlations)) if correlations else 0.0


def word_probe(cfg: Config, encoder: PromptRepsEncoder) -> dict[str, float]:
    """Whether the most likely next token begins a word of a text that was not learnt."""
    texts = worded_texts(cfg, held_out=True)[: cfg.eval.probe]
    right = []
    for start in range(0, len(texts), cfg.eval.batch_size):
        part = texts[start : start + cfg.eval.batch_size]
        inputs = encoder.lm.pad(encoder.rows([item.text for item in part], "passage"))
        on_device = {name: x.to(encoder.device) for name, x in inputs.items()}
        best = encoder.lm.logits(encoder.lm(**on_device)).argmax(-1).tolist()
        for token, item in zip(best, part, strict=True):
            right.append(token in first_tokens(encoder, item.words))
    return {"word_accuracy": float(np.mean(right))}


def table(metrics: dict[str, float], rows: list[str], names: list[str]) -> str:
    """All rows alongside each other, as Markdown."""
    keys = [f"{name}_{metric}" for name in names for metric in SHOWN]
    keys = [key for key in keys if any(f"{row}{key}" in metrics for row in rows)]
    lines = ["| row | " + " | ".join(keys) + " |", "|---|" + "--:|" * len(keys)]
    for row in rows:
        values = [metrics.get(f"{row}{key}") for key in keys]
        cells = ["" if value is None else f"{100 * value:.2f}" for value in values]
        lines.append(f"| {row.rstrip('_') or 'method'} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
