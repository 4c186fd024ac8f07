"""What the rows of the table are made of: candidates, metrics, words and pairs: item 15."""

import json
import math

import pytest
import torch

from common.config import UserError
from common.engine.workspace import Workspace
from common.evaluation.retrieval.beir import RetrievalSet
from projects.b_prop import baselines
from projects.b_prop import evaluate as evaluation
from projects.b_prop.lexical import agreement, best_order, query_likelihood, shared_words
from projects.b_prop.reranking import cross_validated, first_stage
from projects.b_prop.stages import build_ranker
from tests.projects.b_prop.conftest import config, module_of


def test_item_15_queries_without_relevant_candidates_count(tmp_path):
    """Checklist 15: they are 0 in the mean, before and after fine-tuning, and so is an empty
    list."""
    corpus = {"a": "red fox", "b": "blue cow", "c": "green tree", "d": "red cow"}
    queries = {"q1": "red", "q2": "zebra", "q3": "cow"}
    data = RetrievalSet(corpus, queries, {"q1": {"a": 1}, "q2": {"c": 1}, "q3": {"a": 1}})
    # q2 has no candidate, q3 no relevant one
    candidates = {"q1": {"a": 1.0, "b": 0.5}, "q3": {"b": 2.0, "d": 1.0}}
    cfg = config("eval.tune.folds=3", "eval.query_counts=[]")
    actual = evaluation.score_ranker(
        cfg, build_ranker(cfg), {"toy": (data, candidates)}, Workspace(tmp_path)
    )
    for row in ("", "tuned_"):
        items = json.loads((tmp_path / f"items/{row}toy_ndcg_at_10.json").read_text())
        assert items[0] > 0.6
        assert items[1:] == [0.0, 0.0]
        assert actual[f"{row}toy_ndcg_at_10"] == pytest.approx(items[0] / 3)


def test_item_15_queries_without_any_relevant_document_count(tmp_path):
    """Checklist 15: 0 in every row, at their place, as LETOR has them."""
    qrels = {"q1": {"a": 0}, "q2": {"a": 1, "b": 0}, "q3": {}}
    data = RetrievalSet({"a": "red", "b": "cow"}, dict.fromkeys(qrels, "red"), qrels)
    run = {query: {"a": 2.0, "b": 1.0} for query in qrels}
    for row in ("", "oracle_"):
        actual = evaluation.score_runs({"toy": (data, run)}, {"toy": run}, row, Workspace(tmp_path))
        assert json.loads((tmp_path / f"items/{row}toy_ndcg_at_10.json").read_text()) == [0, 1, 0]
        assert actual[f"{row}toy_mrr"] == pytest.approx(1 / 3)


def test_candidates_are_not_filtered_by_id():
    """Queries and documents are numbered apart: a query's own number may be its best document."""
    corpus = {"1": "red fox", "2": "red cow", "3": "green tree"}
    data = RetrievalSet(corpus, {"1": "red fox", "3": "cow"}, {"1": {"1": 1}, "3": {"2": 1}})
    actual = first_stage(data, 2)
    assert [*actual["1"]] == ["1", "2"]
    assert [*actual["3"]] == ["2"]  # nothing without a common word
    assert [*first_stage(data, 1)["1"]] == ["1"]


def test_query_likelihood_is_counted_only_where_it_is_asked_for(tmp_path, monkeypatch):
    def counted(*rest):
        raise AssertionError

    monkeypatch.setattr(evaluation.lexical, "query_likelihood", counted)
    words = ["eval.lexical=false", "eval.tune.steps=0", "eval.query_counts=[]"]
    cfg = config(*words)
    sets = evaluation.evaluation_sets(cfg)
    actual = evaluation.score_ranker(cfg, build_ranker(cfg), sets, Workspace(tmp_path))
    assert "synthetic_ndcg_at_10" in actual
    assert "ql_tau" not in actual


def test_a_curve_names_no_more_queries_than_a_fold_has():
    """Of twelve queries in two folds six are trained on: seven would be the row of all of them."""
    cfg = config()
    data, candidates = evaluation.evaluation_sets(cfg)["synthetic"]
    with pytest.raises(UserError, match="7 training queries are asked for, .* has 6"):
        cross_validated(build_ranker(cfg), data, candidates, cfg.eval.tune, seed=0, num_queries=7)


