"""Merged rankings, reduced and split sets, answers in passages."""

import pytest

from common.evaluation.retrieval.answers import answer_recall, has_answer
from common.evaluation.retrieval.beir import RetrievalSet
from common.evaluation.retrieval.fusion import linear_fusion, reciprocal_rank_fusion
from common.evaluation.retrieval.subsets import (
    query_folds,
    reduced,
    split_queries,
    synthetic_set,
    title_queries,
)

FIRST = {"q": {"a": 10.0, "b": 6.0, "c": 2.0}, "only": {"x": 1.0}}
SECOND = {"q": {"c": 0.9, "d": 0.1}}


def test_linear_fusion_scales_each_run_within_a_query():
    actual = linear_fusion([FIRST, SECOND], [0.25, 0.75])
    assert actual["q"] == pytest.approx({"c": 0.75, "a": 0.25, "b": 0.125, "d": 0.0})
    assert list(actual["q"]) == ["c", "a", "b", "d"]
    assert actual["only"] == {"x": 0.25}
    assert list(linear_fusion([FIRST, SECOND], depth=2)["q"]) == ["c", "a"]
    shifted = {q: {d: 3 * s - 7 for d, s in hits.items()} for q, hits in FIRST.items()}
    again = linear_fusion([shifted, SECOND], [0.25, 0.75])
    assert again["q"] == pytest.approx(actual["q"])  # no run wins by its unit
    for runs, weights in (([], None), ([FIRST], [1.0, 2.0])):
        with pytest.raises(ValueError, match="weights"):
            linear_fusion(runs, weights)


def test_reciprocal_ranks_do_not_see_the_scores():
    actual = reciprocal_rank_fusion([FIRST, SECOND])
    assert actual["q"]["c"] == pytest.approx(1 / 63 + 1 / 61)
    assert actual["q"]["a"] == pytest.approx(1 / 61)
    assert list(actual["q"]) == ["c", "a", "d", "b"]
    squared = {q: {d: s**2 for d, s in hits.items()} for q, hits in FIRST.items()}
    assert reciprocal_rank_fusion([squared, SECOND]) == actual
    with pytest.raises(ValueError, match="no run"):
        reciprocal_rank_fusion([])


def collection():
    corpus = {f"d{i}": f"text {i}" for i in range(40)}
    queries = {f"q{i}": f"question {i}" for i in range(8)}
    return RetrievalSet(corpus, queries, {f"q{i}": {f"d{i}": 1, f"d{39 - i}": 0} for i in range(8)})


def test_a_reduced_set_keeps_what_is_relevant():
    data = reduced(collection(), 15)
    assert len(data.corpus) == 15
    assert {f"d{i}" for i in range(8)} <= data.corpus.keys()
    assert all(d in data.corpus for grades in data.qrels.values() for d in grades)
    assert list(data.corpus) == [d for d in collection().corpus if d in data.corpus]
    assert len(reduced(collection(), 3).corpus) == 8


def test_held_out_queries_are_those_of_the_smallest_hash():
    held, asked = split_queries(collection(), 3)
    assert (len(held.queries), len(asked.queries)) == (3, 5)
    assert held.queries.keys().isdisjoint(asked.queries)
    assert held.qrels.keys() == held.queries.keys()
    more, _ = split_queries(collection(), 4)
    assert held.queries.keys() < more.queries.keys()
    with pytest.raises(ValueError, match="8 of 8"):
        split_queries(collection(), 8)


def test_a_repeated_question_is_held_out_and_tested_as_one():
    data = collection()
    last = sorted(data.queries)[-1]
    twice = RetrievalSet(
        data.corpus,
        data.queries | {"again": data.queries[last]},
        data.qrels | {"again": data.qrels[last]},
    )
    for count in range(1, 8):
        held, asked = split_queries(twice, count)
        assert {*held.queries.values()}.isdisjoint(asked.queries.values())
    folds = query_folds(twice, 4)
    for trained, tested in folds:
        assert {*trained.queries.values()}.isdisjoint(tested.queries.values())
    assert sorted(q for _, tested in folds for q in tested.queries) == sorted(twice.queries)
    alike = RetrievalSet({}, {"a": "x", "b": "x"}, {"a": {}, "b": {}})
    with pytest.raises(ValueError, match="no query is left"):
        split_queries(alike, 1)
    with pytest.raises(ValueError, match="1 different queries cannot be cut"):
        query_folds(alike, 2)


def test_titles_ask_for_their_texts():
    data = title_queries({"1": "T", "2": " ", "3": "U"}, {"1": "a", "2": "b", "3": ""})
    assert data.corpus == {"1": "a", "2": "b"}
    assert data.queries == {"title-1": "T"}
    assert data.qrels == {"title-1": {"1": 1}}


def test_synthetic_queries_are_words_of_their_document():
    data = synthetic_set(seed=4)
    assert data == synthetic_set(seed=4) != synthetic_set(seed=5)
    for query, grades in data.qrels.items():
        (document,) = grades
        assert set(data.queries[query].split()) <= set(data.corpus[document].split())


def test_answers_are_found_by_words_in_any_form_of_their_letters():
    assert has_answer("In S\u00e3o Paulo, 1922.", ["Sa\u0303o PAULO"])
    assert not has_answer("Pauline", ["Paul"])
    assert not has_answer("text", ["", "other"])
    assert has_answer("a \u200bb", ["a b"])  # invisible characters and underscores as in DPR
    assert has_answer("x_y", ["y"])
    assert not has_answer("\u0939\u093f\u0928", ["\u0939"])  # a vowel sign belongs to its letter
    actual = answer_recall([["no", "the end"], ["x"]], [["end"], ["y"]], (1, 2))
    assert actual == {"recall_at_1": [0.0, 0.0], "recall_at_2": [1.0, 0.0]}
