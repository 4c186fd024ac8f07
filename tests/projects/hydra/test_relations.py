"""Retrieval in subspaces, class matrices and embedded parts, by hand."""

import json
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from common.engine.workspace import Workspace
from common.evaluation.features import geometry
from projects.hydra import evaluate as evaluation
from projects.hydra import relations as hydra_relations
from projects.hydra.networks import HydraNet, build_net
from projects.hydra.relations import class_similarity, pair_gallery, subspace_precision
from tests.projects.hydra.conftest import FixedGate, config


class Ones(FixedGate):
    """Opens every coordinate of every pair."""

    def __init__(self, dim):
        super().__init__(torch.ones(1, dim))

    def forward(self, labels, partner_labels):
        return self.given.expand(len(labels), -1)


def net_of(num_classes, dim):
    """A network whose gates are open."""
    net = HydraNet(num_classes, widths=(8,), projector_dim=8, out_dim=dim)
    net.gate = Ones(dim)
    return net


def test_a_sample_retrieves_itself_never_and_its_partner_counts_for_the_pair():
    """Of two samples of class 0 one is next to class 1, the other next to class 2."""
    z = F.normalize(torch.tensor([[1, 0.0], [0, 1], [1, 0.1], [0.1, 1]]), dim=1)
    labels = torch.tensor([0, 0, 1, 2])
    share, pair = hydra_relations._precision(z, labels, 0, 1, torch.ones(1, 2), 1, False)
    assert (share, pair) == (0.5, 0.5)


def test_both_classes_of_a_pair_query(monkeypatch):
    asked = []
    monkeypatch.setattr(
        hydra_relations,
        "_precision",
        lambda z, labels, query_class, partner, *_: asked.append((query_class, partner)) or (1, 1),
    )
    labels = torch.tensor([0, 0, 0, 2])
    actual = subspace_precision(net_of(3, 4), torch.eye(4), labels)
    assert asked == [(0, 2)] * 3 + [(2, 0)] * 3  # nothing of class 1 is judged
    assert actual["subspace_precision"] == actual["subspace_precision_chance"] == 1
    assert actual["pair_precision_chance"] == 1


def test_random_gates_are_drawn_for_each_pair_by_the_seed(monkeypatch):
    def drawn(seed):
        used = []
        monkeypatch.setattr(
            hydra_relations, "_precision", lambda *options: used.append(options[4][0]) or (0, 0)
        )
        net = net_of(5, 9)
        net.gate.given = torch.linspace(0, 1, 9)[None]
        subspace_precision(net, torch.eye(5, 9), torch.arange(5), seed=seed)
        return [tuple(gate.tolist()) for gate in used[1::6]]

    assert len(set(drawn(0))) == 10
    assert not set(drawn(0)) & set(drawn(1))


def test_the_gallery_shows_other_classes_and_marks_the_partner():
    z = F.normalize(torch.tensor([[1, 0.0], [1, 0.1], [1, 0.4], [0.2, 1]]), dim=1)
    labels = torch.tensor([0, 0, 2, 1])
    rows = pair_gallery(net_of(3, 2), z, labels, ["a", "b", "c"], lambda i: i)
    first = rows[0]
    assert first["query"] == 0
    assert first["results"][0]["item"] == "wanted: b"
    shown = [(result["item"], result["correct"]) for result in first["results"][1:]]
    assert shown == [(2, False), (3, True)]


@pytest.mark.parametrize("renormalise", [False, True])
def test_a_class_without_images_is_left_out_of_the_relations(renormalise, tmp_path):
    """A folder of test images may lack a class; the evaluation failed after the training."""
    generator = torch.Generator().manual_seed(0)
    z = F.normalize(torch.randn(9, 4, generator=generator), dim=1)
    labels, names = torch.tensor([0, 2, 3] * 3), ["a", "b", "c", "d"]
    net = net_of(4, 4)
    net.renormalise = renormalise
    precisions = subspace_precision(net, z, labels, k=2)
    assert all(0 <= value <= 1 for value in precisions.values())
    assert precisions["subspace_precision_chance"] == pytest.approx(1 / 2)
    rows = pair_gallery(net, z, labels, names, lambda i: i)
    assert [row["results"][0]["item"] for row in rows] == ["wanted: c", "wanted: d", "wanted: d"]
    matrix = class_similarity(net, z, labels)
    assert matrix.isnan().nonzero().tolist() == [
        [0, 1],
        [1, 0],
        *([1, i] for i in (1, 2, 3)),
        [2, 1],
        [3, 1],
    ]
    file = tmp_path / "hierarchy.txt"
    file.write_text("root/a\nroot/x/b\nroot/x/c\nroot/x/y/d\n", encoding="utf-8")
    space = SimpleNamespace(folder=Workspace(tmp_path).folder, figure=lambda *_: None)
    cfg = config(f"eval.hierarchy={file}")
    metrics = evaluation.relations(cfg, net, z, labels, names, space)
    expected = evaluation.spearman(matrix[[0, 0, 2], [2, 3, 3]], [3, 4, 3])
    assert metrics["class_similarity_vs_class_distance"] == pytest.approx(expected)
    text = (tmp_path / "relations/class_relations.json").read_text(encoding="utf-8")
    assert "NaN" not in text
    assert json.loads(text)["class_similarity"][1] == [None] * 4
    one = torch.zeros(9, dtype=torch.long)
    assert subspace_precision(net, z, one) == {}
    assert pair_gallery(net, z, one, names, lambda i: i) == []
    assert "class_similarity_vs_class_distance" not in evaluation.relations(
        cfg, net, z, one, names, space
    )


