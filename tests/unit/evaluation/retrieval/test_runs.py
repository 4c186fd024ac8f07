"""Rankings by embeddings and by words of a judged set, and their scores by query."""

import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import TfidfVectorizer

from common.evaluation.retrieval.beir import RetrievalSet
from common.evaluation.retrieval.bm25 import BM25
from common.evaluation.retrieval.ranking import ranking_metrics
from common.evaluation.retrieval.runs import (
    dense_run,
    lexical_run,
    run_scores,
    tfidf_encoder,
)

CORPUS = {"a": "red fox runs", "b": "red car", "c": "blue car drives", "d": "green tree"}
DATA = RetrievalSet(
    CORPUS,
    {"1": "a red fox", "2": "blue", "3": "grey whale"},
    {"1": {"a": 2, "b": 1}, "2": {"c": 1}, "3": {"d": 1}},
)
POINTS = {
    "red fox runs": 0.0,
    "red car": 0.5,
    "blue car drives": 1.5,
    "green tree": 3.0,
    "a red fox": 0.1,
    "blue": 1.4,
    "grey whale": 2.9,
}


def embed(texts):
    angles = torch.tensor([POINTS[text] for text in texts])
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def test_a_dense_run_ranks_by_the_metric():
    run = dense_run(DATA, embed, embed)
    assert list(run["1"]) == ["a", "b", "c", "d"]
    assert list(run["2"]) == ["c", "b", "a", "d"]
    assert run["3"]["d"] == pytest.approx(np.cos(0.1), abs=1e-6)
    assert [len(hits) for hits in dense_run(DATA, embed, embed, depth=2).values()] == [2, 2, 2]

    def longer(texts):
        scale = torch.tensor([10.0 if text == "red car" else 1.0 for text in texts])
        return embed(texts) * scale[:, None]

    assert next(iter(dense_run(DATA, embed, longer, metric="dot")["1"])) == "b"
    assert next(iter(dense_run(DATA, embed, longer)["1"])) == "a"


def test_a_query_that_is_a_document_does_not_find_itself():
    """BEIR's rule; the depth is that of the others."""
    data = RetrievalSet(CORPUS, {"a": "red fox runs"}, {"a": {"b": 1}})
    for run in (dense_run(data, embed, embed, depth=2), lexical_run(data, "bm25", depth=2)):
        assert "a" not in run["a"]
        assert next(iter(run["a"])) == "b"
    assert len(dense_run(data, embed, embed, depth=2)["a"]) == 2


def test_lexical_runs_hold_documents_that_share_a_word():
    bm25, tfidf = lexical_run(DATA, "bm25"), lexical_run(DATA, "tfidf")
    assert list(bm25["1"]) == list(tfidf["1"]) == ["a", "b"]
    assert bm25["3"] == tfidf["3"] == {}
    assert bm25["2"] == {"c": float(BM25(list(CORPUS.values())).scores(["blue"])[0, 2])}
    table = TfidfVectorizer().fit(CORPUS.values())
    rows = table.transform(["a red fox", CORPUS["a"]]).toarray()
    assert tfidf["1"]["a"] == pytest.approx(rows[0] @ rows[1])
    pieces = lexical_run(DATA, "tfidf", analyzer="char_wb", ngram_range=(2, 3))
    assert "d" in pieces["3"]  # gr of grey and green
    assert lexical_run(DATA, "bm25", stop_words={"red"})["1"].keys() == {"a"}


def test_scores_are_the_metrics_and_their_values_by_query():
    run = dense_run(DATA, embed, embed)
    scores = run_scores(DATA, run, ks=(1, 10))
    assert scores.metrics == ranking_metrics(DATA.qrels, run, ks=(1, 10))
    assert scores.per_query["mrr"] == [1.0, 1.0, 1.0]
    assert scores.per_query["recall_at_1"] == [0.5, 1.0, 1.0]
    words = run_scores(DATA, lexical_run(DATA, "bm25"))
    assert words.per_query["ndcg_at_10"] == [1.0, 1.0, 0.0]
    assert words.metrics["ndcg_at_10"] == pytest.approx(2 / 3)


def test_tfidf_in_the_place_of_an_encoder_gives_the_same_run():
    encode = tfidf_encoder(list(CORPUS.values()))
    dense, sparse = dense_run(DATA, encode, encode, metric="dot"), lexical_run(DATA, "tfidf")
    assert encode(["a red fox"]).norm() == pytest.approx(1.0)
    for query, hits in sparse.items():
        shared = {d: s for d, s in dense[query].items() if s > 0}
        assert list(shared) == list(hits)
        assert list(shared.values()) == pytest.approx(list(hits.values()))
