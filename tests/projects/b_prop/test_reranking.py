"""Re-ranking: candidates, groups, fine-tuning, cross-validation over queries."""

import copy

import pytest
import torch

from common.config import UserError
from common.data.retrieval.passages import PassageRecord
from common.encoders.text.cross_encoder import cross_encoder
from common.evaluation.retrieval.beir import RetrievalSet
from common.evaluation.retrieval.ranking import per_query_metrics
from common.evaluation.retrieval.runs import read_run
from common.evaluation.retrieval.subsets import query_folds
from projects.b_prop.groups import RankingGroups
from projects.b_prop.reranking import (
    cross_validated,
    fine_tune,
    first_stage,
    rank,
    ranking_records,
    reranked,
)
from projects.b_prop.task_options import RankerTuning

SMALL = {
    "model_type": "bert",
    "vocab_size": 300,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def toy(count=8):
    """Documents that say "state" are relevant whatever is asked; candidates are four documents
    each.
    """
    corpus = {f"d{i}": ("state " if i % 2 else "people ") + f"work {i}" for i in range(12)}
    queries = {f"q{i}": f"work {i}" for i in range(count)}
    qrels = {f"q{i}": {f"d{2 * (i % 5) + 1}": 1} for i in range(count)}
    candidates = {
        f"q{i}": {f"d{2 * (i % 5)}": 9.0, f"d{2 * (i % 5) + 1}": 5.0, "d10": 2.0}
        for i in range(count)
    }
    return RetrievalSet(corpus, queries, qrels), candidates


def ranker():
    torch.manual_seed(0)
    made = cross_encoder("random", config=SMALL)
    with torch.no_grad():  # a new head may happen to order the toy as it should be
        made.model.classifier.weight.zero_()
    return made


def test_reranking_changes_the_order_and_nothing_else():
    data, candidates = toy()
    actual = reranked(
        data,
        {"q0": candidates["q0"]},
        lambda pairs: torch.tensor([float(len(d)) for _, d in pairs]),
    )
    assert actual["q0"].keys() == candidates["q0"].keys()
    assert actual["q0"]["d0"] == len("people work 0")
    assert actual["q3"] == {}  # keeps its place, so that it counts in the mean
    assert per_query_metrics(data.qrels, actual)["q3"]["ndcg_at_10"] == 0
    with pytest.raises(UserError, match="one of them is not in the set"):
        reranked(data, {"q0": {"gone": 1.0}}, lambda pairs: torch.zeros(1))


def test_precision_divides_by_the_cut_off():
    actual = per_query_metrics({"q": {"a": 1, "b": 1}}, {"q": {"a": 2.0, "c": 1.0}}, ks=(1, 10))[
        "q"
    ]
    assert (actual["precision_at_1"], actual["precision_at_10"]) == (1.0, 0.1)


def test_a_run_file_is_read_to_a_depth(tmp_path):
    path = tmp_path / "x.run"
    path.write_text("q0 Q0 d1 2 1.5 tag\nq0 Q0 d2 1 2.5 tag\nother Q0 d2 1 1 tag\n")
    assert read_run(path) == {"q0": {"d1": 1.5, "d2": 2.5}, "other": {"d2": 1.0}}
    data, _ = toy()
    assert first_stage(data, 1, path) == {"q0": {"d2": 2.5}}
    assert max(len(own) for own in first_stage(data, 3).values()) <= 3  # BM25
    path.write_text("q0 d1 1.5\n")
    with pytest.raises(UserError, match="line 1"):
        read_run(path)
    path.write_text("zz Q0 d1 2 1.5 tag\n")
    with pytest.raises(UserError, match="none of the queries"):
        first_stage(data, 1, path)
    with pytest.raises(UserError, match="no run file"):
        read_run(tmp_path / "gone")


def test_folds_test_every_query_once():
    data, _ = toy()
    folds = query_folds(data, 3)
    tested = [q for _, test in folds for q in test.queries]
    assert sorted(tested) == sorted(data.queries)
    for train, test in folds:
        assert not train.queries.keys() & test.queries.keys()
        assert len(train.queries) + len(test.queries) == 8
        assert train.qrels.keys() == train.queries.keys()
    assert query_folds(data, 3)[0][1].queries == folds[0][1].queries
    for k in (1, 9):
        with pytest.raises(ValueError, match="folds"):
            query_folds(data, k)


def test_groups_hold_a_relevant_document_first():
    data, candidates = toy()
    data.qrels["q7"] = {"d0": 0}
    records = ranking_records(data, candidates)
    assert len(records) == 7  # a query without relevant document teaches nothing
    assert records[0].positives == (data.corpus["d1"],)
    assert records[0].negatives == (data.corpus["d0"], data.corpus["d10"])
    own = ranker()
    groups = RankingGroups(records, 3, own.tokenize, seed=1)
    for index, record in enumerate(records):
        (query, first), *others = groups.pairs(index, 0)
        assert query == record.question
        assert first in record.positives
        assert {d for _, d in others} == {*record.negatives}
    batch = groups[[(0, 0), (4, 2)]]
    assert batch["pairs"]["input_ids"].shape[0] == 6
    orders = {tuple(groups.pairs(0, epoch)) for epoch in range(8)}
    assert len(orders) == 2  # negatives are drawn anew in each epoch
    with pytest.raises(ValueError, match="two documents"):
        RankingGroups(records, 1, own.tokenize)
    with pytest.raises(UserError, match="too few negatives"):
        RankingGroups([PassageRecord("q", ("a",))], 3, own.tokenize)


@pytest.mark.parametrize(("loss", "size"), [("groupwise", 3), ("hinge", 2), ("softmax_hinge", 2)])
def test_fine_tuning_learns_and_leaves_the_ranker_alone(loss, size):
    data, candidates = toy()
    own = ranker()
    before = copy.deepcopy(own.state_dict())
    options = RankerTuning(loss=loss, group_size=size, batch_size=8, steps=30, lr=1e-2, head="new")
    state = torch.random.get_rng_state()
    with torch.inference_mode():  # as evaluations are
        tuned = fine_tune(own, data, candidates, options, seed=0)
        again = fine_tune(own, data, candidates, options, seed=0)
    assert torch.equal(torch.random.get_rng_state(), state)
    for name, value in own.state_dict().items():
        assert torch.equal(value, before[name]), name
    for name, value in tuned.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name

    def hits(some):
        actual = per_query_metrics(data.qrels, rank(some, data, candidates))
        return sum(row["mrr"] for row in actual.values()) / len(actual)

    assert hits(tuned) == 1
    assert hits(own) < 0.9  # all scores are equal, and documents with the lower id come last
    none = fine_tune(own, data, candidates, RankerTuning(steps=0), seed=0)
    assert torch.equal(none.model.classifier.weight, own.model.classifier.weight)


def test_cross_validation_never_trains_on_what_it_ranks(monkeypatch):
    from projects.b_prop import reranking

    data, candidates = toy()
    trained, ranked = [], []

    def spy(own, part, *rest, **more):
        trained.append({*part.queries})
        return own

    original = reranking.rank

    def watch(own, part, asked, size):
        ranked.append({*asked})
        return original(own, part, asked, size)

    monkeypatch.setattr(reranking, "fine_tune", spy)
    monkeypatch.setattr(reranking, "rank", watch)
    options = RankerTuning(folds=4, steps=1)
    actual = cross_validated(ranker(), data, candidates, options, seed=0)
    assert actual.keys() == data.queries.keys()
    for before, asked in zip(trained, ranked, strict=True):
        assert not before & asked
        assert len(before) == 6
    trained.clear()
    cross_validated(ranker(), data, candidates, options, seed=0, num_queries=2)
    few = [set(own) for own in trained]
    trained.clear()
    cross_validated(ranker(), data, candidates, options, seed=0, num_queries=4)
    assert all(len(a) == 2 and a < b for a, b in zip(few, trained, strict=True))
    with pytest.raises(UserError, match=r"tune\.folds"):
        cross_validated(ranker(), data, candidates, RankerTuning(folds=9), seed=0)
