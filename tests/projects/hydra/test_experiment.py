"""Evaluation, relations, stages and export as the commands drive them (items 7, 13-15)."""

import json

import pytest
import torch
import torch.nn.functional as F

from common.config import UserError
from common.data.image.simclr import SimCLRTransform
from common.data.image.sources import TrainTransform
from common.engine.comparison.spec import read_comparison
from common.engine.run import train
from common.engine.workspace import Workspace
from common.export.safetensors import load_safetensors
from projects.hydra import build
from projects.hydra import evaluate as hydra_evaluate
from projects.hydra import relations as hydra_relations
from projects.hydra.evaluate import relations
from projects.hydra.gates import BasicGate, OpenGate
from projects.hydra.module import Hydra
from projects.hydra.networks import HydraNet
from projects.hydra.relations import (
    CIFAR10_PATHS,
    class_pairs,
    class_similarity,
    gate_overlap,
    hierarchy_paths,
    path_distances,
    subspace_precision,
)
from tests.projects.hydra.conftest import FixedGate, config
from tests.smoke import metrics_of


def train_smoke(folder, *overrides):
    return train("hydra", "smoke", [f"runs_dir={folder}", *overrides])


@pytest.mark.slow
def test_item_14_training_reports_spectrum_and_class_relations(tmp_path, monkeypatch):
    """Items 14, 15: learns above chance; measures, matrices, figures and item values exist."""
    projected, given = [], hydra_evaluate.unit_projections
    monkeypatch.setattr(
        hydra_evaluate, "unit_projections", lambda z: given(projected.append(z) or z)
    )
    run = train_smoke(tmp_path, "trainer.max_steps=40")
    metrics = metrics_of(run)
    assert metrics["linear_probe_top1_chance"] == 1 / 8
    assert metrics["knn20_top1"] > 0.5
    for name in ("participation_ratio", "effective_rank", "z_participation_ratio", "z_std"):
        assert metrics[name] > 0
    assert metrics["z_std"] == pytest.approx(
        float(projected[-1].var(dim=0).sqrt().mean()), rel=1e-5
    )
    for name in ("spectrum", "map", "gate_overlap", "class_similarity"):
        assert (run / "plots" / f"{name}.png").stat().st_size > 1000
    for name in ("linear_probe_top1", "knn20_top1"):
        items = json.loads((run / "items" / f"{name}.json").read_text(encoding="utf-8"))
        assert set(items) <= {0.0, 1.0}
        assert sum(items) / len(items) == pytest.approx(metrics[name], abs=0.01)
    assert (run / "gallery/nearest neighbours/gallery.json").exists()
    gallery = run / "gallery/other classes in the subspace of a pair/gallery.json"
    rows = json.loads(gallery.read_text(encoding="utf-8"))
    assert len(rows) == 8
    assert all(row["results"][0]["item"]["text"].startswith("wanted: ") for row in rows)


@pytest.mark.slow
@pytest.mark.usefixtures("unrendered_figures")
def test_item_15_relation_matrix_is_exported_and_correlated_with_a_given_hierarchy(tmp_path):
    """Item 15: the file's classes and matrices; the hierarchy decides the distances."""
    from common.data.image.synthetic import synthetic_pairs

    names = synthetic_pairs(8, num_classes=8).class_names
    lines = [f"root/{'left' if i < 4 else 'right'}/{name}" for i, name in enumerate(names)]
    file = tmp_path / "hierarchy.txt"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    run = train_smoke(tmp_path, f"eval.hierarchy={file}")
    content = json.loads((run / "relations/class_relations.json").read_text(encoding="utf-8"))
    assert content["class_names"] == names
    overlap, distance = (torch.tensor(content[k]) for k in ("gate_overlap", "hierarchy_distance"))
    assert overlap.shape == distance.shape == (8, 8)
    assert torch.allclose(overlap, overlap.T)
    assert float(distance[0, 1]) == 2
    assert float(distance[0, 7]) == 4
    metrics = metrics_of(run)
    assert -1 <= metrics["gate_overlap_vs_class_distance"] <= 1
    file.write_text(lines[0], encoding="utf-8")
    with pytest.raises(UserError, match="no line root"):
        hierarchy_paths(names, str(file))


