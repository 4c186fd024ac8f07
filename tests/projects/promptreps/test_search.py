"""Fusion, several vectors, self-hits, indexes and their files: checklist items 7, 14, 15."""

import json

import pytest
import torch

from common.engine.workspace import Workspace
from common.evaluation.retrieval.beir import RetrievalSet
from common.evaluation.retrieval.fusion import max_sum
from projects.promptreps import baselines, build
from projects.promptreps.evaluate import evaluate, search_set
from projects.promptreps.lexical.hybrid import (
    DenseIndex,
    SparseIndex,
    component_runs,
    fuse,
    search,
)
from projects.promptreps.lexical.impact_files import (
    read_impacts,
    token_names,
    write_impacts,
    write_query_lines,
)
from projects.promptreps.lexical.impact_index import ImpactIndex
from tests.projects.promptreps.conftest import GOLDEN, TEXTS, config, encoder_of

RUNS = GOLDEN["inputs"]["runs"]
IDS = [f"d{i}" for i in range(len(TEXTS))]


@pytest.mark.parametrize("case", GOLDEN["outputs"]["fusion"])
def test_item_7_golden_fusion(case):
    """Checklist 7: a run's only hit has 0; a document of one list counts 0 in the other."""
    actual = fuse(RUNS["run1"], RUNS["run2"], case["alpha"])
    assert actual.keys() == case["fused"].keys()
    for query, hits in case["fused"].items():
        assert actual[query] == pytest.approx(hits)


def test_item_7_queries_without_a_hit_and_the_least_width():
    assert fuse({"q": {}}, {"q": {"a": 3.0, "b": 1.0}})["q"] == {"a": 0.5, "b": 0.0}
    assert fuse({}, {"q": {"a": 3.0, "b": 1.0}})["q"] == {"a": 0.5, "b": 0.0}
    assert fuse({"q": {"a": 1e-10, "b": 0.0}}, {"q": {}}, 1.0)["q"] == pytest.approx(
        {"a": 0.1, "b": 0}
    )
    with pytest.raises(ValueError, match="alpha"):
        fuse({}, {}, 1.5)


def test_several_representations_golden():
    """The best of a document's vectors for each of the query's, then their sum."""
    lists = [
        [{"q1": {"d1": 1.0, "d2": 0.2}}, {"q1": {"d1": 0.4, "d3": 0.9}}],
        [{"q1": {"d2": 0.5}}, {"q1": {"d2": 0.7, "d1": 0.1}}],
    ]
    expected = GOLDEN["outputs"]["max_pooling"]["q1"]
    actual = max_sum(lists, depth=3)["q1"]
    assert actual == pytest.approx(expected["docs"])
    assert min(actual.values()) == pytest.approx(expected["min_score"])
    assert max(actual.values()) == pytest.approx(expected["max_score"])
    assert list(max_sum(lists, depth=1)["q1"]) == ["d1"]
    assert max_sum([[{"q": {"a": -1.0}}]]) == {"q": {"a": 0.0}}


def test_several_representations_are_searched_place_by_place():
    """Two vectors of each query and document; equal to all pairs by hand where lists are whole."""
    generator = torch.Generator().manual_seed(0)
    documents = {
        "dense": torch.rand(5, 3, generator=generator),
        "sparse": [{0: 1}, {0: 2}, {1: 1}, {1: 5}, {0: 3}],
        "owner": torch.tensor([0, 0, 1, 1, 2]),
    }
    queries = {
        "dense": torch.rand(3, 3, generator=generator),
        "sparse": [{0: 1}, {1: 2}, {1: 1}],
        "owner": torch.tensor([0, 0, 1]),
    }
    ids = ["a", "b", "c"]
    dense, sparse = component_runs(
        DenseIndex(documents, ids), SparseIndex(documents, ids), queries, ["x", "y"], 10
    )
    pairs = queries["dense"] @ documents["dense"].T
    for q, rows in (("x", [0, 1]), ("y", [2])):
        for d, columns in (("a", [0, 1]), ("b", [2, 3]), ("c", [4])):
            assert dense[q][d] == pytest.approx(float(pairs[rows][:, columns].amax(1).sum()))
    assert sparse["x"] == {"b": 10.0, "c": 3.0, "a": 2.0}
    assert sparse["y"] == {"b": 5.0}


def test_item_14_the_query_itself_is_no_hit():
    """Checklist 14: only where asked, and the list is filled up."""
    encoded = encoder_of().encode(TEXTS, "passage")
    indexes = DenseIndex(encoded, IDS), SparseIndex(encoded, IDS)
    for remove in (False, True):
        dense, sparse = component_runs(*indexes, encoded, IDS, 2, remove_query=remove)
        for query in IDS:
            assert len(dense[query]) == 2
            assert (query in dense[query]) != remove
            assert query not in sparse[query] or not remove


def test_item_14_the_searches_of_a_set_leave_the_query_out():
    """Checklist 14: of a set whose queries are documents, such as ArguAna."""
    texts = dict(zip(IDS, TEXTS, strict=True))
    data = RetrievalSet(texts, {"d0": TEXTS[0]}, {"d0": {"d1": 1}})
    for word, remove in (("true", True), ("false", False)):
        runs = search_set(config(f"eval.remove_query={word}"), encoder_of(), data)
        assert ("d0" in runs.dense["d0"]) != remove
        assert "d0" not in runs.sparse["d0"] or not remove


