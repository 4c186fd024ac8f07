"""Test sets of the local protocol, one builder for each task name."""

from collections.abc import Sequence
from typing import Literal, TypeVar

import numpy as np

from common.config import UserError
from common.data.lookup import bundled
from common.data.samplers import sample_rng
from common.data.tables import Row, read_jsonl
from common.data.text.sets import load_nli_pairs, load_sts
from common.data.text.synthetic import synthetic_sentence_pairs, synthetic_sentences
from common.evaluation.retrieval.text_mining import mine_text_negatives
from projects.nv_embed.config import Config
from projects.nv_embed.data.registry import known_set
from projects.nv_embed.data.training_sets import intent_rows
from projects.nv_embed.embedding_benchmark.sets import (
    Classes,
    EvalSet,
    Pairs,
    Reranking,
    Retrieval,
    Summaries,
)

Split = Literal["test", "dev"]
RERANK_CANDIDATES = 10  # of a query, the right one included
PARAGRAPH_WORDS = 60  # of data/wikides
_PROBE_PER_CLASS = {"snips": 40, "banking77": 10}  # that a probe's few texts are drawn from
_STREAM = 2**31 + 51
_Item = TypeVar("_Item")
_CLASSES, _SYNTHETIC = 4, 48


def build_set(cfg: Config, name: str) -> EvalSet:
    """The test set of a task of ``eval.tasks``, or its development part; equal for all seeds.

    Raises:
        UserError: a task without development part.
    """
    if cfg.data.source == "synthetic":
        return _synthetic(name)
    limit, root, split = cfg.eval.max_items, cfg.data.root, cfg.eval.split
    if name in ("wikides", "wikides_rerank"):
        retrieval = wikides(root, limit, split)
        return retrieval if name == "wikides" else _hard_candidates(retrieval)
    if name.removesuffix("_clusters") in _PROBE_PER_CLASS:
        return _intents(cfg, name.removesuffix("_clusters"), probe=not name.endswith("_clusters"))
    if name == "nli_pairs":
        if split == "dev":
            raise UserError("eval.tasks: 'nli_pairs' has no development part: leave it out")
        rows = [row for row in load_nli_pairs(root, "test") if row[2] != "neutral"]
        rows = _some(rows, limit)
        first, second, labels = (list(column) for column in zip(*rows, strict=True))
        same = [float(label == "entailment") for label in labels]
        return Pairs(known_set("stsb").instruction, first, second, same)
    sts = load_sts(root, f"stsb-{split}")
    chosen = _some(range(len(sts)), limit)
    return Pairs(
        known_set("stsb").instruction,
        [sts.first[i] for i in chosen],
        [sts.second[i] for i in chosen],
        [sts.scores[i] for i in chosen],
    )


def wikides(root: str | None, limit: int | None, split: Split = "test") -> Retrieval:
    """Paragraphs as queries, all distinct descriptions of a held-out part as documents."""
    rows = wikides_rows(root, split)
    documents = list(dict.fromkeys(row["target"].lower() for row in rows))
    place = {text: i for i, text in enumerate(documents)}
    kept = _some(rows, limit)
    return Retrieval(
        known_set("wikides").instruction,
        [row["source"] for row in kept],
        documents,
        [{place[row["target"].lower()]} for row in kept],
    )


def wikides_rows(root: str | None, split: Split = "test") -> list[Row]:
    """Rows of a part: paragraph, right description, descriptions written by a model.

    The development part is that of ``wikides-ranking``, cut to as many words, without what is also
    in the test part.
    """
    columns = ("source", "candidate", "target")
    test = read_jsonl(bundled("wikides", root) / "test.jsonl.gz", columns)
    if split == "test":
        return test
    tested = {row["source"] for row in test}
    rows = read_jsonl(bundled("wikides-ranking", root) / "dev.jsonl.gz", columns)
    cut = [row | {"source": " ".join(row["source"].split()[:PARAGRAPH_WORDS])} for row in rows]
    return [row for row in cut if row["source"] not in tested]


