"""The experiment as the commands drive it: data, evaluation, export, checks."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from common.config import UserError
from common.data.image.files import LabelledFiles, imagenet100_synsets
from common.data.image.parts import ImagePart
from common.engine.comparison.spec import read_comparison
from common.engine.run import train
from common.engine.sweeps.schema import read_sweep
from projects.cacr import build
from projects.cacr.data import (
    build_data,
    image_part,
    local_transforms,
    num_samples,
    requirements,
    tail_classes,
    view_transforms,
)
from projects.cacr.diagnostics import repulsion_weights
from projects.cacr.evaluate import by_frequency, mechanism, per_class, views_of_test_images
from projects.cacr.module import CACR
from projects.cacr.unlabelled import nearest
from tests.projects.cacr.conftest import HOSTS, config


@pytest.mark.slow
@pytest.mark.parametrize("host", HOSTS)
def test_training_writes_metrics_items_gallery_and_figures(tmp_path, host):
    words = [f"runs_dir={tmp_path}", f"method.host={host}", "trainer.val_every_n_steps=3"]
    run = train("cacr", "smoke", words)
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["knn5_top1_chance"] == 1 / 8
    for name in ("knn5_top1", "linear_probe_top1"):
        items = json.loads((run / f"items/{name}.json").read_text(encoding="utf-8"))
        assert sum(items) / len(items) == pytest.approx(metrics[name])
        assert f"untrained_{name}" in metrics
    assert (run / "plots/map.png").exists()
    assert (run / "plots/per class.png").exists()
    assert (run / "gallery/nearest neighbours/gallery.json").exists()
    log = (run / "metrics.csv").read_text(encoding="utf-8")
    assert "train/positive_entropy" in log
    assert "train/negative_rank_correlation" in log
    assert log.count("val/knn_top1") == 2
    assert not (run / "checkpoints/train/best.ckpt").exists()  # nothing is chosen on test images


@pytest.mark.slow
@pytest.mark.usefixtures("unrendered_figures")
def test_item_13_one_evaluation_reports_all_head_and_tail_for_both_losses(tmp_path):
    """Checklist 13: CACR and InfoNCE on an imbalanced subset, with the same report."""
    names = {
        "linear_probe_top1",
        "linear_probe_head_top1",
        "linear_probe_tail_top1",
        "knn5_top1",
        "knn5_head_top1",
        "knn5_tail_top1",
    }
    for loss in ("cacr", "infonce"):
        run = train(
            "cacr",
            "smoke",
            [
                f"runs_dir={tmp_path}",
                f"method.loss={loss}",
                "data.imbalance=linear",
                f"run_id={loss}",
                "eval.untrained=false",
            ],
        )
        metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
        assert names <= metrics.keys()
        both = (metrics["linear_probe_head_top1"] + metrics["linear_probe_tail_top1"]) / 2
        assert metrics["linear_probe_top1"] == pytest.approx(both)
        report = json.loads((run / "per_class.json").read_text(encoding="utf-8"))
        assert len(report["linear_probe_top1"]) == 8


def test_item_13_halves_and_classes_are_told_apart():
    """Checklist 13: tail are the classes of low index; classes without images are left out."""
    correct = {"knn5_top1": torch.tensor([True, False, False, True])}
    labels = torch.tensor([0, 1, 2, 2])
    actual = by_frequency(correct, labels, torch.tensor([True, True, False, False]))
    assert (actual["knn5_tail_top1"], actual["knn5_head_top1"], actual["knn5_gap"]) == (
        0.5,
        0.5,
        0.0,
    )
    other = by_frequency(correct, labels, torch.tensor([False, False, True, False]))
    assert (other["knn5_tail_top1"], other["knn5_gap"]) == (0.5, 0.0)
    assert tail_classes(config(), ["a", "b", "c"]).tolist() == [True, False, False]
    assert tail_classes(config(name="paper_imagenet"), ["a", "b"]) is None
    report = per_class(correct, labels, ["a", "b", "c", "d"])
    assert report == {"knn5_top1": {"a": 1.0, "b": 0.0, "c": 0.5}}


@pytest.mark.slow
def test_item_13_balanced_and_imbalanced_arms_have_equal_size():
    """Checklist 13: the arms of the comparison; bank and test do not depend on the subset."""
    arms, parts = read_comparison("cacr").arms, {}
    for name, size in (
        ("full", 1420),
        ("full_exponential", 1420),
        ("full_4950", 4950),
        ("full_linear", 4950),
    ):
        cfg = config(*(f"{k}={json.dumps(v)}" for k, v in arms[name].items()), name="mini")
        assert num_samples(cfg) == size
        judged = ("bank", "test") if name in ("full", "full_exponential") else ()
        parts[name] = [image_part(cfg, part) for part in ("train", *judged)]
        assert len(parts[name][0].labels) == size
        for mine, first in zip(parts[name][1:], parts["full"][1:], strict=bool(judged)):
            assert torch.equal(mine.data.images, first.data.images)
    assert parts["full"][0].labels.bincount().tolist() == [142] * 10
    kept = parts["full_exponential"][0].labels.bincount().tolist()
    assert kept == [0, 0, 0, 2, 6, 16, 44, 121, 331, 900]
    pair = ("data.imbalance=none", "data.limit=27500")
    assert num_samples(config(*pair, name="paper_cifar10_imbalanced")) == 27500


def test_every_arm_of_the_comparison_is_searched_alike_and_on_other_seeds():
    spec, sweep = read_comparison("cacr"), read_sweep("cacr")
    assert sweep.arms == spec.default_arms
    assert sweep.shared["eval.split"] == "dev"
    assert sweep.seed not in spec.seeds
    differ = {key for arm in spec.default_arms for key in spec.arms[arm]} - set(spec.shared)
    assert differ <= {"method.weighting", "method.loss", "data.limit", "data.imbalance", "optim.lr"}


def test_item_10_imbalanced_sizes_are_the_paper_s():
    """Checklist 10: class c keeps (c + 1) / C of its images, drawn by the subset's seed."""
    words = ("data.limit=null", "data.imbalance=linear")
    part = image_part(config(*words, name="mini"), "train")
    assert part.labels.bincount().tolist() == [90 * (c + 1) for c in range(10)]
    fixed = [
        image_part(config(*words, "data.subset_seed=2021", f"seed={s}", name="mini"), "train")
        for s in (0, 1)
    ]
    assert torch.equal(fixed[0].data.images, fixed[1].data.images)
    assert not torch.equal(part.data.images, fixed[0].data.images)
    assert num_samples(config(name="paper_cifar10_imbalanced")) == 27500


