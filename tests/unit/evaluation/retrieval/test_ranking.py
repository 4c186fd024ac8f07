"""qrels metrics against hand cases, scikit-learn, torchmetrics and trec_eval."""

import json
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import ndcg_score
from torchmetrics.functional.retrieval import (
    retrieval_average_precision,
    retrieval_normalized_dcg,
    retrieval_recall,
    retrieval_reciprocal_rank,
)

from common.config import ROOT
from common.data.lookup import data_root
from common.evaluation.retrieval.beir import load_beir
from common.evaluation.retrieval.bm25 import BM25
from common.evaluation.retrieval.ranking import (
    average_precision,
    ndcg,
    per_query_metrics,
    ranking_metrics,
    to_run,
)
from common.evaluation.search import SearchResult


def random_case(seed: int = 0, queries: int = 12, documents: int = 40):
    rng = np.random.default_rng(seed)
    qrels, run = {}, {}
    for q in range(queries):
        judged = rng.choice(documents, 8, replace=False)
        grades = rng.integers(0, 4, size=8)
        grades[0] = 2
        qrels[f"q{q}"] = {f"d{d}": int(g) for d, g in zip(judged, grades, strict=True)}
        actual = rng.choice(documents, 25, replace=False)
        run[f"q{q}"] = {f"d{d}": float(rng.normal()) for d in actual}
    return qrels, run


def test_hand_case():
    qrels = {"q": {"a": 2, "b": 1, "c": 0}}
    run = {"q": {"x": 0.9, "b": 0.8, "c": 0.7, "a": 0.6}}
    metrics = ranking_metrics(qrels, run, ks=(2, 10))
    ideal = 2 + 1 / math.log2(3)
    assert metrics["ndcg_at_10"] == pytest.approx((1 / math.log2(3) + 2 / math.log2(5)) / ideal)
    assert metrics["ndcg_at_2"] == pytest.approx(1 / math.log2(3) / ideal)
    assert metrics["recall_at_2"] == 0.5
    assert metrics["recall_at_10"] == 1.0
    assert metrics["mrr"] == metrics["mrr_at_2"] == 0.5
    assert metrics["map"] == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert metrics["map_at_2"] == pytest.approx((1 / 2) / 2)


def test_equals_torchmetrics_and_sklearn():
    qrels, run = random_case()
    for query, row in per_query_metrics(qrels, run, ks=(5, 10)).items():
        documents = sorted(run[query].keys() | qrels[query].keys())
        # torchmetrics takes scores <= 0 as "not retrieved"; the shift keeps the order.
        scores = torch.tensor([run[query].get(d, -99.0) + 10 for d in documents])
        grades = torch.tensor([qrels[query].get(d, 0) for d in documents])
        if all(d in run[query] for d, g in qrels[query].items() if g > 0):
            average = retrieval_average_precision(scores, grades > 0).item()
            assert row["map"] == pytest.approx(average)
        for k in (5, 10):
            value = retrieval_normalized_dcg(scores, grades, top_k=k).item()
            assert row[f"ndcg_at_{k}"] == pytest.approx(value, rel=1e-5)
            value = ndcg_score(grades[None].numpy(), scores[None].numpy(), k=k)
            assert row[f"ndcg_at_{k}"] == pytest.approx(value)
            value = retrieval_recall(scores, grades > 0, top_k=k).item()
            assert row[f"recall_at_{k}"] == pytest.approx(value)
            value = retrieval_reciprocal_rank(scores, grades > 0, top_k=k).item()
            assert row[f"mrr_at_{k}"] == pytest.approx(value)


def test_equals_trec_eval_also_on_ties():
    pytrec_eval = pytest.importorskip("pytrec_eval", reason="pytrec_eval is not installed")
    qrels, run = random_case(1)
    run = {q: {d: round(s, 1) for d, s in hits.items()} for q, hits in run.items()}  # many ties
    measures = {"ndcg_cut.5,10", "recall.5,10", "map", "map_cut.5,10", "recip_rank"}
    reference = pytrec_eval.RelevanceEvaluator(qrels, measures).evaluate(run)
    names = {"map": "map", "recip_rank": "mrr"}
    for k in (5, 10):
        names |= {f"ndcg_cut_{k}": f"ndcg_at_{k}", f"recall_{k}": f"recall_at_{k}"}
        names |= {f"map_cut_{k}": f"map_at_{k}"}
    for query, row in per_query_metrics(qrels, run, ks=(5, 10)).items():
        for theirs, ours in names.items():
            assert row[ours] == pytest.approx(reference[query][theirs]), (query, ours)


def test_ties_are_ordered_by_descending_id_whatever_the_order_of_the_run():
    for order in ("abc", "cba"):
        run = {"q": dict.fromkeys(order, 1.0)}
        reciprocal = [ranking_metrics({"q": {d: 1}}, run)["mrr"] for d in "cba"]
        assert reciprocal == pytest.approx([1, 1 / 2, 1 / 3])


def test_missing_and_unjudged_queries():
    qrels = {"found": {"a": 1}, "missing": {"a": 1}, "irrelevant": {"a": 0}}
    rows = per_query_metrics(qrels, {"found": {"a": 1.0}, "unjudged": {"a": 1.0}})
    assert rows.keys() == {"found", "missing"}
    assert set(rows["missing"].values()) == {0.0}
    assert ranking_metrics(qrels, {"found": {"a": 1.0}})["mrr"] == 0.5


