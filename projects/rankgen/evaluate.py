"""Suffix identification, in-book retrieval, and the language model as a ranker."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from common.config import UserError
from common.data.lookup import data_root
from common.data.samplers import sample_rng
from common.decoding.language_model import LanguageModel
from common.encoders.modes import evaluated
from common.engine.workspace import Workspace
from common.evaluation.gallery import retrieval_gallery
from common.evaluation.retrieval.bm25 import BM25
from common.evaluation.retrieval.cross_modal import cross_modal_recall, relevant_ranks
from common.evaluation.retrieval.runs import tfidf_encoder
from common.families.retrieval.evaluation import before_and_after
from projects.rankgen.config import Config
from projects.rankgen.data import TripleList, eval_triples
from projects.rankgen.encoder import Kind, PrefixSuffixEncoder
from projects.rankgen.identification import (
    beaten,
    identification_metrics,
    load_identification,
)
from projects.rankgen.module import RankGen
from projects.rankgen.stages import recipe_of

NEGATIVE_STREAM = 66
KS = (1, 5, 10)
GALLERY_QUERIES = 6


def evaluate(cfg: Config, module: RankGen, workspace: Workspace) -> dict[str, float]:
    """Metrics of the trained encoder; of the untrained one, TF-IDF and the generator next to them.

    Accuracies of each prefix are saved for `make compare`.
    """
    whole = eval_triples(cfg)
    triples = large_books(whole, cfg.eval.num_negatives)
    if left_out := len(whole) - len(triples):
        workspace.say(
            f"{left_out} of {len(whole)} prefixes are not scored: their documents have at most"
            f" eval.num_negatives={cfg.eval.num_negatives} windows"
        )

    def measure(encoder: PrefixSuffixEncoder, output: Workspace | None) -> dict[str, float]:
        report, items = rank_metrics(cfg, encoder, triples, output)
        if output is None:
            return report
        for name, values in items.items():
            output.items(name, values.tolist())
        for path in cfg.eval.sets:
            report |= further_set(cfg, encoder, path)
        return report

    metrics = before_and_after(cfg, recipe_of(cfg), module.encoder, measure, workspace)
    if cfg.eval.lexical:
        report, items = rank_metrics(cfg, TfIdf(triples), triples)
        metrics |= {f"tfidf_{k}": v for k, v in report.items() if not k.endswith("_chance")}
        for name, values in items.items():
            workspace.items(f"tfidf_{name}", values.tolist())
    if cfg.eval.lm_prefixes or cfg.eval.decode_prefixes:
        from projects.rankgen.continuations import decode_metrics, language_model

        lm = language_model(cfg)
        if cfg.eval.lm_prefixes:
            metrics |= lm_metrics(cfg, lm, triples)
        if cfg.eval.decode_prefixes:
            with evaluated(module.encoder, cfg.trainer.accelerator):
                metrics |= decode_metrics(cfg, module.encoder, lm, triples, workspace)
    return metrics


class Encodes(Protocol):
    """A `PrefixSuffixEncoder`, or what stands in its place."""

    def encode(self, texts: Sequence[str], kind: Kind, batch_size: int = ...) -> Tensor:
        """N texts -> (N, D)."""


class TfIdf:
    """TF-IDF vectors of the triples' words as both sides: the trivial baseline."""

    def __init__(self, triples: TripleList) -> None:
        texts = [text for t in triples.rows for text in (t.prefix, t.gold, t.generated) if text]
        self._encode = tfidf_encoder(texts)

    def encode(self, texts: Sequence[str], kind: Kind, batch_size: int = 64) -> Tensor:
        """N texts -> (N, words)."""
        return self._encode(list(texts))