@pytest.mark.parametrize(("word", "hit"), [("false", 1.0), ("true", 0.0)])
def test_bm25_and_the_baselines_leave_the_query_out_only_where_asked(
    tmp_path, monkeypatch, word, hit
):
    """Numbers of queries and passages may coincide: BM25 alone left such a passage out."""
    texts = dict(zip(IDS, TEXTS, strict=True))
    data = RetrievalSet(texts, {"d0": TEXTS[0]}, {"d0": {"d0": 1}})
    for module in ("projects.promptreps.evaluate", "common.families.retrieval.baselines"):
        monkeypatch.setattr(f"{module}.load_set", lambda cfg, place: data)
    words = [f"eval.remove_query={word}", "eval.untrained=false", "eval.alphas=[0.5]"]
    cfg = config(*words, "eval.rows={}")
    metrics = build(cfg).tasks["evaluate"](Workspace(tmp_path / "task"))
    (key,) = [k for k in metrics if k.startswith("bm25_") and k.endswith("_recall_at_1000")]
    assert metrics[key] == hit
    for name in baselines.__all__:
        scores = getattr(baselines, name)(cfg, Workspace(tmp_path / name))
        (key,) = [k for k in scores if k.endswith("_recall_at_100")]
        assert scores[key] == hit, name


def test_item_16_a_set_s_name_may_end_with_that_of_another(tmp_path, monkeypatch):
    """Checklist 16: rows were told by splitting names of metrics; "climate-" became one, without
    scores.
    """
    data = RetrievalSet(dict(zip(IDS, TEXTS, strict=True)), {"q": TEXTS[0]}, {"q": {"d1": 1}})
    monkeypatch.setattr("projects.promptreps.evaluate.load_set", lambda cfg, place: data)
    words = ["eval.untrained=false", "eval.alphas=[0.5]"]
    cfg = config(*words, "eval.beir=[beir/fever, beir/climate-fever]")
    actual = evaluate(cfg, encoder_of(), Workspace(tmp_path))
    ranked = ["dense", "sparse", "hybrid", "alpha_0.5"]
    further = [f"{model}_{name}" for model in cfg.eval.rows for name in ranked]
    rows = ["method", *ranked, "bm25", *further]
    lines = (tmp_path / "table.md").read_text().splitlines()[2:]
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines] == rows
    for row in rows:
        prefix = "" if row == "method" else f"{row}_"
        assert actual[f"{prefix}average_map"] == actual[f"{prefix}fever_map"]


def test_item_8_queries_of_a_set_are_read_behind_the_prompt_of_queries():
    """Checklist 8: scores are those of queries encoded as queries, not as passages."""
    encoder = encoder_of()
    data = RetrievalSet(dict(zip(IDS, TEXTS, strict=True)), {"q": "men at work"}, {"q": {"d1": 1}})
    runs = search_set(config(), encoder, data)
    documents = encoder.encode(TEXTS, "passage")
    indexes = DenseIndex(documents, IDS), SparseIndex(documents, IDS)
    by_role = {
        role: component_runs(*indexes, encoder.encode("men at work", role), ["q"], len(IDS))
        for role in ("query", "passage")
    }
    assert runs.dense["q"] == pytest.approx(by_role["query"][0]["q"])
    assert runs.sparse["q"] == pytest.approx(by_role["query"][1]["q"])
    assert runs.dense["q"] != pytest.approx(by_role["passage"][0]["q"])


def test_search_returns_the_fused_list_and_both_runs():
    """One query: the contract of the library function."""
    encoder = encoder_of()
    encoded = encoder.encode(TEXTS, "passage")
    query = encoder.encode("men at work", "query")
    actual = search(DenseIndex(encoded, IDS), SparseIndex(encoded, IDS), query, alpha=0.3, depth=3)
    assert len(actual.dense) == 3
    expected = fuse({"q": actual.dense}, {"q": actual.sparse}, 0.3)["q"]
    assert dict(actual.fused) == pytest.approx({d: expected[d] for d, _ in actual.fused})
    scores = [score for _, score in actual.fused]
    assert scores == sorted(scores, reverse=True)


def test_item_15_files_of_an_impact_index(tmp_path):
    """Checklist 15: Lucene's layout, whole weights, zeros included; our index reads it again."""
    encoder = encoder_of()
    vocabulary = encoder.lm.tokenizer.get_vocab()
    names = token_names(vocabulary)
    documents, queries = (encoder.encode(TEXTS, role)["sparse"] for role in ("passage", "query"))
    write_impacts(tmp_path / "d.jsonl", IDS, documents, names)
    rows = [json.loads(line) for line in (tmp_path / "d.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == IDS
    assert {row["content"] for row in rows} == {""}
    assert all(
        type(w) is int and names[vocabulary[t]] == t for r in rows for t, w in r["vector"].items()
    )
    assert [{vocabulary[t]: w for t, w in row["vector"].items()} for row in rows] == documents
    ids, read, _ = read_impacts(tmp_path / "d.jsonl", vocabulary)
    assert (ids, read) == (IDS, documents)
    write_query_lines(tmp_path / "q.tsv", [*IDS, "none"], [*queries, {3: 0}], names)
    lines = dict(line.split("\t") for line in (tmp_path / "q.tsv").read_text().splitlines())
    assert list(lines) == IDS
    index = ImpactIndex(read)
    for (query, text), vector in zip(lines.items(), queries, strict=True):
        counted = {t: text.split().count(names[t]) for t in vector}
        assert counted == vector
        # what an impact searcher sums: count in the query times weight in the document
        expected = [sum(vector[t] * d.get(t, 0) for t in vector) for d in documents]
        actual = index.scores(counted)
        assert actual.tolist() == expected, query