def test_average_precision_capped_for_short_lists():
    relevant = np.array([True, False, True, False])
    assert average_precision(relevant, 10, 4) == pytest.approx((1 + 2 / 3) / 10)
    assert average_precision(relevant, 10, 4, capped=True) == pytest.approx((1 + 2 / 3) / 4)
    with pytest.raises(ValueError, match="cut-off"):
        average_precision(relevant, 10, capped=True)


def test_ndcg_is_one_for_the_ideal_order_only():
    grades = np.array([3.0, 2.0, 1.0])
    assert ndcg(grades, grades[::-1], 3) == pytest.approx(1.0)
    assert ndcg(grades[::-1], grades, 3) < 1.0


def test_chance_equals_the_mean_over_random_orders():
    qrels = {"q": {"d1": 2, "d5": 1, "d7": 1}}
    rng = np.random.default_rng(0)
    shuffled = [
        {"q": {f"d{i}": float(s) for i, s in enumerate(rng.permutation(20))}} for _ in range(3000)
    ]
    rows = [ranking_metrics(qrels, run, ks=(5,), corpus_size=20) for run in shuffled]
    for name in ("ndcg_at_5", "recall_at_5"):
        mean = np.mean([row[name] for row in rows])
        assert rows[0][f"{name}_chance"] == pytest.approx(mean, abs=0.015)


def test_to_run_names_hits_and_drops_the_query_itself():
    result = SearchResult(torch.tensor([[0.9, 0.5], [0.8, 0.1]]), torch.tensor([[0, 1], [1, -1]]))
    assert to_run(result, ["b", "x"], ["a", "b"]) == {
        "b": {"a": pytest.approx(0.9), "b": 0.5},
        "x": {"b": pytest.approx(0.8)},
    }
    assert to_run(result, ["b", "x"], ["a", "b"], drop_identical=True)["b"].keys() == {"a"}
    with pytest.raises(ValueError, match="document ids are not unique"):
        to_run(result, ["b", "x"], ["a", "a"])
    with pytest.raises(ValueError, match="1 query ids for 2 rows"):
        to_run(result, ["b"], ["a", "b"])


def test_refusals():
    with pytest.raises(ValueError, match="do the ids match"):
        ranking_metrics({"1": {"a": 1}}, {"q1": {"a": 1.0}})
    with pytest.raises(ValueError, match="no query of the qrels"):
        ranking_metrics({"1": {"a": 0}}, {"1": {"a": 1.0}})
    with pytest.raises(ValueError, match="NaN"):
        ranking_metrics({"1": {"a": 1}}, {"1": {"a": float("nan")}})
    with pytest.raises(ValueError, match="cut-offs"):
        ranking_metrics({"1": {"a": 1}}, {"1": {"a": 1.0}}, ks=())


TREC = json.loads((ROOT / "tests/golden/trec_eval.json").read_text())
NAMES = {
    "map": "map",
    "recip_rank": "mrr",
    "map_cut_10": "map_at_10",
    "recall_10": "recall_at_10",
    "recall_50": "recall_at_50",
    **{f"ndcg_cut_{k}": f"ndcg_at_{k}" for k in (1, 3, 10)},
}


def test_equals_trec_eval_on_the_judgements_of_cisi():
    """Recorded values of trec_eval on a real set of judgements, ties included, to 1e-9."""
    qrels = {q: {str(d): 1 for d in actual} for q, actual in TREC["qrels"].items()}
    run = {
        q: {str(d): s for d, s in zip(hits["documents"], hits["scores"], strict=True)}
        for q, hits in TREC["run"].items()
    }
    rows = per_query_metrics(qrels, run, ks=(1, 3, 10, 50))
    assert rows.keys() == TREC["outputs"].keys()
    for query, row in rows.items():
        for theirs, ours in NAMES.items():
            assert abs(row[ours] - TREC["outputs"][query][theirs]) < 1e-9, (query, ours)
    order = {q: {d: -i for i, d in enumerate(hits)} for q, hits in run.items()}  # ties by position
    other = per_query_metrics(qrels, order, ks=(10,))
    assert any(other[q]["map"] != rows[q]["map"] for q in rows)  # the rule for ties matters


@pytest.mark.parametrize("name", ["retrieval-cisi", "retrieval-npl"])
def test_equals_trec_eval_on_a_whole_set(name):
    """With our BM25, where trec_eval and the set are at hand."""
    pytrec_eval = pytest.importorskip("pytrec_eval", reason="pytrec_eval is not installed")
    folder = data_root() / name
    if not folder.is_dir():
        pytest.skip(f"no {name} (BEIR layout) below DATA_DIR")
    data = load_beir(folder)
    actual = BM25(list(data.corpus.values())).search(list(data.queries.values()), 200)
    run = to_run(actual, list(data.queries), list(data.corpus))
    measures = {"ndcg_cut.10,100", "recall.10,100", "map", "map_cut.10,100", "recip_rank"}
    reference = pytrec_eval.RelevanceEvaluator(data.qrels, measures).evaluate(run)
    for query, row in per_query_metrics(data.qrels, run, ks=(10, 100)).items():
        for theirs, value in reference[query].items():
            name = (
                "mrr" if theirs == "recip_rank" else theirs.replace("_cut", "").replace("_", "_at_")
            )
            assert abs(row[name] - value) < 1e-9, (query, name)