def planted_task(
    root: str | None, limit: int | None, split: Split = "test"
) -> tuple[Retrieval, list[set[int]]]:
    """Queries, a collection with the right and the model-written descriptions, and the latter.

    The model-written descriptions of a query's own paragraph mean about the same as its positive
    but are not named as positives: a miner should leave them out.
    """
    rows = _some(wikides_rows(root, split), limit)
    documents: dict[str, int] = {}
    relevant, planted = [], []
    for row in rows:
        right = documents.setdefault(row["target"].lower(), len(documents))
        candidates = {
            documents.setdefault(text.lower(), len(documents)) for text in row["candidate"]
        }
        relevant.append({right})
        planted.append(candidates - {right})
    queries = [row["source"] for row in rows]
    return Retrieval(known_set("wikides").instruction, queries, list(documents), relevant), planted


def _hard_candidates(retrieval: Retrieval) -> Reranking:
    """Each query with its right document and the nearest others by BM25."""
    right = [sorted(golds) for golds in retrieval.relevant]
    negatives = mine_text_negatives(
        retrieval.queries, retrieval.documents, right, RERANK_CANDIDATES - 1, ratio=None
    ).texts(retrieval.documents)
    candidates = [
        [retrieval.documents[golds[0]], *wrong]
        for golds, wrong in zip(right, negatives, strict=True)
    ]
    flags = [[True] + [False] * (len(texts) - 1) for texts in candidates]
    return Reranking(retrieval.instruction, retrieval.queries, candidates, flags)


def _intents(cfg: Config, name: str, *, probe: bool) -> Classes:
    train = intent_rows(name, "train", cfg.data.root) if probe else []
    test = intent_rows(name, cfg.eval.split, cfg.data.root)
    classes = {c: i for i, c in enumerate(sorted({row["intent"] for row in test}))}
    train, test = _per_class(train, _PROBE_PER_CLASS[name]), _some(test, cfg.eval.max_items)
    return Classes(
        known_set(name).instruction,
        [row["text"] for row in train],
        [classes[row["intent"]] for row in train],
        [row["text"] for row in test],
        [classes[row["intent"]] for row in test],
        shots=min(cfg.eval.shots, _PROBE_PER_CLASS[name]),
        draws=cfg.eval.draws,
    )


def _per_class(rows: Sequence[Row], count: int) -> list[Row]:
    """A fixed draw of so many rows of every class."""
    kept: list[Row] = []
    for label in sorted({row["intent"] for row in rows}):
        kept += _some([row for row in rows if row["intent"] == label], count)
    return kept


def _some(rows: Sequence[_Item], limit: int | None) -> list[_Item]:
    """A fixed draw of at most `limit` rows, in their order."""
    if limit is None or limit >= len(rows):
        return list(rows)
    order = sample_rng(0, 0, len(rows), _STREAM).permutation(len(rows))[:limit]
    return [rows[int(i)] for i in np.sort(order)]


def _synthetic(name: str) -> EvalSet:
    texts = synthetic_sentences(2 * _SYNTHETIC, seed=7)
    half, instruction = texts[:_SYNTHETIC], f"Find the {name}"
    queries = [f"{a} {b}" for a, b in zip(half, texts[_SYNTHETIC:], strict=True)]
    labels = [i % _CLASSES for i in range(_SYNTHETIC)]
    marked = [f"{label} {text}" for label, text in zip(labels, half, strict=True)]
    first, second, scores = synthetic_sentence_pairs(_SYNTHETIC, seed=7)
    retrieval = Retrieval(instruction, queries, half, [{i} for i in range(_SYNTHETIC)])
    if name == "retrieval":
        return retrieval
    if name == "reranking":
        return _hard_candidates(retrieval)
    if name in ("classification", "clustering"):
        cut = _SYNTHETIC // 2 if name == "classification" else 0
        return Classes(instruction, marked[:cut], labels[:cut], marked[cut:], labels[cut:])
    if name == "summarisation":
        human = [[text] for text in first[: _SYNTHETIC // 4]]
        groups = [range(i, len(second), _SYNTHETIC // 4) for i in range(_SYNTHETIC // 4)]
        machine = [[second[j] for j in group] for group in groups]
        grades = [[float(r) for r in range(len(group))] for group in groups]
        return Summaries(instruction, human, machine, grades)
    gold = [float(s >= 3) for s in scores] if name == "pair_classification" else scores
    return Pairs(instruction, first, second, gold)