def test_lexical_orders():
    """Query likelihood prefers what is said more often and rarer; the best order is ideal."""
    corpus = {"a": "red red fox", "b": "red cow cow cow cow", "c": "cow tree"}
    data = RetrievalSet(corpus, {"q": "red fox zebra"}, {"q": {"b": 1}})
    candidates = {"q": {"a": 1.0, "b": 1.0, "c": 1.0}}
    likely = query_likelihood(data, candidates, config("words.mu=2").words)["q"]
    assert likely["a"] > max(likely["b"], likely["c"])
    back = {"red": 2 / 6, "fox": 1 / 6}  # of document frequencies; zebra is nowhere
    expected = math.log((1 + 2 * back["red"]) / 7) + math.log(2 * back["fox"] / 7)
    assert likely["b"] == pytest.approx(expected)
    assert shared_words(data, candidates)["q"] == {"a": 2.0, "b": 1.0, "c": 0.0}
    assert best_order(data, candidates)["q"] == {"a": 0.0, "b": 1.0, "c": 0.0}
    assert agreement({"q": likely}, {"q": likely}) == pytest.approx(1)
    assert agreement({"q": likely}, {"q": {d: -v for d, v in likely.items()}}) == pytest.approx(-1)
    assert agreement({"q": likely}, {"q": dict.fromkeys(corpus, 0.0)}) == 0


def test_word_quality_of_the_first_set(tmp_path, monkeypatch):
    """Ten likeliest words against titles that the documents do not hold; the same items in every
    arm.
    """
    folder = tmp_path / "toy"
    folder.mkdir()
    words = [
        "people",
        "world",
        "house",
        "state",
        "work",
        "time",
        "year",
        "place",
        "hand",
        "right",
        "three",
        "small",
        "group",
        "night",
        "water",
    ]
    rows = [
        {"_id": f"d{i}", "title": f"{words[i]} zebra", "text": " ".join(words[i:] + words[:i])}
        for i in range(6)
    ]
    rows.append({"_id": "none", "title": "", "text": "no title"})
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    counts = set()
    for kind in ("unigram", "attention", "entropy"):
        cfg = config(f"eval.sets=[{folder}]", f"words.distribution={kind}", "eval.query_counts=[]")
        workspace = Workspace(tmp_path / kind)
        actual = evaluation.word_quality(cfg, workspace)
        assert 0 <= actual["word_title_overlap"] <= 0.5  # zebra is in no text
        counts.add(len(json.loads((tmp_path / kind / "items/word_idf.json").read_text())))
    assert counts == {6}
    rows = {}
    for name in ("words_entropy", "words_unigram", "words_tfidf"):
        workspace = Workspace(tmp_path / name)
        rows[name] = getattr(baselines, name)(cfg, workspace)
        assert rows[name].keys() == {"word_idf", "word_title_overlap"}
    assert rows["words_entropy"] == actual
    assert rows["words_unigram"] != actual
    # a stem is counted as a stem: with one word to each nothing changes
    cfg = config(f"eval.sets=[{folder}]", "words.stemming=true", "eval.query_counts=[]")
    assert evaluation.word_quality(cfg, workspace) == pytest.approx(actual)
    # a collection of millions is not read whole
    monkeypatch.setattr(evaluation, "WORD_DOCUMENTS", 2)
    evaluation.word_quality(cfg, workspace)
    assert len(json.loads((workspace.path / "items/word_idf.json").read_text())) == 2


def test_word_quality_looks_at_the_same_documents_in_every_distribution(tmp_path):
    """Those with fewer than ten words are left out, also where a distribution adds words; no word
    at all too.
    """
    words = "people world house state work time year place hand right three small"
    texts = {
        "whole": words,
        "more": f"{words} group night",
        "short": "people world",
        "none": "1999.",
    }
    rows = [{"_id": name, "title": "people", "text": text} for name, text in texts.items()]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for kind in ("unigram", "attention", "entropy", "subtract"):
        cfg = config(
            f"eval.sets=[{tmp_path}]", f"words.distribution={kind}", "eval.query_counts=[]"
        )
        evaluation.word_quality(cfg, Workspace(tmp_path / kind))
        assert len(json.loads((tmp_path / kind / "items/word_idf.json").read_text())) == 2


