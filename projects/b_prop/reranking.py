"""Re-ranking with a cross-encoder: first stage, fine-tuning on judged queries, cross-validation."""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from common.config import OptimConfig, UserError
from common.data.retrieval.passages import PassageRecord
from common.data.samplers import SeededBatchSampler
from common.data.splits import stable_fraction
from common.encoders.text.cross_encoder import CrossEncoder
from common.engine.optim import build_optimizer, build_schedule, decay_groups
from common.evaluation.retrieval.beir import RetrievalSet
from common.evaluation.retrieval.ranking import Run
from common.evaluation.retrieval.runs import OnDisk, lexical_run, read_run
from common.evaluation.retrieval.subsets import query_folds
from common.losses.functional.ranking import ranking_loss
from projects.b_prop.groups import RankingGroups
from projects.b_prop.task_options import RankerTuning


def first_stage(
    data: RetrievalSet, depth: int, file: Path | None = None, on_disk: OnDisk | None = None
) -> Run:
    """Candidates of every query: of a run file in TREC's layout, or BM25's.

    Ids of queries and documents have nothing to do with each other: a document that has the id of
    the query may be a candidate.

    Args:
        data: collection, queries, judgements.
        depth: candidates of a query.
        file: of another first stage.
        on_disk: for BM25 of a large collection.

    Raises:
        UserError: a missing or broken file, or one that names none of the queries.
    """
    if file is None:
        return lexical_run(data, "bm25", depth=depth, drop_identical=False, on_disk=on_disk)
    run = {q: ids for q, ids in read_run(file, depth).items() if q in data.queries}
    if not run:
        raise UserError(f"{file} contains none of the queries; do the ids match?")
    return run


def rank(ranker: CrossEncoder, data: RetrievalSet, candidates: Run, batch_size: int = 64) -> Run:
    """The candidates in the order of a ranker, in evaluation mode."""
    return reranked(data, candidates, lambda pairs: ranker.score(pairs, batch_size))


def ranking_records(data: RetrievalSet, candidates: Run) -> list[PassageRecord]:
    """Judged queries with their relevant documents, and as negatives candidates that are not.

    Queries without a relevant document teach nothing and are left out.

    Args:
        data: the training queries.
        candidates: of the first stage.
    """
    records = []
    for query, text in data.queries.items():
        grades = data.qrels[query]
        right = tuple(data.corpus[d] for d in data.relevant(query))
        hits = candidates.get(query, {})
        wrong = tuple(data.corpus[d] for d in hits if grades.get(d, 0) <= 0)
        if right:
            records.append(PassageRecord(text, right, wrong))
    return records


def reranked(
    data: RetrievalSet, candidates: Run, score: Callable[[list[tuple[str, str]]], Tensor]
) -> Run:
    """The candidates of every query in the order of a ranker; nothing else is in the ranking.

    A query without candidates keeps its (empty) place, so that it counts in every mean.

    Args:
        data: collection, queries, judgements.
        candidates: of a first stage.
        score: N pairs (query, document) -> (N,) scores.

    Raises:
        UserError: the candidates name a query or document that the set has not.
    """
    places = [
        (query, document) for query, documents in candidates.items() for document in documents
    ]
    for query, document in places:
        if query not in data.queries or document not in data.corpus:
            raise UserError(
                f"the candidates name document {document!r} for query {query!r}: one of them is "
                "not in the set"
            )
    texts = [(data.queries[query], data.corpus[document]) for query, document in places]
    scores = score(texts).tolist() if texts else []
    run: dict[str, dict[str, float]] = {query: {} for query in data.queries}
    for (query, document), value in zip(places, scores, strict=True):
        run[query][document] = value
    return run


