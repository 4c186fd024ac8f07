"""Scores of several test sets by one encoder, their averages, and TF-IDF in its place."""

from dataclasses import replace

import pytest
import torch

from projects.nv_embed.embedding_benchmark.sets import (
    Classes,
    Pairs,
    Reranking,
    Retrieval,
    score_set,
    score_sets,
    show_set,
    tfidf_of,
)

DOCUMENTS = ["red fox", "blue car", "green tree", "old house"]
SETS = {
    "find": Retrieval("find", ["fox", "car", "tree"], DOCUMENTS, [{0}, {1}, {3}]),
    "rank": Reranking("find", ["a fox"], [["blue car", "red fox"]], [[False, True]]),
    "same": Pairs("", ["red fox", "a car"], ["a fox", "green tree"], [1.0, 0.0]),
    "groups": Classes("", [], [], ["red a", "red b", "blue c", "blue d"], [0, 0, 1, 1]),
}


def test_retrieval_instructs_queries_only():
    seen = []

    def encode(texts, told):
        seen.append((list(texts), told))
        return torch.eye(4)[: len(texts)]

    actual = score_set(encode, SETS["find"], "find")
    assert (actual.kind, actual.metric) == ("retrieval", "find_ndcg_at_10")
    assert actual.items[:2] == [1.0, 1.0]
    assert 0 < actual.items[2] < 1
    assert actual.value == pytest.approx(sum(actual.items) / 3)
    assert seen == [(["fox", "car", "tree"], "find"), (DOCUMENTS, "")]


def test_averages_by_type_and_of_the_primary_sets():
    metrics, items = score_sets(tfidf_of, SETS, ["find", "rank"])
    assert metrics["rank_map"] == 1.0
    assert metrics["same_average_precision"] == 1.0
    assert metrics["groups_v_measure"] == pytest.approx(1.0)
    assert items["find_ndcg_at_10"][:2] == [1.0, 1.0]
    assert items.keys() == {"find_ndcg_at_10", "rank_map", "primary_average"}
    values = [metrics[k] for k in ("find_ndcg_at_10", "rank_map")]
    assert metrics["primary_average"] == pytest.approx(sum(values) / 2)
    assert sum(items["primary_average"]) / 4 == pytest.approx(metrics["primary_average"])
    kinds = [v for k, v in metrics.items() if k.endswith("_average") and k != "primary_average"]
    assert len(kinds) == 4
    metrics, items = score_sets(tfidf_of, SETS, ["find", "groups"])  # V-measure has no items
    values = [metrics[k] for k in ("find_ndcg_at_10", "groups_v_measure")]
    assert metrics["primary_average"] == pytest.approx(sum(values) / 2)
    assert "primary_average" not in items
    assert "primary_average" not in score_sets(tfidf_of, SETS, ["find", "absent"])[0]


def test_v_measure_is_the_mean_of_several_starts(monkeypatch):
    import projects.nv_embed.embedding_benchmark.sets as module

    monkeypatch.setattr(module, "clustering_v_measure", lambda x, labels, *, seed: float(seed))
    actual = score_set(lambda texts, _: torch.eye(4), SETS["groups"], "groups")
    assert actual.value == pytest.approx(sum(range(module.STARTS)) / module.STARTS)


def test_few_shots_of_a_set(monkeypatch):
    """The set's own number of texts and draws; without one, its whole training part."""
    import projects.nv_embed.embedding_benchmark.sets as module

    asked = []
    monkeypatch.setattr(
        module,
        "few_shot_correct",
        lambda *given: asked.append(given[4:]) or torch.tensor([0.25, 0.5]),
    )
    rows = [
        ["red a", "red b", "red e", "blue c", "blue d", "blue f"],
        [0, 0, 0, 1, 1, 1],
        ["red x", "blue y"],
        [0, 1],
    ]
    few = Classes("", *rows, shots=2, draws=4)
    actual = score_set(tfidf_of(few), few, "x")
    assert (actual.metric, actual.items, asked) == ("x_accuracy", [0.25, 0.5], [(2, 4)])
    whole = Classes("", *rows)
    assert score_set(tfidf_of(whole), whole, "x").items == [1.0, 1.0]
    assert len(asked) == 1


def test_chance_of_a_probe():
    data = Classes(
        "",
        ["red a", "red b", "red e"] * 2 + ["blue c", "blue d", "blue f"] * 2,
        [0] * 6 + [1] * 6,
        ["red g", "blue h"],
        [0, 1],
    )
    metrics, _ = score_sets(tfidf_of, {"x": data}, [])
    assert metrics["x_accuracy_chance"] == 0.5
    assert metrics["x_accuracy"] == 1.0
    part = replace(data, test=["red g"], test_labels=[0])  # no test text of the last class
    assert score_sets(tfidf_of, {"x": part}, [])[0]["x_accuracy_chance"] == 0.5


def test_pictures_go_to_who_takes_them():
    taken = {}

    class Taker:
        def gallery(self, name, rows):
            taken[name] = rows

        def figure(self, name, figure):
            taken[name] = figure

    for name, data in SETS.items():
        show_set(tfidf_of(data), data, name, Taker())
    assert taken.keys() == {"nearest documents find", "map groups"}
    assert taken["nearest documents find"][0]["results"][0]["item"] == "red fox"
