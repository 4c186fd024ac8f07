"""A few judged queries choose how much each of two rankings counts, or switch one off."""

import dataclasses

import pytest

from common.evaluation.retrieval.beir import RetrievalSet
from common.evaluation.retrieval.chosen_fusion import (
    WEIGHTS,
    choose_fusion,
    weighted_runs,
)
from common.evaluation.retrieval.fusion import reciprocal_rank_fusion
from common.evaluation.retrieval.runs import run_scores

COUNT = 20
DATA = RetrievalSet(
    {f"d{i}": f"text {i}" for i in range(COUNT)},
    {f"q{i}": f"question {i}" for i in range(COUNT)},
    {f"q{i}": {f"d{i}": 1} for i in range(COUNT)},
)


def ranking(place, step=1):
    """The relevant document of query i at place(i), counted from 0, the others in order."""
    run = {}
    for i in range(COUNT):
        others = [f"d{j}" for j in range(COUNT) if j != i]
        others = others[::step]
        others.insert(place(i), f"d{i}")
        run[f"q{i}"] = {document: float(COUNT - rank) for rank, document in enumerate(others)}
    return run


GOOD, NOISE = ranking(lambda i: 0), ranking(lambda i: 15)


@pytest.mark.parametrize(
    ("first", "second", "weight", "words"),
    [
        (NOISE, GOOD, 0.0, "BM25 alone, the encoder is switched off"),
        (GOOD, NOISE, 1.0, "the encoder alone, BM25 is switched off"),
    ],
)
def test_a_side_that_does_not_help_is_switched_off(first, second, weight, words):
    chosen = choose_fusion(DATA, weighted_runs(first, second, 100), 10)
    assert chosen is not None
    assert chosen.weights == [weight] * 5
    assert chosen.run == GOOD
    assert chosen.helped("the encoder", "BM25") == f"chosen on 10 judged queries: {words}"


def test_two_sides_that_help_are_merged():
    # each is right where the other is nearly right, and their wrong documents differ
    first = ranking(lambda i: 0 if i % 2 else 2)
    second = ranking(lambda i: 2 if i % 2 else 0, step=-1)
    chosen = choose_fusion(DATA, weighted_runs(first, second, 100), 20)
    assert chosen is not None
    assert all(0 < weight < 1 for weight in chosen.weights)
    assert "both help" in chosen.helped("a", "b")
    mixed = dataclasses.replace(chosen, weights=[0.0, 0.4])
    assert "no clear choice, a has a weight of 0.0 to 0.4" in mixed.helped("a", "b")
    merged = run_scores(DATA, chosen.run, (10,)).metrics["ndcg_at_10"]
    for alone in (first, second):
        assert merged > run_scores(DATA, alone, (10,)).metrics["ndcg_at_10"]


def test_no_query_chooses_its_own_weight():
    candidates = weighted_runs(NOISE, GOOD, 100)
    for query in list(DATA.queries)[:3]:
        # the noise is right for this query alone: chosen on itself, it would be taken
        noise = {**NOISE, query: GOOD[query]}
        good = {**GOOD, query: NOISE[query]}
        chosen = choose_fusion(DATA, weighted_runs(noise, good, 100), 3)
        assert chosen is not None
        assert chosen.run[query] == NOISE[query]
    assert choose_fusion(DATA, candidates, 3) is not None


def test_a_single_query_chooses_nothing():
    one = dataclasses.replace(DATA, queries={"q0": "only"}, qrels={"q0": {"d0": 1}})
    assert choose_fusion(one, weighted_runs(GOOD, NOISE, 100), 10) is None


def test_candidates_hold_both_sides_alone_and_weighted_ranks_between():
    runs = weighted_runs(GOOD, NOISE, 100)
    assert tuple(runs) == WEIGHTS
    assert runs[0.0] is NOISE
    assert runs[1.0] is GOOD
    even = reciprocal_rank_fusion([GOOD, NOISE], depth=100)
    assert {q: list(hits) for q, hits in runs[0.5].items()} == {q: list(h) for q, h in even.items()}
    with pytest.raises(ValueError, match="2 runs need as many weights"):
        reciprocal_rank_fusion([GOOD, NOISE], weights=[1.0])
