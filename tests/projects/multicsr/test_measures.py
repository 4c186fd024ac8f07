"""What the evaluation and the baselines measure: sets, items, similarities, fits, by hand."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from common.evaluation.retrieval.runs import RunScores
from projects.multicsr import baselines, evaluate
from projects.multicsr.evaluate import data_metrics, retrieval_metrics, set_requirements
from projects.multicsr.graded_triplets import GradedTriplet
from projects.multicsr.judges import Spoilt
from tests.projects.multicsr.conftest import config


class Items:
    """A workspace that records items."""

    def __init__(self):
        self.values, self.means = {}, {}

    def items(self, name, values):
        self.values[name] = values

    def mean_items(self, name, of):
        self.means[name] = of


def test_retrieval_saves_the_items_of_each_metric_and_averages_over_sets(monkeypatch):
    figures, roots = {"a-1": (0.2, 0.6), "b": (0.4, 0.8), "c": (0.9, 1.0)}, set()
    monkeypatch.setattr(evaluate, "read_set", lambda place, root: roots.add(root) or place)
    monkeypatch.setattr(
        evaluate,
        "run_scores",
        lambda place, run: RunScores(
            {name: [value] for name, value in zip(evaluate.ITEMS, figures[place], strict=True)}
        ),
    )
    items, cfg = Items(), config("eval.retrieval=[a-1,b,c]", "data.root=elsewhere")
    actual = retrieval_metrics(cfg, lambda place: place, items)
    assert items.values["a_1_ndcg_at_10"] == [actual["a_1_ndcg_at_10"]] == [0.2]
    assert items.values["a_1_recall_at_100"] == [actual["a_1_recall_at_100"]] == [0.6]
    assert actual["retrieval_ndcg_at_10"] == pytest.approx(0.5)
    assert actual["retrieval_recall_at_100"] == pytest.approx(0.8)
    assert items.means == {
        f"retrieval_{metric}": [f"{name}_{metric}" for name in ("a_1", "b", "c")]
        for metric in evaluate.ITEMS
    }
    assert roots == {"elsewhere"}
    one = retrieval_metrics(config("eval.retrieval=[b]"), lambda place: place, None)
    assert set(one) == {"b_ndcg_at_10", "b_recall_at_100"}


def test_nli_is_required_by_the_held_back_triplets_alone():
    assert set_requirements(config("eval.retrieval=[synthetic]")) == []
    (need,) = set_requirements(config("eval.retrieval=[synthetic]", "eval.triplets=true"))
    assert need.name == "data: nli (bundled)"


def test_triplets_without_errors_have_no_figures_of_found_errors():
    rows = [Spoilt(GradedTriplet("p", "e", "c"), "")] * 3
    curated = SimpleNamespace(kept=[], places=[0], swapped=[], metrics=dict)
    triplets = [rows[0].triplet]
    assert data_metrics(SimpleNamespace(triplets=triplets, rows=rows, curated=curated)) == {
        "triplets": 1
    }


def test_the_judge_is_asked_with_the_premise_first(monkeypatch):
    asked = []
    monkeypatch.setattr(
        baselines,
        "word_grades",
        lambda root: lambda pairs: asked.extend(pairs) or [5.0, 5.0, 1.0, 5.0][: len(pairs)],
    )
    monkeypatch.setattr(baselines, "held_back", lambda cfg: [["p", "q"], ["e", "f"], ["c", "d"]])
    data = SimpleNamespace(first=["a"], second=["b"])
    monkeypatch.setattr(baselines, "sts_set", lambda *_: data)
    monkeypatch.setattr(baselines, "save_sts_items", lambda *_: None)
    monkeypatch.setattr(baselines, "score_sts", lambda sets, cosines: {})
    actual = baselines.judge(config("eval.triplets=true"), Items())
    assert actual == {"triplet_accuracy": 0.75}
    assert asked == [("a", "b"), ("p", "e"), ("q", "f"), ("p", "c"), ("q", "d")]


def test_both_sides_of_the_triplets_have_the_same_document_frequencies(monkeypatch):
    """One call for both: TF-IDF counts words in what it is given."""
    asked = []
    monkeypatch.setattr(baselines, "held_back", lambda cfg: [["p"], ["e"], ["c"]])

    def similarity(first, second):
        asked.append((first, second))
        return [1.0, 0.0][: len(first)]

    assert baselines._triplets(config("eval.triplets=true"), Items(), similarity) == {
        "triplet_accuracy": 1
    }
    assert asked == [(["p", "p"], ["e", "c"])]


@pytest.mark.parametrize("name", ["tfidf", "bm25"])
def test_the_search_of_a_lexical_baseline_is_its_own(name, monkeypatch):
    monkeypatch.setattr(baselines.baselines, "tfidf", lambda *_: {})
    monkeypatch.setattr(baselines, "lexical_run", lambda data, kind: kind)
    monkeypatch.setattr(
        baselines, "retrieval_metrics", lambda cfg, search, workspace: {"kind": search(None)}
    )
    assert getattr(baselines, name)(config(), Items()) == {"kind": name}


@pytest.mark.parametrize(
    ("name", "expected"), [("raw", [1.0, 0.0]), ("centred", [0.5, -0.5]), ("whitened", None)]
)
def test_triplets_and_retrieval_see_the_mapped_embeddings(name, expected, monkeypatch):
    vectors = {"a": [1.0, 0.0], "b": [0.0, 1.0]}

    @contextmanager
    def encoding(*_):
        yield lambda texts: torch.tensor([vectors[text] for text in texts])

    monkeypatch.setattr(baselines.baselines, name, lambda *_: {})
    monkeypatch.setattr(baselines, "_texts", lambda cfg: ["a", "b"])
    monkeypatch.setattr(baselines, "untrained_encoder", lambda cfg: None)
    monkeypatch.setattr(baselines, "encoding", encoding)
    monkeypatch.setattr(
        baselines, "further_metrics", lambda cfg, encode, workspace: {"x": encode(["a", "b"])}
    )
    (actual,) = getattr(baselines, name)(config(), Items()).values()
    if expected is None:
        mean = actual.mean(dim=0)
        torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-5, rtol=0)
        assert actual[0].norm() > 0.9  # of unit variance: centring alone leaves 0.71
    else:
        assert actual[0].tolist() == expected


def test_the_untrained_baseline_has_random_weights_in_every_measure(monkeypatch):
    asked = []
    monkeypatch.setattr(baselines.baselines, "untrained", lambda *_: {})
    monkeypatch.setattr(
        baselines, "build_encoder", lambda model: asked.append(model.random_init) or torch.nn.ReLU()
    )
    monkeypatch.setattr(baselines, "_further", lambda cfg, workspace, encoder: {"x": encoder})
    actual = baselines.untrained(config(name="mini"), Items())
    assert isinstance(actual["x"], torch.nn.ReLU)
    assert asked == [True]