def test_item_15_wordnet_distances_of_the_cifar_classes():
    """Item 15: cat is nearer to dog than to truck, automobile nearest to truck."""
    names = list(CIFAR10_PATHS)
    distances = path_distances(hierarchy_paths(names, None))
    at = {name: i for i, name in enumerate(names)}
    assert distances[at["cat"], at["dog"]] < distances[at["cat"], at["frog"]]
    assert distances[at["cat"], at["frog"]] < distances[at["cat"], at["truck"]]
    row = distances[at["automobile"]].clone()
    row[at["automobile"]] = 100
    assert names[int(row.argmin())] == "truck"
    assert hierarchy_paths(["a", "b"], None) is None


@pytest.mark.usefixtures("unrendered_figures")
def test_item_15_overlap_and_its_correlation_are_those_of_a_worked_example(tmp_path):
    """Item 15: overlaps .2 .1 .6 of ab ac bc against distances 3 5 4: ranks 2 1 3, 1 3 2, rho
    -.5."""
    net = HydraNet(3, widths=(8,), projector_dim=8, out_dim=2)
    net.gate = OwnGates(torch.tensor([[1, 0], [0.2, 1], [0.1, 0.58]]))
    expected = torch.tensor([[1, 0.2, 0.1], [0.2, 1.04, 0.6], [0.1, 0.6, 0.3464]])
    assert torch.allclose(gate_overlap(net), expected, atol=1e-6)
    file = tmp_path / "hierarchy.txt"
    file.write_text("root/a\nroot/x/b\nroot/x/y/z/c\n", encoding="utf-8")
    z, labels = F.normalize(torch.randn(6, 2), dim=1), torch.arange(6) % 3
    cfg = config(f"eval.hierarchy={file}")
    metrics = relations(cfg, net, z, labels, ["a", "b", "c"], Workspace(tmp_path))
    assert metrics["gate_overlap_vs_class_distance"] == pytest.approx(-0.5)


@pytest.mark.parametrize("renormalise", [False, True])
def test_exported_and_class_similarities_are_those_that_were_trained(renormalise):
    """With method.renormalise_after_gate both are cosines inside the subspace of the pair."""
    torch.manual_seed(0)
    net = Hydra(config(f"method.renormalise_after_gate={renormalise}")).network.eval()
    images, labels = torch.randn(16, 3, 16, 16), torch.arange(16) % 8
    z = F.normalize(net(images)[1], dim=1)

    def similarity(i, j):
        gate = net.gate(labels[i : i + 1], labels[j : j + 1])[0]
        pair = gate * z[i], gate * z[j]
        return F.cosine_similarity(*pair, dim=0) if renormalise else pair[0] @ pair[1]

    with torch.no_grad():
        actual = net.similarity(images, images.roll(3, 0), labels, labels.roll(3))
        assert torch.allclose(actual[9], similarity(9, 6), atol=1e-6)
        by_class = class_similarity(net, z, labels)
        four = [similarity(i, j) for i in (2, 10) for j in (5, 13)]
    assert torch.allclose(by_class[2, 5], torch.stack(four).mean(), atol=1e-6)


def attribute_world(num_classes=6, per_class=30, dim=18):
    """Classes with three of nine attributes each; gates that know which ones a pair shares."""
    generator = torch.Generator().manual_seed(0)
    attributes = (torch.rand(num_classes, dim, generator=generator) < 0.35).float()
    labels = torch.arange(num_classes * per_class) % num_classes
    z = attributes[labels] + 0.3 * torch.randn(len(labels), dim, generator=generator)
    return F.normalize(z, dim=1), labels, attributes


class OwnGates(FixedGate):
    """One gate per class."""

    def forward(self, labels, partner_labels):
        return self.given[labels]


class SharedAttributes(FixedGate):
    """Opens the attributes that both classes have."""

    def forward(self, labels, partner_labels):
        return self.given[labels] * self.given[partner_labels]


