"""Parts, classes and trees of the evaluation; streams, masks and temperatures of the training."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from projects.space2 import data, evaluate
from projects.space2 import module as method
from projects.space2.data import Examples, labelled_corpora, training_data, tree_batch
from projects.space2.dialogs.turns import Corpus, Dialog, Turn
from projects.space2.evaluate import (
    HeldOut,
    few_shot,
    sample,
    score_similarity,
    score_vectors,
    scored_corpus,
    scored_folder,
    view_scores,
)
from tests.projects.space2.conftest import batch_of, config, module_of, network_of

TREE = np.array([[1, 0.5, 0.5, 0.5], [0.5, 1, 0.9, 0], [0.5, 0.9, 1, 0.2], [0.5, 0, 0.2, 1]])


def test_turns_of_an_intent_set_have_their_intents_as_classes():
    turns = (Turn(True, "x", {}, "pay"), Turn(True, "y", {}, "book"))
    held = HeldOut((SimpleNamespace(turns=turns),), [(0, 0), (0, 1)], [{}, {}])
    assert held.classes() == ["pay", "book"]


def test_each_turn_has_the_views_of_its_own_sentence_vector(monkeypatch):
    asked = []
    monkeypatch.setattr(evaluate, "score_vectors", lambda cfg, vectors, *_: asked.append(vectors))
    sentence = torch.tensor([[3.0, 4.0], [0.0, 2.0], [-1.0, 0.0]])
    network = SimpleNamespace(
        texts=SimpleNamespace(encode=lambda dialogs, places: places),
        encode=lambda rows, *_: sentence,
        views=("I", "S"),
        device="cpu",
        view_vectors=lambda x, views: torch.stack([x, -x], 1),
    )
    evaluate.evaluate(config(), SimpleNamespace(network=network), None)
    actual = asked[0](SimpleNamespace(dialogs=(), places=[]))
    unit = torch.tensor([[0.6, 0.8], [0.0, 1.0], [-1.0, 0.0]])
    torch.testing.assert_close(actual["_sentence"], unit[:, None])
    torch.testing.assert_close(actual[""], torch.stack([unit, -unit], 1))


def test_turns_whose_tree_tells_nothing_apart_are_left_out(monkeypatch):
    """Similarities in the order of the trees: the first turn would add a zero."""
    monkeypatch.setattr(evaluate, "combined_matrix", lambda frames: TREE)
    metrics = score_similarity(SimpleNamespace(frames=[]), TREE, None)
    assert metrics["turn_spearman"] == pytest.approx(1.0)
    assert metrics["related_pairs"] == pytest.approx(5 / 6)
    assert metrics["neighbour_score"] == pytest.approx((0.5 + 0.9 + 0.9 + 0.5) / 4)


def test_neighbours_of_a_view_are_those_of_turns_that_have_it(monkeypatch):
    scores = np.array([[0, 0.8, 0.1], [0.8, 0, 0.3], [0.1, 0.3, 0]])
    monkeypatch.setattr(evaluate, "view_matrices", lambda frames, views: [scores])
    monkeypatch.setattr(evaluate, "view_sets", lambda frame: {"I": frame})
    z = torch.nn.functional.normalize(torch.tensor([[1.0, 0], [1, 0.1], [0, 1]]), dim=1)[:, None]
    metrics = view_scores(SimpleNamespace(frames=[{1}, set(), {2}]), z, ["I"])
    assert metrics["view_neighbour_I"] == pytest.approx((0.8 + 0.3) / 2)
    assert metrics["view_neighbour_I_chance"] == pytest.approx((0.9 + 0.4) / 4)


def test_classes_have_queries_besides_their_shots():
    """Fifteen queries and the shots of the config; the third class has a turn too few."""
    cfg = config("eval.shots=5", "eval.episodes=2")
    classes = ["a"] * 20 + ["b"] * 20 + ["c"] * 19
    metrics = few_shot("act", classes, torch.randn(59, 1, 4), cfg)
    assert metrics["act_5shot_chance"] == 0.5


def test_acts_are_asked_of_few_turns_and_intents_of_unseen_classes(monkeypatch):
    asked, sizes = [], []
    held = SimpleNamespace(classes=lambda: ["x"] * 6)
    monkeypatch.setattr(evaluate, "held_out", lambda cfg: held)
    monkeypatch.setattr(evaluate, "score_similarity", lambda *_: {})
    monkeypatch.setattr(evaluate.sets, "clinc", lambda *args: asked.append(args))
    monkeypatch.setattr(evaluate, "sample", lambda corpus, count: held)
    monkeypatch.setattr(
        evaluate,
        "few_shot",
        lambda name, classes, z, cfg: sizes.append((len(classes), len(z))) or {},
    )
    vectors = lambda held: {"": torch.randn(6, 1, 2)}  # noqa: E731
    cfg = config("data.source=bundled", "eval.act_turns=4", "eval.part=dev")
    score_vectors(cfg, vectors, None)
    assert sizes == [(4, 4), (6, 6)]
    assert asked == [("dev", False, cfg.data.root)]


@pytest.mark.parametrize(("part", "file"), [("dev", "valid"), ("test", "test")])
def test_the_part_of_the_config_is_scored(monkeypatch, tmp_path, part, file):
    asked = []
    monkeypatch.setattr(evaluate.sets, "sgd", lambda part, root: asked.append(part))
    scored_corpus(config("data.source=bundled", f"eval.part={part}"))
    assert asked == [part]
    folder = tmp_path / "labelled/one"
    folder.mkdir(parents=True)
    for name in ("valid", "test"):
        (folder / f"{name}.json").write_text("{}")
    cfg = config(
        "data.source=corpora",
        f"data.root={tmp_path}",
        "data.labelled=labelled",
        f"eval.part={part}",
    )
    assert scored_folder(cfg) == (folder, file)


def test_turns_without_an_annotation_are_not_scored():
    frame = {"restaurant": {"inform": {"area": ["north"]}}}
    turns = tuple(Turn(True, f"turn {i}", frame if i % 2 else {}) for i in range(8))
    held = sample(Corpus("made-up", (Dialog("d", turns),)), 8)
    assert sorted(t for _, t in held.places) == [1, 3, 5, 7]


def test_masks_depend_on_the_epoch_and_the_place_in_the_corpus(monkeypatch):
    asked = []
    cfg, texts = config(), network_of().texts
    corpora = [Examples(c, texts, "tree", cfg.method.views) for c in labelled_corpora(cfg)]
    draw = data.sample_rng
    monkeypatch.setattr(data, "sample_rng", lambda *args: asked.append(args) or draw(*args))
    tree_batch(corpora, 5, len(cfg.method.views), 1, True, [(1, 2), (1, 0)], 7)
    assert [args[:3] for args in asked] == [(5, 7, (1 << 40) + 2), (5, 7, 1 << 40)]


def test_bundled_intents_are_those_of_the_training(monkeypatch):
    asked = []
    monkeypatch.setattr(data.sets, "clinc", lambda *args: asked.append(args[:2]))
    labelled_corpora(config("data.source=bundled", "data.corpora=[clinc]"))
    assert asked == [("train", True)]


@pytest.mark.parametrize("in_turn", [True, False])
def test_streams_take_corpora_in_turn_where_the_config_says(monkeypatch, in_turn):
    asked = []
    stream = data.corpora_stream

    def watched(*args, in_turn, most):
        asked.append((in_turn, most))
        return stream(*args, in_turn=in_turn, most=most)

    monkeypatch.setattr(data, "corpora_stream", watched)
    words = [f"data.in_turn={str(in_turn).lower()}", "data.batch_nolabel=16", "data.most=40"]
    training_data(config(*words), network_of().texts)
    assert asked == [(in_turn, 40), (in_turn, 20)]


def test_the_contrast_has_temperatures_and_devices_of_the_config(monkeypatch):
    asked = []
    contrast = method.multi_view_contrast

    def watched(vectors, sets, tau, base_tau, **options):
        asked.append((tau, base_tau, options["gather"]))
        return contrast(vectors, sets, tau, base_tau, **options)

    monkeypatch.setattr(method, "multi_view_contrast", watched)
    words = ["method.tau=0.2", "method.base_tau=0.5", "method.gather=true"]
    module = module_of(*words)
    module.losses(batch_of(module, *words))
    assert asked == [(0.2, 0.5, True)] * 2


def test_a_place_of_a_batch_is_a_row_of_each_part_of_the_corpus_with_its_own_trees():
    """With ratio 2, place i stands for rows i and i + half; view k reads the k-th sets."""
    cfg, texts = config(), network_of().texts
    (corpus, *_) = labelled_corpora(cfg)
    views = cfg.method.views
    examples = Examples(corpus, texts, "tree", views)
    rows = [0, len(examples) // 2]
    batch = tree_batch([examples], 5, len(views), 2, False, [(0, 0)], 0)
    expected = texts.pad([examples.row(i) for i in rows])["input_ids"]
    assert torch.equal(batch["inputs"]["input_ids"], expected)
    for k in range(len(views)):
        sets = [examples.sets[i][k] for i in rows]
        assert batch["set_ids"][k].tolist() == np.concatenate(sets).tolist()
        assert batch["set_counts"][k].tolist() == [len(s) for s in sets]
    assert len({tuple(examples.sets[0][k]) for k in range(len(views))}) > 1