def test_queries_of_a_set_can_be_fewer():
    data, candidates = evaluation.evaluation_sets(config("eval.max_queries=5"))["synthetic"]
    assert len(data.queries) == len(data.qrels) == len(candidates) == 5
    assert len(evaluation.evaluation_sets(config())["synthetic"][0].queries) == 12


def test_baselines_stand_under_both_names(tmp_path):
    actual = {}
    for name in ("bm25", "query_likelihood", "shared_words", "random_order", "untrained"):
        workspace = Workspace(tmp_path / name)
        actual[name] = getattr(baselines, name)(config(), workspace)
        assert (tmp_path / name / "items/tuned_synthetic_ndcg_at_10.json").is_file()
    assert actual["bm25"]["synthetic_ndcg_at_10"] == actual["bm25"]["tuned_synthetic_ndcg_at_10"]
    assert actual["bm25"]["synthetic_ndcg_at_10"] > actual["random_order"]["synthetic_ndcg_at_10"]


def test_fresh_pairs_tell_whether_words_were_learnt(tmp_path):
    """The head's accuracy on pairs that no step has seen, beside what counts alone decide."""
    for kind, decided in (("unigram", True), ("entropy", False)):
        cfg = config(
            f"words.distribution={kind}",
            "eval.pairs=40",
            "words.vocabulary=30",
            "words.labels=random",
        )
        module = module_of()
        actual = evaluation.pair_quality(cfg, module.ranker, Workspace(tmp_path / kind))
        assert actual.keys() == {f"pair_{name}" for name in evaluation.PAIR_ORDERS}
        items = json.loads((tmp_path / kind / "items/pair_accuracy.json").read_text())
        assert len(items) == 40
        assert actual["pair_accuracy"] == pytest.approx(sum(items) / 40)
        # B-PROP's words all stand in their document, so that sharing them says nothing
        assert (actual["pair_shared_words"] > 0.6) == decided
    with torch.no_grad():
        for head in module.ranker.head_parameters().values():
            head.zero_()
    tied = evaluation.pair_quality(cfg, module.ranker, Workspace(tmp_path / "tied"))
    assert tied["pair_accuracy"] == 0.5


def test_a_strangers_document_tells_whether_the_head_looks_at_its_own(tmp_path, monkeypatch):
    """Sets beside a document they were not drawn from: shared words decide no more, the sets alone
    do.
    """
    cfg = config("words.distribution=unigram", "eval.pairs=60", "words.vocabulary=30")
    ranker = module_of().ranker

    def shared(input_ids, attention_mask, token_type_ids):
        rows = []
        for ids, mask, side in zip(input_ids, attention_mask, token_type_ids, strict=True):
            parts = [ids[(side == k) & (mask == 1)][1 - k : -1] for k in (0, 1)]
            own, document = (ranker.tokenizer.decode(part).split() for part in parts)
            rows.append(sum(word in document for word in own))
        return torch.tensor(rows).float()[:, None]

    def sets_alone(input_ids, attention_mask, token_type_ids):
        return (input_ids * (token_type_ids == 0)).sum(1, keepdim=True).float()

    actual = {}
    for name, forward in (("shared", shared), ("alone", sets_alone)):
        monkeypatch.setattr(ranker, "forward", forward)
        actual[name] = evaluation.pair_quality(cfg, ranker, Workspace(tmp_path / name))
        items = json.loads((tmp_path / name / "items/pair_other_document.json").read_text())
        assert actual[name]["pair_other_document"] == pytest.approx(sum(items) / 60)
    looks, blind = actual["shared"], actual["alone"]
    assert looks["pair_accuracy"] > 0.6 > looks["pair_other_document"]
    assert blind["pair_accuracy"] == blind["pair_other_document"]