def test_item_13_subspace_precision_tells_a_fitting_gate_from_its_controls():
    """Item 13: the gate of shared attributes finds the partner; a shuffled or no gate does not."""
    z, labels, attributes = attribute_world()
    net = HydraNet(6, widths=(8,), projector_dim=8, out_dim=18)
    net.gate = SharedAttributes(attributes)
    actual = subspace_precision(net, z, labels, k=10)
    assert actual["subspace_precision_chance"] == pytest.approx(1 / 5)
    assert actual["subspace_precision_no_gate"] == pytest.approx(1 / 5, abs=1e-6)
    assert actual["subspace_precision"] > actual["subspace_precision_random_gate"] + 0.1
    assert actual["pair_precision_chance"] == pytest.approx(2 / 6)
    net.gate = OpenGate(6, 18)
    closed = subspace_precision(net, z, labels, k=10)
    assert closed["subspace_precision"] == closed["subspace_precision_no_gate"]


def test_item_13_the_shuffled_gate_opens_as_much_elsewhere(monkeypatch):
    """Item 13: the control has the values of the gate at other coordinates, drawn for each pair."""
    z, labels, attributes = attribute_world()
    net = HydraNet(6, widths=(8,), projector_dim=8, out_dim=18)
    net.gate = SharedAttributes(attributes * torch.linspace(0.5, 1, 18))
    used = []
    monkeypatch.setattr(
        hydra_relations, "_precision", lambda *given: used.append(given[4][0]) or (0.0, 0.0)
    )
    subspace_precision(net, z, labels, k=10)
    moved = 0
    for gate, shuffled, none in zip(used[::3], used[1::3], used[2::3], strict=True):
        assert torch.equal(gate.sort().values, shuffled.sort().values)
        assert none.eq(1).all()
        moved += not torch.equal(gate, shuffled)
    assert moved > 0.9 * len(used) / 3


def test_item_13_a_gate_trained_alone_on_frozen_features_beats_its_controls():
    """Item 13: only the gate is trained; the features stay what they are."""
    from common.losses.multi_positive import HydraLoss

    torch.manual_seed(0)
    z, labels, _ = attribute_world()
    net = HydraNet(6, widths=(8,), projector_dim=8, out_dim=18)
    gate = BasicGate(6, 18, in_dim=16, mlp_dim=32)
    net.gate = gate
    optimizer = torch.optim.Adam(gate.parameters(), lr=1e-2)
    for _ in range(150):
        partners = labels[torch.randperm(len(labels))]
        optimizer.zero_grad()
        HydraLoss()(z, gate(labels, partners), labels, partners, 10.0).loss.backward()
        optimizer.step()
    gate.eval()
    with torch.no_grad():
        actual = subspace_precision(net, z, labels, k=10)
    assert actual["subspace_precision"] > actual["subspace_precision_random_gate"] + 0.1


@pytest.mark.slow
@pytest.mark.usefixtures("unrendered_figures")
def test_item_13_frozen_simclr_trains_two_stages(tmp_path):
    """Item 13: SimCLR first, then the gate; the second stage leaves the encoder alone."""
    run = train_smoke(tmp_path, "method.frozen_simclr=true", "trainer.max_steps=4")
    assert (run / "checkpoints/simclr/finished.json").exists()
    stages = {}
    for name in ("simclr", "gate"):
        path = next((run / f"checkpoints/{name}").glob("*.ckpt"))
        from common.engine.checkpoint import load

        stages[name] = load(path)["state_dict"]
    shared = [k for k in stages["gate"] if k.startswith(("network.encoder", "network.projector"))]
    assert len(shared) > 5
    assert all(torch.equal(stages["gate"][k], stages["simclr"][k]) for k in shared)
    names = ("subspace_precision", "subspace_precision_random_gate", "subspace_precision_no_gate")
    assert set(names) <= metrics_of(run).keys()


def test_item_13_the_simclr_stage_sees_no_copies_of_an_image():
    """Item 13: copies would be negatives of each other; the gate's stage keeps them."""
    stages = build(config("method.frozen_simclr=true", "data.repeats=3")).stages()
    assert [stage.data.train_set.repeats for stage in stages] == [1, 3]