def test_item_9_loader_gives_k_plus_one_independent_views():
    """Checklist 9: five views, all different, and the same whatever batch they come in."""
    data = build_data(config(name="mini")).train_set
    whole, alone = data[[(3, 0), (9, 0), (4, 1)]], data[[(9, 0)]]
    assert whole["views"].shape == (5, 3, 3, 16, 16)
    torch.testing.assert_close(whole["views"][:, 1], alone["views"][:, 0], rtol=1e-4, atol=1e-4)
    for x in range(5):
        for y in range(x):
            assert not torch.equal(whole["views"][x], whole["views"][y])


def test_views_of_the_imagenet_recipe_differ_in_blur_and_solarisation():
    first, second = view_transforms(config(name="paper_imagenet").data).transforms
    assert (first.blur_prob, first.solarise_prob) == (1.0, 0.0)
    assert (second.blur_prob, second.solarise_prob) == (0.1, 0.2)
    crops = local_transforms(config(name="paper_imagenet_local_crops").data).transforms
    strengths = {(c.size, c.scale, c.blur_prob, c.solarise_prob) for c in crops}
    assert (len(crops), strengths) == (8, {(96, (0.05, 0.4), 0.5, 0.0)})


def test_mechanism_is_deterministic_and_equal_for_all_losses(tmp_path):
    torch.manual_seed(0)
    cfg, other = config(), config("method.loss=infonce")
    module, test = CACR(cfg).eval(), image_part(cfg, "test").data
    with torch.inference_mode():
        first, again = mechanism(cfg, module, test), mechanism(other, module, test)
        z, labels = views_of_test_images(cfg, module, test)
    assert first == again
    assert z.shape == (5, 256, 16)
    pushed = repulsion_weights(F.normalize(z[0], dim=1), F.normalize(z[1], dim=1), 2.0)
    same = sum(float(row[labels == y].sum()) for row, y in zip(pushed, labels, strict=True)) / 256
    assert first["same_class_weight"] == pytest.approx(same)
    assert not torch.equal(z[0], z[1])
    assert first["farthest_positive_distance"] > first["positive_distance"]
    assert first["negative_rank_correlation"] < 0 < first["positive_rank_correlation"]


