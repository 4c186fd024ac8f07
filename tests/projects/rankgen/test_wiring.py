"""Negatives, pools and parts of the evaluation, by hand and by stand-ins."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from projects.rankgen import data, evaluate
from projects.rankgen import module as method
from projects.rankgen.data import Triple, TripleList, eval_triples
from projects.rankgen.evaluate import (
    book_retrieval,
    further_set,
    hard_negatives,
    large_books,
    lm_metrics,
)
from projects.rankgen.module import RankGen
from tests.projects.rankgen.conftest import config


def triples(*sizes):
    """Books of some sizes; prefix and gold are named by book and place."""
    names = [f"{'abc'[book]}{i}" for book, size in enumerate(sizes) for i in range(size)]
    return TripleList([Triple(n[0], f"p{n}", f"g{n}", None) for n in names])


def test_hard_negatives_are_golds_with_the_words_of_the_prefix():
    golds = ("red fox", "blue sea", "old tree")
    prefixes = ("the old tree", "a red fox", "the blue sea")
    rows = [Triple("b", p, g, None) for p, g in zip(prefixes, golds, strict=True)]
    assert hard_negatives(TripleList(rows), 1)[:, 0].tolist() == [2, 0, 1]


def test_recall_is_a_mean_over_prefixes_whatever_the_size_of_their_book():
    """All four of the first book are found first, none of the two of the second."""
    rows = triples(4, 2)
    prefix = torch.eye(6)
    gold = torch.eye(6)[[0, 1, 2, 3, 5, 4]]
    metrics, hits = book_retrieval(rows, prefix, gold)
    assert metrics["retrieval_recall_at_1"] == pytest.approx(4 / 6)
    assert hits.tolist() == [1, 1, 1, 1, 0, 0]


def test_a_book_needs_more_windows_than_negatives():
    assert [t.document for t in large_books(triples(2, 3), 2).rows] == ["b"] * 3


def test_the_language_model_ranks_golds_of_the_same_prefixes(monkeypatch):
    """Every second prefix is asked; each against the gold of its own first negative."""
    asked = []
    table = np.array([[1], [0], [3], [2]])
    monkeypatch.setattr(evaluate, "negatives", lambda rows, count: table)
    lm = SimpleNamespace(
        log_likelihood=lambda prefixes, texts: asked.append((prefixes, texts)) or torch.zeros(2)
    )
    lm_metrics(config("eval.lm_prefixes=2"), lm, triples(4))
    assert asked == [(["pa0", "pa2"], ["ga0", "ga2"]), (["pa0", "pa2"], ["ga1", "ga3"])]


def test_negatives_of_a_further_set_are_suffixes(monkeypatch):
    asked = []
    question = SimpleNamespace(prefix="p", gold="g", negatives=["n", "m"])
    monkeypatch.setattr(evaluate, "load_identification", lambda path: [question])

    def encode(texts, kind, size):
        asked.append((texts, kind))
        return torch.ones(len(texts), 2)

    further_set(config(), SimpleNamespace(encode=encode), "x.jsonl")
    assert asked == [(["p"], "prefix"), (["g"], "suffix"), (["n", "m"], "suffix")]


@pytest.mark.parametrize("part", ["dev", "test"])
def test_judged_triples_are_of_the_part_and_made_up_ones_are_not_those_of_the_training(
    monkeypatch, part
):
    row = Triple("d", "p", "g", None)
    asked = []
    monkeypatch.setattr(data, "bundled_triples", lambda cfg, part: asked.append(part) or [row])
    monkeypatch.setattr(
        data, "synthetic_triples", lambda windows, seed: asked.append(seed) or [row]
    )
    eval_triples(config("data.source=bundled", f"eval.part={part}"))
    eval_triples(config())
    data.train_triples(config("data.limit=null"))
    assert asked == [part, 1, 0]


def test_the_gradient_cache_has_the_chunks_of_the_config(monkeypatch):
    asked = []
    monkeypatch.setattr(method, "cached_encode", lambda encode, inputs, size: asked.append(size))
    RankGen(config("method.chunk_size=3"), torch.nn.Identity())._vectors({})
    assert asked == [3]