def test_item_13_the_gate_s_stage_starts_from_the_encoder_of_the_simclr_stage():
    """Item 13: SimCLR has two views with its own augmentation, the gate those of the config."""
    first, second = build(config("method.frozen_simclr=true")).stages()
    views = [stage.data.train_set.views for stage in (first, second)]
    kinds = [[type(view.transform) for view in part] for part in views]
    assert kinds == [[SimCLRTransform] * 2, [TrainTransform]]
    a, b = (stage.module.network for stage in (first, second))
    for part in ("encoder", "projector"):
        before, after = (getattr(net, part).state_dict() for net in (a, b))
        assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.slow
@pytest.mark.usefixtures("unrendered_figures")
def test_open_gate_has_no_overlap_matrix(tmp_path):
    run = train_smoke(tmp_path, "gate.type=open", "trainer.max_steps=2", "optim.warmup_steps=0")
    metrics = metrics_of(run)
    assert not any("gate_overlap" in name for name in metrics)
    assert not (run / "plots/gate_overlap.png").exists()


def test_pairs_are_all_or_a_seeded_draw():
    assert class_pairs(4, 10, 0) == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    drawn = class_pairs(100, 7, 0)
    assert len(set(drawn)) == 7
    assert drawn == class_pairs(100, 7, 0) != class_pairs(100, 7, 1)


@pytest.mark.parametrize("gate", ["basic", "stochastic", "open"])
def test_export_reloads_with_equal_outputs_and_similarity(tmp_path, gate):
    cfg = config(f"gate.type={gate}")
    experiment, module = build(cfg), Hydra(cfg).eval()
    with torch.inference_mode():
        before = experiment.embed(module)
        experiment.export(module, tmp_path)
        after = experiment.embed(experiment.load_export(tmp_path).eval())
        net = load_safetensors(tmp_path, HydraNet)
        images, labels = torch.randn(2, 3, 16, 16), torch.tensor([1, 4])
        similarity = net.similarity(images, images.flip(0), labels, labels.flip(0))
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert torch.allclose(similarity[0], similarity[1], atol=1e-6)  # symmetric


@pytest.mark.slow
@pytest.mark.usefixtures("unrendered_figures")
def test_transfer_protocol_runs_on_a_labelled_folder(tmp_path, monkeypatch):
    import numpy as np
    from PIL import Image

    from common.evaluation.image_text import image_sets

    monkeypatch.setattr(image_sets, "WAYS", 2)
    rng = np.random.default_rng(0)
    for label, name in enumerate(("airplane", "beach")):
        folder = tmp_path / "NWPU-RESISC45" / name
        folder.mkdir(parents=True)
        for i in range(44):
            pixels = rng.integers(0, 60, (20, 20, 3)) + 150 * label
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{name}_{i:03d}.jpg")
    run = train_smoke(
        tmp_path,
        "eval.transfer=[resisc45]",
        f"eval.root={tmp_path}",
        "trainer.max_steps=2",
        "optim.warmup_steps=0",
    )
    metrics = metrics_of(run)
    assert metrics["resisc45_linear_probe_top1"] > 0.9
    assert metrics["resisc45_few_shot_top1"] > 0.9


def test_transfer_sets_are_asked_for_before_training(tmp_path):
    cfg = config("eval.transfer=[pets]", f"eval.root={tmp_path}")
    with pytest.raises(UserError, match="image set 'pets' not found"):
        next(build(cfg).stages())


@pytest.mark.slow
@pytest.mark.usefixtures("unrendered_figures")
@pytest.mark.parametrize("arm", read_comparison("hydra").arms)
def test_every_arm_of_the_comparison_trains(arm, tmp_path):
    """Two steps of the smoke config with the arm's overrides; the primary metric exists."""
    own = [f"{key}={json.dumps(v)}" for key, v in read_comparison("hydra").arms[arm].items()]
    words = ["trainer.max_steps=2", "optim.warmup_steps=0", "eval.probe_l2=[1.0]"]
    run = train_smoke(tmp_path, *own, *words)
    metrics = metrics_of(run)
    assert {"linear_probe_top1", "knn20_top1", "participation_ratio", "z_std"} <= metrics.keys()


@pytest.mark.slow
@pytest.mark.usefixtures("unrendered_figures")
def test_reduced_precision_trains(tmp_path):
    run = train_smoke(tmp_path, "trainer.precision=bf16-mixed", "trainer.max_steps=20")
    assert metrics_of(run)["linear_probe_top1"] > 0.3