def test_labels_follow_the_images_that_could_be_read(monkeypatch):
    """Projections are those of the test part."""
    rows = {"bank": torch.tensor([0, 2]), "test": torch.tensor([1, 2])}

    def outputs(net, source, device, **options):
        kept = rows[source]
        return (10.0 * kept[:, None], 100.0 * kept[:, None]), kept

    monkeypatch.setattr(evaluation, "source_outputs", outputs)
    bank, test = (
        SimpleNamespace(source=lambda _, name=name: name, labels=torch.tensor(labels))
        for name, labels in (("bank", [3, 4, 5]), ("test", [6, 7, 8]))
    )
    cfg = config()
    parts, z = evaluation.embed_parts(
        cfg, build_net(cfg), bank, test, SimpleNamespace(progress=None)
    )
    assert [parts.bank.labels.tolist(), parts.test.labels.tolist()] == [[3, 5], [7, 8]]
    assert parts.test.features[:, 0].tolist() == [10, 20]
    assert z[:, 0].tolist() == [100, 200]


def test_the_spectrum_is_of_centred_features():
    drawn = []
    space = SimpleNamespace(figure=lambda name, figure: drawn.append(figure.axes[0].lines[0]))
    features = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
    evaluation.draw_spectrum(space, features)
    evaluation.draw_spectrum(space, features + 50)
    first, moved = (torch.as_tensor(line.get_ydata()) for line in drawn)
    torch.testing.assert_close(first, moved, rtol=1e-3, atol=1e-4)


def test_measures_and_pictures_are_of_the_config_and_of_the_projections(monkeypatch, tmp_path):
    cfg = config(
        "eval.precision_at=7",
        "eval.max_pairs=9",
        "seed=3",
        "method.renormalise_after_gate=true",
        "data.source=cifar10",
    )
    raw_z = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    held = SimpleNamespace(
        features=torch.eye(3, 16), labels=torch.arange(3), rows=torch.tensor([4, 0, 2])
    )
    part = SimpleNamespace(class_names=["a", "b", "c"], picture=lambda i: f"picture {i}")
    asked = {}
    monkeypatch.setattr(evaluation, "embed_parts", lambda *_: (SimpleNamespace(test=held), raw_z))
    monkeypatch.setattr(evaluation, "probes", lambda *_: SimpleNamespace(metrics={}))
    for name in ("save_items", "draw_spectrum", "show_features"):
        monkeypatch.setattr(evaluation, name, lambda *_: None)
    monkeypatch.setattr(evaluation, "relations", lambda *_: {})
    monkeypatch.setattr(
        evaluation, "subspace_precision", lambda *_, **options: asked.update(options) or {}
    )

    def gallery(net, z, labels, names, picture, **options):
        asked.update(pictures=[picture(i) for i in range(3)], gallery=options)
        return []

    monkeypatch.setattr(evaluation, "pair_gallery", gallery)
    space = SimpleNamespace(gallery=lambda *_: None)
    metrics = evaluation.evaluate_net(cfg, build_net(cfg).eval(), part, part, space)
    assert asked == {
        "k": 7,
        "max_pairs": 9,
        "seed": 3,
        "renormalise": True,
        "pictures": ["picture 4", "picture 0", "picture 2"],
        "gallery": {"seed": 3, "renormalise": True},
    }
    assert metrics["z_participation_ratio"] == geometry.participation_ratio(raw_z)