def rank_metrics(
    cfg: Config,
    encoder: Encodes,
    triples: TripleList,
    workspace: Workspace | None = None,
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Identification and retrieval of one encoder; per-prefix values by metric.

    ``generated_blind_accuracy`` scores gold and generation of a prefix with another prefix of the
    book; ``identification_accuracy`` is the mean of those against in-book and generated ones.
    """
    size = cfg.eval.batch_size
    prefix = encoder.encode([t.prefix for t in triples.rows], "prefix", size)
    gold = encoder.encode([t.gold for t in triples.rows], "suffix", size)
    right = (prefix * gold).sum(1)
    random = negatives(triples, cfg.eval.num_negatives)
    hard = hard_negatives(triples, cfg.eval.num_negatives)
    against = {
        "inbook": torch.einsum("nd,nkd->nk", prefix, gold[random]),
        "inbook_hard": torch.einsum("nd,nkd->nk", prefix, gold[hard]),
    }
    texts = [t.generated for t in triples.rows]
    if None not in texts:
        written = encoder.encode([t or "." for t in texts], "suffix", size)
        against["generated"] = (prefix * written).sum(1, keepdim=True)
        # the same two by another prefix of the book: what tells a machine's text without its prefix
        other = prefix[random[:, 0]]
        blind = beaten((other * gold).sum(1), (other * written).sum(1, keepdim=True))
    metrics: dict[str, float] = {}
    items: dict[str, Tensor] = {}
    for name, other in against.items():
        accuracy = identification_metrics(right, other)
        metrics |= {f"{name}_accuracy": accuracy["pairwise"], f"{name}_accuracy_chance": 0.5}
        if other.shape[1] > 1:
            metrics |= {
                f"{name}_all_accuracy": accuracy["all"],
                f"{name}_all_accuracy_chance": accuracy["all_chance"],
            }
        items[f"{name}_accuracy"] = beaten(right, other).mean(1)
    if "generated" in against:
        metrics["generated_blind_accuracy"] = float(blind.mean())
        metrics["identification_accuracy"] = (
            metrics["inbook_accuracy"] + metrics["generated_accuracy"]
        ) / 2
        metrics |= {
            f"{name}_accuracy_chance": 0.5 for name in ("generated_blind", "identification")
        }
    recall, hits = book_retrieval(triples, prefix, gold)
    if workspace is not None:
        workspace.figure("scores", score_figure(right, against))
        workspace.gallery("suffixes of the same book", gallery(triples, prefix, gold))
    metrics |= own_book_mass(triples, prefix, gold)
    return metrics | recall, items | {"retrieval_recall_at_1": hits}


def large_books(triples: TripleList, count: int) -> TripleList:
    """Triples of the books that have more than `count` of them.

    Raises:
        UserError: there is no such book.
    """
    sizes = np.bincount(triples.documents)[triples.documents]
    if not (sizes > count).any():
        _check_pool(int(sizes.max()) - 1, count)
    return TripleList([triples[i] for i in np.flatnonzero(sizes > count).tolist()])


def negatives(triples: TripleList, count: int) -> np.ndarray:
    """(N, count) golds of other prefixes of the same book, equal for every run.

    Raises:
        UserError: a book with too few prefixes.
    """
    chosen = np.empty((len(triples), count), dtype=np.int64)
    for i, document in enumerate(triples.documents):
        pool = np.flatnonzero(triples.documents == document)
        pool = pool[pool != i]
        _check_pool(len(pool), count)
        chosen[i] = sample_rng(0, 0, i, NEGATIVE_STREAM).choice(pool, count, replace=False)
    return chosen


def hard_negatives(triples: TripleList, count: int) -> np.ndarray:
    """(N, count) golds of the same book that share most words with the prefix, by BM25."""
    chosen = np.empty((len(triples), count), dtype=np.int64)
    for document in np.unique(triples.documents):
        pool = np.flatnonzero(triples.documents == document)
        _check_pool(len(pool) - 1, count)
        # in memory: a book has some thousands of prefixes
        index = BM25([triples[int(i)].gold for i in pool])
        queries = [triples[int(i)].prefix for i in pool]
        result = index.search(queries, count, exclude=torch.arange(len(pool)))
        chosen[pool] = pool[result.indices.numpy()]
    return chosen


def book_retrieval(
    triples: TripleList, prefix: Tensor, gold: Tensor
) -> tuple[dict[str, float], Tensor]:
    """Gold among the golds of all prefixes of its book, mean over prefixes; hits at rank 1 (N,)."""
    totals: dict[str, float] = {}
    hits = torch.zeros(len(triples))
    for document in np.unique(triples.documents):
        rows = torch.from_numpy(np.flatnonzero(triples.documents == document))
        right = torch.arange(len(rows))
        recall = cross_modal_recall(prefix[rows], gold[rows], right, KS, metric="dot")
        for name, value in recall.items():
            totals[name] = totals.get(name, 0.0) + value * len(rows) / len(triples)
        hits[rows] = relevant_ranks(prefix[rows], gold[rows], right, metric="dot").eq(1).float()
    names = [f"recall_at_{k}{end}" for k in KS for end in ("", "_chance")]
    return {f"retrieval_{name}": totals[name] for name in [*names, "mrr"]}, hits


def own_book_mass(triples: TripleList, prefix: Tensor, gold: Tensor) -> dict[str, float]:
    """Share of the softmax over the golds of other prefixes that lies on those of the own book.

    In a batch that mixes the books, in-book negatives have this share of what the negatives are
    pushed with, however few they are; the chance value is their number's share.
    """
    documents = torch.from_numpy(triples.documents)
    same = documents[:, None] == documents
    same.fill_diagonal_(False)
    logits = (prefix @ gold.T).fill_diagonal_(-torch.inf)
    mass = (logits.softmax(1) * same).sum(1)
    share = same.sum(1) / (len(triples) - 1)
    return {"own_book_mass": float(mass.mean()), "own_book_mass_chance": float(share.mean())}


def lm_metrics(cfg: Config, lm: LanguageModel, triples: TripleList) -> dict[str, float]:
    """The language model's mean log-probability per token as score, on evenly spaced prefixes."""
    count = min(cfg.eval.lm_prefixes, len(triples))
    chosen = [i * len(triples) // count for i in range(count)]
    wrong = negatives(triples, cfg.eval.num_negatives)[chosen, 0]
    prefixes = [triples[i].prefix for i in chosen]
    right = lm.log_likelihood(prefixes, [triples[i].gold for i in chosen])
    other = lm.log_likelihood(prefixes, [triples[int(i)].gold for i in wrong])
    metrics = {"lm_inbook_accuracy": float((right > other).double().mean())}
    written = [triples[i].generated for i in chosen]
    if None not in written:
        other = lm.log_likelihood(prefixes, [text or "." for text in written])
        metrics["lm_generated_accuracy"] = float((right > other).double().mean())
    return metrics | {f"{name}_chance": 0.5 for name in metrics}


def further_set(cfg: Config, encoder: PrefixSuffixEncoder, name: str) -> dict[str, float]:
    """Accuracy on an identification file below the data root."""
    path = data_root(cfg.data.root) / name
    questions = load_identification(path)
    size, width = cfg.eval.batch_size, len(questions[0].negatives)
    prefix = encoder.encode([q.prefix for q in questions], "prefix", size)
    gold = encoder.encode([q.gold for q in questions], "suffix", size)
    others = encoder.encode([n for q in questions for n in q.negatives], "suffix", size)
    other = torch.einsum("nd,nkd->nk", prefix, others.view(len(questions), width, -1))
    metrics = identification_metrics((prefix * gold).sum(1), other)
    stem = path.name.split(".")[0]
    return {f"{stem}_{k}": v for k, v in metrics.items()}


def gallery(triples: TripleList, prefix: Tensor, gold: Tensor) -> list[dict[str, Any]]:
    """Suffixes of the same book that score best, for a prefix of some books."""
    rows = []
    for document in np.unique(triples.documents)[:GALLERY_QUERIES]:
        places = np.flatnonzero(triples.documents == document)
        texts = [triples[int(i)].gold for i in places]
        value = prefix[places[:1]] @ gold[places].T
        query = [triples[int(places[0])].prefix]
        rows += retrieval_gallery(value, query, texts, [0], num_queries=1)
    return rows


def score_figure(gold: Tensor, against: dict[str, Tensor]) -> Any:
    """Histograms of the score of the gold minus that of each kind of negative."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3))
    axes = figure.subplots()
    for name, other in against.items():
        gap = (gold[:, None] - other).flatten().float().numpy()
        axes.hist(gap, bins=60, density=True, histtype="step", label=name)
    axes.axvline(0, color="0.6", linewidth=1)
    axes.set_xlabel("score of the gold continuation minus that of the negative")
    axes.legend()
    return figure


def _check_pool(available: int, needed: int) -> None:
    if available < needed:
        raise UserError(
            f"eval.num_negatives={needed}, but a book has {available} other prefixes: lower it"
        )