def test_mechanism_of_the_momentum_form_has_the_temperature_of_its_loss():
    words = ("method.host=momentum", "method.cost=rbf")
    entropies = []
    for temperature in (0.2, 1.0):
        torch.manual_seed(0)
        cfg = config(*words, f"method.temperature={temperature}")
        with torch.inference_mode():
            actual = mechanism(cfg, CACR(cfg).eval(), image_part(cfg, "test").data)
        entropies.append((actual["positive_entropy"], actual["negative_entropy"]))
    assert entropies[0] < entropies[1]
    assert entropies[0][1] < entropies[1][1]


def test_export_keeps_the_embeddings_and_the_readme_s_lines_work(tmp_path):
    from common.export.safetensors import load_safetensors
    from common.families.images.networks import build_network

    experiment = build(config("model.backbone=small_alexnet"))
    torch.manual_seed(0)
    module = CACR(config("model.backbone=small_alexnet")).eval()
    with torch.inference_mode():
        experiment.export(module, tmp_path)
        again = experiment.load_export(tmp_path).eval()
        before, after = experiment.embed(module), experiment.embed(again)
        encoder = load_safetensors(tmp_path, build_network).encoder
        assert encoder(torch.zeros(1, 3, 16, 16)).shape == (1, 4096)
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_rank_returns_the_image_itself_first():
    torch.manual_seed(0)
    module, images = CACR(config()).eval(), torch.randn(5, 3, 16, 16)
    actual = module.rank(images, images, k=2)
    assert actual.indices[:, 0].tolist() == list(range(5))
    assert module.encode(images).shape == (5, 16)


# -- files ---------------------------------------------------------------------------------------


@pytest.fixture
def imagenet(tmp_path):
    """One image of each ImageNet-100 class; pictures by query, and by class in unequal numbers."""
    rng = np.random.default_rng(0)
    synsets = imagenet100_synsets()
    folders = [f"imagenet/{s}/{n}" for s in ("train", "val") for n in synsets]
    files = [f"{name}/a.jpg" for name in [*folders, *(f"web/google/q{i}" for i in range(20))]]
    files += [f"classes/{n}/{i}.jpg" for i in range(2) for n in synsets[: 100 - 50 * i]]
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 255, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
    return tmp_path


@pytest.mark.slow
@pytest.mark.usefixtures("unrendered_figures")
@pytest.mark.parametrize(("folder", "host"), [("web", "momentum"), ("classes", "queue")])
def test_item_13_pictures_without_labels_train_and_imagenet_judges(
    imagenet, tmp_path, folder, host
):
    """Checklist 13: uncurated sets; head and tail where the folders are named after classes."""
    words = [
        f"data.root={imagenet}",
        "data.source=folder",
        f"data.folder={folder}",
        f"method.host={host}",
        "data.views=2",
        "data.blur_prob=[1.0,0.1]",
        "data.solarise_prob=[0.0,0.9]",
        "method.loss=infonce",
    ]
    if host == "momentum":  # also local crops and two kinds of view
        words += ["data.local_views=2", "data.local_size=8", "method.cost=rbf"]
    assert num_samples(config(*words)) == (20 if folder == "web" else 150)
    run = train(
        "cacr",
        "smoke",
        [f"runs_dir={tmp_path / 'runs'}", *words, "trainer.max_steps=2", "eval.linear_probe=false"],
    )
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["knn5_top1_chance"] == 1 / 100
    if folder == "web":
        assert "knn5_tail_top1" not in metrics  # queries are no classes
    else:
        tail = tail_classes(config(*words), imagenet100_synsets())
        assert tail.tolist() == [False] * 50 + [True] * 50  # the first fifty have two pictures
        both = (metrics["knn5_tail_top1"] + metrics["knn5_head_top1"]) / 2
        assert metrics["knn5_top1"] == pytest.approx(both)


def test_a_missing_judge_is_named_before_training(tmp_path):
    """Pictures of one's own without ImageNet beside them could be trained on, not evaluated."""
    (tmp_path / "mine").mkdir()
    Image.fromarray(np.zeros((12, 12, 3), dtype=np.uint8)).save(tmp_path / "mine/a.png")
    words = (f"data.root={tmp_path}", "data.source=folder", "data.folder=mine")
    with pytest.raises(UserError, match="image set 'imagenet'"):
        build_data(config(*words))