def fine_tune(
    ranker: CrossEncoder, data: RetrievalSet, candidates: Run, options: RankerTuning, seed: int
) -> CrossEncoder:
    """A copy of a ranker that was trained on judged queries; the ranker itself is left as it is.

    Source: Nogueira & Cho 2019, section 3, arXiv 1901.04085; groups of one relevant document and
    others: Gao et al. 2021, "Rethink training of BERT rerankers", arXiv 2101.08751.

    Args:
        ranker: on the device where it is to be trained.
        data: the training queries.
        candidates: of the first stage, for the negatives.
        options: section of the config.
        seed: of batches, negatives, dropout and a new head.

    Returns:
        The copy, in evaluation mode.

    Raises:
        UserError: no query with a relevant document, or too few documents for a group. Fewer
            queries than a batch make one smaller batch.

    Distributed: local.
    """
    device = ranker.device
    cuda = [device] if device.type == "cuda" else []
    with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices=cuda):
        torch.manual_seed(seed)
        tuned = copy.deepcopy(ranker).train()
        if options.head == "new":
            renew_head(tuned)
        if not options.steps:
            return tuned.eval()
        records = ranking_records(data, candidates)
        groups = RankingGroups(records, options.group_size, tuned.tokenize, seed)
        size = min(options.batch_size, len(groups))
        batches = SeededBatchSampler(len(groups), size, seed, num_batches=options.steps)
        optim = OptimConfig(
            lr=options.lr,
            weight_decay=options.weight_decay,
            schedule="linear",
            warmup_steps=round(options.warmup_share * options.steps),
        )
        parameters = decay_groups(tuned.named_parameters(), optim.weight_decay)
        optimizer = build_optimizer(parameters, optim)
        schedule = build_schedule(
            optimizer, optim, total_steps=options.steps, warmup_steps=optim.warmup_steps
        )
        for keys in batches:
            inputs = {k: v.to(device) for k, v in groups[keys]["pairs"].items()}
            scores = tuned(**inputs).reshape(-1, options.group_size)
            loss = ranking_loss(scores, options.loss).loss
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(tuned.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    return tuned.eval()


def renew_head(ranker: CrossEncoder) -> None:
    """Reinitialise the ranking head, in place, from the global random state."""
    std = float(getattr(ranker.model.config, "initializer_range", 0.02))
    with torch.no_grad():
        for parameter in ranker.head_parameters().values():
            if parameter.ndim > 1:
                parameter.normal_(std=std)
            else:
                parameter.zero_()


def cross_validated(
    ranker: CrossEncoder,
    data: RetrievalSet,
    candidates: Run,
    options: RankerTuning,
    *,
    seed: int,
    num_queries: int | None = None,
    batch_size: int = 64,
) -> Run:
    """Every query's candidates, re-ranked by a copy that was fine-tuned on the other folds.

    Source: k-fold cross-validation over queries, e.g. Huston & Croft 2014 (the folds of Robust04).

    Args:
        ranker: every fold starts from it.
        data: collection, queries, judgements.
        candidates: of the first stage.
        options: section of the config.
        seed: see `fine_tune`.
        num_queries: training queries of a fold (the first by hash of their text); None: all.
        batch_size: pairs of a pass when scoring.

    Raises:
        UserError: fewer queries than folds, or a fold trains on fewer than `num_queries`; see
            `fine_tune`.
    """
    try:
        folds = query_folds(data, options.folds)
    except ValueError as error:
        raise UserError(f"tune.folds: {error}") from error
    least = min(len(train.queries) for train, _ in folds)
    if num_queries is not None and num_queries > least:
        raise UserError(
            f"query_counts: {num_queries} training queries are asked for, a fold of this set has "
            f"{least}: give at most {least}, or leave the count out"
        )
    run: dict[str, Mapping[str, float]] = {}
    for number, (train, test) in enumerate(folds):
        subset = _first(train, num_queries)
        tuned = fine_tune(ranker, subset, candidates, options, seed + number)
        asked = {q: candidates[q] for q in test.queries if q in candidates}
        run |= rank(tuned, test, asked, batch_size)
    return run


def _first(data: RetrievalSet, count: int | None) -> RetrievalSet:
    """The first queries of a training set; with a smaller count a part of those with a larger."""
    if count is None or count >= len(data.queries):
        return data
    order = sorted(data.queries, key=lambda q: (stable_fraction(data.queries[q][::-1]), q))
    kept = set(order[:count])
    queries = {q: t for q, t in data.queries.items() if q in kept}
    return RetrievalSet(data.corpus, queries, {q: data.qrels[q] for q in queries})
