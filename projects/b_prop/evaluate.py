"""Re-ranking of a first stage's candidates, before and after fine-tuning.

How good the words are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from common.data.samplers import sample_rng
from common.data.splits import stable_fraction
from common.encoders.modes import evaluated, evaluation_mode
from common.encoders.text.cross_encoder import CrossEncoder
from common.engine.own_texts import show_queries
from common.engine.workspace import Workspace
from common.evaluation.retrieval.beir import RetrievalSet, load_titles
from common.evaluation.retrieval.ranking import Run
from common.evaluation.retrieval.runs import RunScores, run_scores, words_on_disk
from common.evaluation.retrieval.subsets import split_queries
from common.families.retrieval.evaluation import average_scores, keep_scores
from common.families.retrieval.sets import (
    SYNTHETIC,
    is_bundled,
    read_set,
    set_counts,
    set_folder,
    set_names,
)
from projects.b_prop import lexical
from projects.b_prop.config import Config
from projects.b_prop.corpus_statistics import CorpusStatistics
from projects.b_prop.data import (
    PairBatches,
    analyse,
    documents_folder,
    given_file,
    kept_documents,
    training_documents,
)
from projects.b_prop.distribution import top_words
from projects.b_prop.documents import Collection, Terms, num_candidates
from projects.b_prop.module import BProp
from projects.b_prop.reranking import cross_validated, first_stage, rank
from projects.b_prop.stages import at_start
from projects.b_prop.word_attention import word_pieces
from projects.b_prop.words import WordSampler

KS = (10, 20, 100)
METRICS = (
    "ndcg_at_10",
    "ndcg_at_20",
    "precision_at_10",
    "precision_at_20",
    "mrr_at_10",
    "mrr_at_100",
    "recall_at_100",
    "mrr",
    "map",
)
TOP, WORD_DOCUMENTS = 10, 2000  # words of a document that are looked at; documents
PAIR_ORDERS = ("accuracy", "other_document", "shared_words", "idf")
FRESH = 2**30  # epoch of pairs that no training reaches
Sets = dict[str, tuple[RetrievalSet, Run]]  # name -> set and candidates


def evaluate(cfg: Config, module: BProp, workspace: Workspace) -> dict[str, float]:
    """Every row of the table, ``<row><set>_<metric>`` and ``<row>average_<metric>``.

    Rows: the ranker as it is (zero-shot after pre-training); ``tuned_``, each query ranked by a
    copy that was fine-tuned on the other folds; ``tuned_<n>_`` with n training queries; the same of
    the encoder before pre-training as ``untrained_*``; ``bm25_`` (or the given first stage),
    ``ql_``, ``overlap_`` and ``oracle_``. Queries without a relevant candidate count 0 in every
    row, also those without any relevant document.

    Source: Ma et al. 2021, "B-PROP", section 5.2 (five-fold cross-validation, re-ranking),
    arXiv 2104.09791.
    """
    sets = evaluation_sets(cfg)
    metrics = {"num_sets": float(len(sets))}
    for name, (data, _) in sets.items():
        metrics |= set_counts(data, name, workspace)
    if sets:
        metrics |= score_ranker(cfg, module.ranker, sets, workspace)
        if cfg.eval.untrained:
            raw = at_start(cfg).to(module.ranker.device)
            metrics |= score_ranker(cfg, raw, sets, workspace, "untrained_")
        if cfg.eval.lexical:
            for row, runs in lexical_runs(cfg, sets).items():
                metrics |= score_runs(sets, runs, row, workspace)
    if cfg.eval.pairs and cfg.method.pretrain:
        with evaluated(module.ranker, cfg.trainer.accelerator):
            metrics |= pair_quality(cfg, module.ranker, workspace)
    if cfg.eval.words and cfg.eval.sets and cfg.eval.sets[0] != SYNTHETIC:
        metrics |= word_quality(cfg, workspace)
    return metrics


def evaluation_sets(cfg: Config) -> Sets:
    """Sets of the config with the candidates of their queries."""
    sets = {}
    for place, name in set_names(cfg.eval.sets).items():
        options, bundled = cfg.eval, is_bundled(place, cfg.data.root)
        documents = bundled or "max_documents" in options.own_limits
        data = read_set(
            place,
            root=cfg.data.root,
            seed=cfg.seed,
            max_documents=options.max_documents if documents else None,
        )
        limit = options.max_queries if bundled or "max_queries" in options.own_limits else None
        if limit is not None and limit < len(data.queries):
            before = data.cut_from or (len(data.queries), len(data.corpus))
            data = replace(split_queries(data, limit)[0], cut_from=before)
        candidates = cfg.eval.candidates.get(place)
        file = None if candidates is None else given_file(cfg, candidates)
        sets[name] = data, first_stage(data, cfg.eval.depth, file, words_on_disk(cfg.runs_dir))
    return sets


def score_ranker(
    cfg: Config, ranker: CrossEncoder, sets: Sets, workspace: Workspace, prefix: str = ""
) -> dict[str, float]:
    """Rows of one ranker, as it is and fine-tuned.

    With ``eval.lexical`` also ``ql_tau``, how far it agrees with query likelihood.
    """
    tune, size = cfg.eval.tune, cfg.eval.batch_size
    counts = {f"tuned_{n}_": n for n in cfg.eval.query_counts}
    rows: dict[str, dict[str, Run]] = {"": {}}
    with evaluated(ranker, cfg.trainer.accelerator):
        for name, (data, candidates) in sets.items():
            rows[""][name] = rank(ranker, data, candidates, size)
            for row, n in ({"tuned_": None} | counts).items() if tune.steps else ():
                rows.setdefault(row, {})[name] = cross_validated(
                    ranker, data, candidates, tune, seed=cfg.seed, num_queries=n, batch_size=size
                )
    metrics: dict[str, float] = {}
    for row, runs in rows.items():
        metrics |= score_runs(sets, runs, f"{prefix}{row}", workspace)
    taus = []
    for name, (data, candidates) in sets.items():
        if cfg.eval.lexical:
            likely = lexical.query_likelihood(data, candidates, cfg.words)
            taus.append(lexical.agreement(rows[""][name], likely))
        if not prefix:
            ranking = sorted_run(rows[""][name])
            values = all_scores(data, ranking).per_query["ndcg_at_10"]
            show_queries(data, ranking, values, workspace, name)
    return metrics | ({f"{prefix}ql_tau": float(np.mean(taus))} if taus else {})


def lexical_runs(cfg: Config, sets: Sets) -> dict[str, dict[str, Run]]:
    """Orders without training, by row and set."""
    return {
        "bm25_": {n: candidates for n, (_, candidates) in sets.items()},
        "ql_": {n: lexical.query_likelihood(d, c, cfg.words) for n, (d, c) in sets.items()},
        "overlap_": {n: lexical.shared_words(d, c) for n, (d, c) in sets.items()},
        "random_": {n: lexical.random_order(c, cfg.seed) for n, (_, c) in sets.items()},
        "oracle_": {n: lexical.best_order(d, c) for n, (d, c) in sets.items()},
    }


def score_runs(
    sets: Sets, runs: Mapping[str, Run], row: str, workspace: Workspace
) -> dict[str, float]:
    """Metrics of one row on all sets and their average; values by query are saved."""
    metrics: dict[str, float] = {}
    for name, run in runs.items():
        kept = keep_scores(all_scores(sets[name][0], run), row, name, workspace)
        metrics |= {f"{row}{name}_{metric}": kept[f"{name}_{metric}"] for metric in METRICS}
    if len(sets) > 1:
        means = average_scores(list(sets), metrics, row, "average", workspace)
        metrics |= {f"{row}{key}": value for key, value in means.items()}
    return metrics


def all_scores(data: RetrievalSet, run: Run) -> RunScores:
    """Metrics of a ranking; queries without any relevant document count 0, as in LETOR.

    Args:
        data: collection, queries, judgements; one query at least has a relevant document.
        run: query id -> document id -> score.

    Returns:
        Values of all queries of the judgements, in their order.
    """
    asked = np.array([any(g > 0 for g in grades.values()) for grades in data.qrels.values()])
    per_query = {}
    for metric, values in run_scores(data, run, KS).per_query.items():
        row = np.zeros(len(asked))
        row[asked] = values
        per_query[metric] = row.tolist()
    return RunScores(per_query)


def sorted_run(run: Run) -> Run:
    """Candidates of every query, best first."""
    return {q: dict(sorted(hits.items(), key=lambda x: -x[1])) for q, hits in run.items()}


def pair_quality(cfg: Config, ranker: CrossEncoder, workspace: Workspace) -> dict[str, float]:
    """Share of fresh pairs of word sets that are put in their order; of equal scores half.

    The documents are those of the pre-training, the pairs belong to an epoch that it never reaches.

    Returns:
        ``pair_accuracy`` of the ranker, ``pair_other_document`` of the ranker that gets the sets
        with a document they were not drawn from: as much as it knows without a look at the
            document; of
        two orders without training ``pair_shared_words``, words
        that the document holds, and ``pair_idf``, mean inverse document frequency of the words,
        which does not look at the document. Nothing if prepared documents are not available.
    """
    if cfg.data.source == "files" and not documents_folder(cfg).is_dir():
        return {}
    raw = at_start(cfg)  # whose attention the training read
    documents, collection = training_documents(cfg, raw)
    words = replace(cfg.words, labels="score")  # also where the training had random ones
    plain = replace(cfg, words=words, method=replace(cfg.method, mlm=False, rop=True))
    kept, sampler = kept_documents(documents, cfg), WordSampler(words, collection)
    pairs = PairBatches(documents, kept, sampler, ranker, plain)
    order = sample_rng(cfg.seed, FRESH, 0).permutation(len(pairs))[: cfg.eval.pairs]
    scores = {name: list[Sequence[float]]() for name in PAIR_ORDERS}
    terms = Terms(words)

    def idf(word: str) -> float:  # the collection counts no stop words
        return 0.0 if word in terms.stop_words else collection.statistics.idf(terms.stem(word))

    size = max(1, cfg.eval.batch_size // 2)
    for start in range(0, len(order), size):
        keys = [(int(i), FRESH) for i in order[start : start + size]]
        drawn = [pairs.draw(*key) for key in keys]
        strangers = [pairs.row((i + cfg.data.pairs) % len(pairs)) for i, _ in keys]
        moved = [(row, sets) for row, (_, sets) in zip(strangers, drawn, strict=True)]
        for name, members in (("accuracy", drawn), ("other_document", moved)):
            batch = pairs.batch(keys, members)["pairs"]
            inputs = {k: v.to(ranker.device) for k, v in batch.items()}
            with evaluation_mode(ranker):
                scores[name] += ranker(**inputs).reshape(-1, 2).tolist()
        for row, sets in drawn:
            row_words = {*row["words"]}
            scores["shared_words"].append([sum(w in row_words for w in s) for s, _ in sets])
            scores["idf"].append([float(np.mean([idf(w) for w in s])) for s, _ in sets])
    right = {k: [(a > b) + 0.5 * (a == b) for a, b in rows] for k, rows in scores.items()}
    for name in ("accuracy", "other_document"):
        workspace.items(f"pair_{name}", right[name])
    return {f"pair_{name}": float(np.mean(rows)) for name, rows in right.items()}


def word_quality(cfg: Config, workspace: Workspace, tfidf: bool = False) -> dict[str, float]:
    """How specific the ten likeliest words of a document are, and how many are in its title.

    The documents are those of the first set, without their titles, at most `WORD_DOCUMENTS`, those
    of smallest hash; those with fewer than ten words are left out. The attention is that of the
    encoder before training, as the pre-training sees it.

    Args:
        cfg: the experiment's config.
        workspace: takes the values of every document.
        tfidf: take the words of the highest count times idf, whatever the config draws from.

    Returns:
        ``word_idf``, mean inverse document frequency of the words; ``word_title_overlap``, share of
        the title's words (at most ten) that are among them. Nothing for a set without titles.
    """
    folder = set_folder(cfg.eval.sets[0], cfg.data.root)
    titles, bodies = load_titles(folder)
    titled = [i for i, text in bodies.items() if text.strip() and titles[i].strip()]
    chosen = {*sorted(titled, key=stable_fraction)[:WORD_DOCUMENTS]}
    texts = {i: bodies[i] for i in titled if i in chosen}
    if not texts:
        return {}
    ranker = at_start(cfg)
    analysed = analyse(cfg, ranker, texts)
    sampler = WordSampler(cfg.words, Collection.of(analysed, cfg.words))
    terms = Terms(cfg.words)
    counts = [terms.all_counts(row) for row in analysed]
    statistics = CorpusStatistics.of(counts)
    idf, overlap = [], []
    for place, (row, count) in enumerate(zip(analysed, counts, strict=True)):
        if num_candidates(row) < TOP:  # in every distribution, also in one that adds words
            continue
        cut = word_pieces(ranker.tokenizer, [titles[row["id"]]], cfg.data.max_document)[0]
        title = {w for w in cut.words if w.isalpha() and w not in terms.stop_words}
        candidates = sampler.candidates(row, sample_rng(cfg.seed, 0, place))
        if title:
            scores = candidates.scores
            if tfidf:
                scores = np.array([count[w] * statistics.idf(w) for w in candidates.words])
            best = top_words(candidates, scores, TOP)
            idf.append(float(np.mean([statistics.idf(w) for w in best])))
            overlap.append(len({terms.stem(w) for w in title} & {*best}) / min(TOP, len(title)))
    if not idf:
        return {}
    workspace.items("word_idf", idf)
    workspace.items("word_title_overlap", overlap)
    return {"word_idf": float(np.mean(idf)), "word_title_overlap": float(np.mean(overlap))}