@pytest.mark.slow
@pytest.mark.usefixtures("unrendered_figures")
@pytest.mark.parametrize("host", ["batch", "momentum", "queue"])
def test_pictures_of_ones_own_need_no_judge(tmp_path, host):
    """``eval.judge=none``: ImageNet isn't looked for, and the features' spread is what is told."""
    rng = np.random.default_rng(0)
    for name in ("a/1.png", "a/2.jpg", "b/c/3.png", "4.jpg", "5.png", "6.png", "7.png", "8.png"):
        (tmp_path / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 255, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "mine" / name)
    words = [
        f"data.root={tmp_path}",
        "data.source=folder",
        "data.folder=mine",
        "data.batch_size=4",
        "eval.judge=none",
        f"method.host={host}",
    ]
    if host == "momentum":
        words.append("method.cost=rbf")
    assert {r.name for r in requirements(config(*words))} == {"data: mine"}
    run = train("cacr", "smoke", [f"runs_dir={tmp_path / 'runs'}", *words, "trainer.max_steps=2"])
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert {
        "features_effective_rank",
        "features_uniformity",
        "alignment",
        "projection_uniformity",
    } <= metrics.keys()
    assert not [name for name in metrics if "top1" in name]
    assert 1 <= metrics["features_effective_rank"] <= 8
    rows = json.loads((run / "gallery/nearest pictures/gallery.json").read_text())
    assert len(rows) == 6
    assert len(rows[0]["results"]) == 5


def test_features_of_nobody_s_pictures_are_judged_by_their_own(tmp_path):
    """Without a folder there are labels, and validation while training needs them."""
    with pytest.raises(UserError, match=r"eval.judge=none needs data.folder"):
        config("eval.judge=none")
    with pytest.raises(UserError, match=r"no trainer.val_every_n_steps"):
        config(
            "eval.judge=none", "data.source=folder", "data.folder=x", "trainer.val_every_n_steps=1"
        )


def test_the_nearest_picture_is_its_copy(tmp_path):
    rng = np.random.default_rng(0)
    names = [f"{i}.png" for i in range(4)]
    for name in names:
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(tmp_path / name)
    files = ImagePart(LabelledFiles(tmp_path, names, torch.full((4,), -1), []))
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.1], [0.0, 3.0]])
    rows = nearest(features, files, [0, 1, 2, 3])
    assert [row["results"][0]["score"] > 0.99 for row in rows] == [True] * 4
    assert all(len(row["results"]) == 3 for row in rows)  # not itself
    first = rows[1]["results"][0]["item"]
    assert list(first.getdata()) == list(files.picture(3).getdata())


def test_an_empty_or_missing_folder_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    words = (f"data.root={tmp_path}", "data.source=folder")
    for folder, message in (("empty", "has no pictures"), ("none", "image folder 'none'")):
        with pytest.raises(UserError, match=message):
            image_part(config(*words, f"data.folder={folder}"), "train")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["method.tau_pos=0"], "must be > 0"),
        (["method.host=queue", "method.tau_plus=0.1"], "tau_plus need method.host=batch"),
        (["method.host=momentum", "method.weighting=none"], "has the weighting full or without_w1"),
        (["method.loss=infonce", "method.weighting=none"], "belongs to method.loss=cacr"),
        (["method.host=momentum", "method.loss=infonce"], "needs method.cost=rbf"),
        (["method.cost=rbf", "method.tau_plus=0.1"], "tau_plus needs the Euclidean cost"),
        (["method.host=queue", "method.cost=rbf"], "has the Euclidean cost only"),
        (["method.reduction=sum"], "reduction=sum needs"),
        (["data.local_views=2"], "local_views needs method.host=momentum"),
        (["method.host=momentum", "method.local_keys=true"], "local_keys needs data.local_views"),
        (["data.limit=80", "data.imbalance=linear"], "null it or data.imbalance"),
        (["data.source=stl10", "data.imbalance=linear"], "which stl10's training images lack"),
        (["data.source=imagenet", "data.limit=100"], "sets in memory"),
        (["data.source=folder"], "give both or neither"),
        (["data.views=1"], "data.views must be >= 2"),
        (["optim.milestones=[0.5]"], "need optim.schedule=constant"),
        (["optim.milestones=[0.5]", "optim.schedule=constant"], "need optim.warmup_steps=0"),
        (
            [
                "optim.milestones=[0.5]",
                "optim.schedule=constant",
                "optim.warmup_steps=0",
                "optim.warmup_epochs=1",
            ],
            "and optim.warmup_epochs=0",
        ),
        (["eval.items_k=7"], "must be one of eval.ks"),
        (["eval.split=dev"], "part of data.source=bundled"),
    ],
)
def test_settings_that_do_not_fit_are_refused(overrides, message):
    with pytest.raises(UserError, match=message):
        config(*overrides)
