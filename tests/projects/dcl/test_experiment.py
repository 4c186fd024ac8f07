"""The experiment as the commands drive it: data, evaluation, export, validation, sensitivity."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from common.config import UserError
from common.data.image.files import imagenet100_synsets
from common.engine.optim import scaled_optim
from common.engine.run import train
from common.engine.tracking import read_metrics
from common.engine.workspace import Workspace
from projects.dcl import build
from projects.dcl.data import build_data, image_part, num_samples
from projects.dcl.evaluate import batch_npc, mechanism, two_views
from projects.dcl.module import DCL
from projects.dcl.sensitivity import _spread, base_steps, cells, figure, run_sensitivity, table
from projects.dcl.views import TwoViews
from tests.projects.dcl.conftest import HOSTS, LOSSES, config, random_views
from tests.projects.dcl.workers import one_rank_npc


@pytest.mark.slow
@pytest.mark.parametrize("host", HOSTS)
def test_training_writes_metrics_items_gallery_and_figures(tmp_path, host):
    run = train("dcl", "smoke", [f"runs_dir={tmp_path}", f"method.host={host}"])
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["knn5_top1_chance"] == 1 / 8
    assert {"untrained_knn5_top1", "linear_probe_top1", "npc_mean_batch4"} <= metrics.keys()
    assert metrics["gradient_identity_error"] < 1e-8
    items = json.loads((run / "items/knn5_top1.json").read_text(encoding="utf-8"))
    assert sum(items) / len(items) == pytest.approx(metrics["knn5_top1"])
    assert (run / "plots/map.png").exists()
    assert (run / "plots/npc.png").exists()
    assert (run / "gallery/nearest neighbours/gallery.json").exists()
    assert "train/npc_mean" in (run / "metrics.csv").read_text(encoding="utf-8")


@pytest.mark.slow
def test_validation_gives_curves_of_neighbours_and_of_the_online_probe(tmp_path):
    """Also: the probe's terms are logged, and the learning rate follows the batch size."""
    run = train(
        "dcl",
        "smoke",
        [
            f"runs_dir={tmp_path}",
            "trainer.val_every_n_steps=3",
            "eval.online_probe=true",
            "optim.lr_scaling=linear",
            "optim.lr_batch=8",
            "eval.linear_probe=false",
        ],
    )
    curves = read_metrics(run / "metrics.csv")
    for name in ("knn_top1", "online_top1"):
        points = next(v for k, v in curves.items() if k.endswith(f"val/{name}"))
        assert len(points) == 2
        assert all(0 <= value <= 1 for _, value in points)
    assert len(curves["train/train/online_loss"]) == 6
    assert max(v for _, v in curves["train/train/lr"]) == pytest.approx(2 * config().optim.lr)
    assert (run / "plots/validation.png").exists()
    assert not (run / "checkpoints/train/best.ckpt").exists()  # nothing is chosen on test images


def test_multiplier_grows_and_steadies_with_batch_size(tmp_path):
    """The mechanism: mean of q_B rises, its variation falls, on the same pairs."""
    cfg = config("eval.npc_batch_sizes=[4,8,16,64]")
    z_1, z_2 = random_views(256, dim=16)
    actual = [batch_npc(cfg, z_1, z_2, size) for size in cfg.eval.npc_batch_sizes]
    means = [float(npc.mean()) for npc in actual]
    variations = [float(npc.std() / npc.mean()) for npc in actual]
    assert means == sorted(means)
    assert variations == sorted(variations, reverse=True)
    assert [len(npc) for npc in actual] == [512] * 4


def test_multiplier_of_an_evaluation_is_of_the_rank_s_own_pairs(two_ranks):
    """One rank evaluates alone: a gather of negatives would wait for the others for ever."""
    assert config().method.gather
    expected = [batch_npc(config(), *random_views(8, seed=seed), 4) for seed in (0, 1)]
    torch.testing.assert_close(two_ranks.run(one_rank_npc), expected)
    assert not torch.allclose(*expected)


def test_mechanism_table_is_deterministic(tmp_path):
    cfg, workspace = config(), Workspace(tmp_path)
    torch.manual_seed(0)
    module, test = DCL(cfg).eval(), image_part(cfg, "test").data
    with torch.inference_mode():
        first, again = (mechanism(cfg, module, test, workspace) for _ in range(2))
        z_1, z_2 = two_views(cfg, module, test)
    assert first == again
    assert not torch.equal(z_1, z_2)


def test_rank_returns_the_image_itself_first():
    torch.manual_seed(0)
    module, images = DCL(config()).eval(), torch.randn(5, 3, 16, 16)
    actual = module.rank(images, images, k=2)
    assert actual.indices[:, 0].tolist() == list(range(5))
    assert module.encode(images).shape == (5, 16)


# -- data ----------------------------------------------------------------------------------------


def test_seed_draws_the_training_images_and_dev_is_apart():
    first = image_part(config(name="mini"), "train").data
    again = image_part(config(name="mini"), "train").data
    other = image_part(config("seed=1", name="mini"), "train").data
    assert len(first.labels) == 8000
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, other.images)
    assert first.labels.bincount().tolist() == [800] * 10
    dev = image_part(config("eval.split=dev", name="mini"), "test").data
    assert dev.labels.bincount().tolist() == [100] * 10
    keys = {image.numpy().tobytes() for image in first.images}
    assert not any(image.numpy().tobytes() in keys for image in dev.images)


def test_batches_do_not_depend_on_the_order_of_access():
    data = build_data(config(name="mini")).train_set
    whole = data[[(3, 0), (9, 0), (4, 1)]]
    alone = data[[(9, 0)]]
    torch.testing.assert_close(whole["view_1"][1], alone["view_1"][0], rtol=1e-4, atol=1e-4)
    assert not torch.equal(whole["view_1"], whole["view_2"])
    assert whole["view_1"].shape == (3, 3, 16, 16)


def test_seed_draws_the_views():
    """Of the same images: other crops and colours for another seed, the same for the same."""
    first, again, other = (build_data(config(f"seed={seed}")).train_set for seed in (0, 0, 1))
    assert torch.equal(first.images.images, other.images.images)
    keys = [(3, 0), (9, 0)]
    for view in ("view_1", "view_2"):
        assert torch.equal(first[keys][view], again[keys][view])
        assert not torch.equal(first[keys][view], other[keys][view])


def test_every_epoch_draws_views_of_its_own():
    data = build_data(config()).train_set
    first, second = (data[[(3, epoch), (9, epoch)]] for epoch in (0, 1))
    for view in ("view_1", "view_2"):
        assert not torch.equal(first[view], second[view])


def test_images_that_cannot_be_read_are_left_out_and_counted():
    class Broken:
        transform = None

        def views(self, indices, looks):
            assert indices == [5, 7, 9]
            kept = [0, 2]
            return [torch.zeros(len(kept), 3, 4, 4) for _ in looks], kept

    batch = TwoViews(Broken(), seed=0)[[(5, 1), (7, 0), (9, 1)]]
    assert batch["ids"].tolist() == [5, 9]
    assert batch["skipped"] == 1


@pytest.fixture
def imagenet(tmp_path):
    """Two images of each ImageNet-100 class, tiny."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in [*imagenet100_synsets(), "n00000001"]:
            folder = tmp_path / "imagenet" / split / name
            folder.mkdir(parents=True)
            pixels = rng.integers(0, 255, (12, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "a.JPEG")
    return tmp_path


@pytest.mark.slow
@pytest.mark.usefixtures("unrendered_figures")
def test_imagenet_folders_train_and_evaluate(imagenet, tmp_path):
    """The file path through the engine: class list, loader, kNN; other folders are left out."""
    run = train(
        "dcl",
        "smoke",
        [
            f"runs_dir={tmp_path / 'runs'}",
            f"data.root={imagenet}",
            "data.source=imagenet100",
            "data.blur_prob=0.5",
            "trainer.max_steps=2",
            "eval.linear_probe=false",
        ],
    )
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["knn5_top1_chance"] == 1 / 100
    part = image_part(config(f"data.root={imagenet}", "data.source=imagenet100"), "train")
    assert len(part.labels) == 100


def test_missing_classes_are_named(imagenet):
    folder = imagenet / "imagenet/train" / imagenet100_synsets()[3]
    (folder / "a.JPEG").unlink()
    folder.rmdir()
    cfg = config(f"data.root={imagenet}", "data.source=imagenet100")
    with pytest.raises(UserError, match=f"lacks 1 class folders \\({folder.name}"):
        next(build(cfg).stages())


def test_the_linear_evaluation_asks_for_the_data_too(tmp_path):
    cfg = config(f"data.root={tmp_path}", "data.image_size=16", name="paper_linear_cifar10")
    needed = {need.name: need.present for need in build(cfg).plan().requirements}
    assert needed == {"data: cifar10": False, "encoder": False}


def test_missing_data_is_said_before_training(tmp_path):
    cfg = config(f"data.root={tmp_path}", name="paper_cifar10")
    with pytest.raises(UserError, match="cifar-10-batches-py"):
        next(build(cfg).stages())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("method.detach_weight=true", "detach_weight needs method.loss=dclw"),
        ("method.temperature=0", "must be > 0"),
        ("data.cache_size=40", "at most twice"),
        ("eval.items_k=7", "must be one of eval.ks"),
        ("eval.split=dev", "part of data.source=bundled"),
    ],
)
def test_settings_that_do_not_fit_are_refused(override, message):
    with pytest.raises(UserError, match=message):
        config(override)


# -- sensitivity ---------------------------------------------------------------------------------


def test_item_13_cells_have_equal_budgets():
    """Item 13: images seen are equal but for the axis of epochs; lr follows the batch size."""
    cfg = config(name="mini")
    steps, size = cfg.trainer.max_steps, cfg.data.batch_size
    grid = cells(cfg)
    assert list(grid) == ["batch_size", "temperature", "lr", "epochs"]
    for axis, settings in grid.items():
        for setting, overrides in settings.items():
            own = config(*overrides, name="mini")
            seen = own.trainer.max_steps * own.data.batch_size
            factor = float(setting) if axis == "epochs" else 1.0
            assert seen == pytest.approx(factor * steps * size, rel=0.01), (axis, setting)
    big, warm, fast = (
        config(*grid[axis][setting], name="mini")
        for axis, setting in (("batch_size", "64"), ("temperature", "0.5"), ("lr", "3.0"))
    )
    assert big.optim.lr == pytest.approx(2 * cfg.optim.lr)
    assert (warm.method.temperature, warm.optim.lr) == (0.5, cfg.optim.lr)
    assert (fast.method.temperature, fast.optim.lr) == (0.07, pytest.approx(3 * cfg.optim.lr))


def test_item_13_runner_reports_mean_and_spread_per_loss(tmp_path):
    """Item 13: every cell with every loss, equal ones (batch 16, factor 1) trained once, table
    written.
    """
    cfg = config(
        "sensitivity.batch_sizes=[8,16]",
        "sensitivity.temperatures=[]",
        "sensitivity.lr_factors=[1.0]",
        "sensitivity.epoch_factors=[]",
    )
    calls = []

    def fake(project, name, overrides):
        values = dict(word.split("=", 1) for word in overrides)
        assert values["data.crop_scale"] == "[0.4, 1.0]"  # what the task was started with
        calls.append(values["run_id"])
        value = LOSSES.index(values["method.loss"]) + float(values.get("data.batch_size", 16)) / 16
        folder = tmp_path / "task/runs" / project / name / values["run_id"]
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text(json.dumps({"knn5_top1": value}), encoding="utf-8")
        return folder

    workspace = Workspace(tmp_path / "task", "dcl", "smoke")
    result = run_sensitivity(cfg, workspace, fake)
    assert len(calls) == 6
    assert result["values"]["lr"]["1.0"] == result["values"]["batch_size"]["16"]
    assert result["spread"]["batch_size"]["dcl"] == {
        "mean": 1.75,
        "std": pytest.approx(0.5**1.5),
        "min": 1.5,
        "max": 2.0,
    }
    assert result["spread"]["lr"]["dclw"]["std"] == 0.0
    assert "| batch_size | **mean +- spread** |" in table(result)
    assert (workspace.path / "sensitivity.md").exists()
    assert json.loads((workspace.path / "sensitivity.json").read_text(encoding="utf-8")) == result
    assert run_sensitivity(cfg, workspace, fake) == result
    assert len(calls) == 6  # nothing is trained twice


def test_item_13_other_settings_are_trained_anew(tmp_path):
    """Guards against old runs that answer for other settings; what no result hangs on is no other
    setting.
    """
    calls = []

    def fake(project, name, overrides):
        values = dict(word.split("=", 1) for word in overrides)
        calls.append(values["run_id"])
        folder = tmp_path / "task/runs" / project / name / values["run_id"]
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text(
            json.dumps({"knn5_top1": len(calls)}), encoding="utf-8"
        )
        return folder

    def run(*words):
        cfg = config(
            "sensitivity.temperatures=[0.5]",
            "sensitivity.losses=[dcl]",
            "sensitivity.batch_sizes=[]",
            "sensitivity.lr_factors=[]",
            "sensitivity.epoch_factors=[]",
            *words,
        )
        actual = run_sensitivity(cfg, Workspace(tmp_path / "task", "dcl", "smoke"), fake)
        return actual["values"]["temperature"]["0.5"]["dcl"]

    assert run() == [1.0]
    for i, word in enumerate(["optim.lr=0.1", "data.image_size=12", "model.widths=[8,8]"], start=2):
        assert run(word) == [i]
    assert run() == [1.0]
    assert run("tracking.wandb_project=other", "trainer.log_every_n_steps=7") == [1.0]
    assert run("sensitivity.temperatures=[0.5,0.7]") == [1.0]
    assert len(set(calls)) == len(calls) == 5  # the fifth is the further temperature


def test_item_13_a_cell_that_was_cut_off_goes_on(tmp_path):
    """A folder without metrics is resumed; no cell is validated while it trains."""
    only = ["sensitivity.temperatures=[]", "sensitivity.epoch_factors=[]"]
    only += ["sensitivity.batch_sizes=[]", "sensitivity.lr_factors=[1.0]"]
    cfg = config(*only, "sensitivity.losses=[dcl]", "trainer.val_every_n_steps=3")
    calls = []

    def fake(project, name, overrides):
        values = dict(word.split("=", 1) for word in overrides)
        calls.append(values)
        folder = tmp_path / "task/runs" / project / name / values["run_id"]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "meta.json").touch()
        if len(calls) == 1:
            raise KeyboardInterrupt
        (folder / "metrics.json").write_text(json.dumps({"knn5_top1": 0.5}), encoding="utf-8")
        return folder

    workspace = Workspace(tmp_path / "task", "dcl", "smoke")
    with pytest.raises(KeyboardInterrupt):
        run_sensitivity(cfg, workspace, fake)
    run_sensitivity(cfg, workspace, fake)
    first, second = calls
    assert "resume" not in first
    assert second["resume"] == second["run_id"] == first["run_id"]
    assert first["trainer.val_every_n_steps"] == "null"


def test_item_13_spread_is_that_of_means_over_seeds():
    settings = {"0.3": {"dcl": [0.2, 0.4]}, "1.0": {"dcl": [0.5, 0.7]}}
    spread = _spread(settings, ["dcl"])
    assert spread["dcl"] == {
        "mean": pytest.approx(0.45),
        "std": pytest.approx(0.3 / 2**0.5),
        "min": pytest.approx(0.3),
        "max": pytest.approx(0.6),
    }
    result = {"metric": "knn5_top1", "values": {"lr": settings}, "spread": {"lr": spread}}
    assert table(result).splitlines()[2:] == [
        "| lr | 0.3 | 0.3000 |",
        "| lr | 1.0 | 0.6000 |",
        "| lr | **mean +- spread** | 0.4500 +- 0.2121 |",
    ]


def test_item_13_figure_draws_means_over_seeds():
    values = {"lr": {"0.3": {"dcl": [0.2, 0.4]}, "1.0": {"dcl": [0.5, 0.7]}}}
    result = {"metric": "knn5_top1", "values": values, "spread": {"lr": {"dcl": {}}}}
    (panel,) = figure(result).axes
    (line,) = panel.get_lines()
    assert list(line.get_ydata()) == pytest.approx([0.3, 0.6])


@pytest.mark.usefixtures("unrendered_figures")
def test_item_13_mini_has_thirty_runs_a_seed(tmp_path):
    """Item 13: thirteen cells of which four are the config itself, three losses, consecutive
    seeds."""
    cfg, runs = config("seed=3", "sensitivity.num_seeds=2", name="mini"), []

    def fake(project, name, overrides):
        values = dict(word.split("=", 1) for word in overrides)
        runs.append((values["method.loss"], values["seed"]))
        folder = tmp_path / "runs" / project / name / values["run_id"]
        folder.mkdir(parents=True)
        metrics = {"knn50_top1": float(values["seed"])}
        (folder / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
        return folder

    result = run_sensitivity(cfg, Workspace(tmp_path, "dcl", "mini"), fake)
    assert {pair: runs.count(pair) for pair in runs} == {(x, s): 10 for x in LOSSES for s in "34"}
    assert all(actual == [3.0, 4.0] for actual in result["values"]["lr"]["3.0"].values())


def test_item_13_a_cell_is_scaled_once_and_warms_up_in_proportion():
    """Guards equal budgets: the rate is not scaled twice, warm-up is a share of the steps, GPUs
    count.
    """
    grid = cells(config(name="mini"))
    for axis, setting, steps in (
        ("batch_size", "128", 625),
        ("epochs", "0.5", 2500),
        ("lr", "3.0", 5000),
    ):
        own = config(*grid[axis][setting], name="mini")
        assert (own.trainer.max_steps, own.optim.warmup_steps) == (steps, round(steps / 50))
    paper = cells(
        config(name="paper")
    )  # warms up by epochs, which larger batches leave as they are
    for axis, setting, epochs in (("epochs", "0.5", 5.0), ("batch_size", "64", 10.0)):
        assert config(*paper[axis][setting], name="paper").optim.warmup_epochs == epochs
    scaled = ["optim.lr_scaling=sqrt", "optim.lr_batch=16"]
    own = config(*scaled, *cells(config(*scaled, name="mini"))["batch_size"]["64"], name="mini")
    assert scaled_optim(own.optim, 64).lr == pytest.approx(2 * own.optim.lr)
    assert own.optim.lr == config(name="mini").optim.lr
    one = base_steps(config("trainer.devices=1", name="paper"))
    assert base_steps(config(name="paper")) == pytest.approx(one / 8, rel=1e-3)
    dropped = ["trainer.max_steps=null", "trainer.max_epochs=3", "data.batch_size=48"]
    assert base_steps(config(*dropped)) == 3 * (num_samples(config()) // 48)  # of every epoch
    assert num_samples(config()) % 48
    words = ["trainer.accumulate_grad_batches=2", "trainer.allow_small_negatives=true"]
    assert base_steps(config(*words, name="paper")) == pytest.approx(one / 16, rel=1e-3)


def test_the_queue_is_an_axis_of_its_own():
    """Evaluation: the curve over queue sizes of MoCo and MoCo-DCL."""
    cfg = config("method.host=moco", "sensitivity.queue_sizes=[32,64]")
    queue = cells(cfg)["queue_size"]
    assert [config(*queue[size]).method.queue_size for size in ("32", "64")] == [32, 64]
    assert queue["32"][1:] == cells(cfg)["temperature"]["0.5"][1:]  # as long as other cells
    with pytest.raises(UserError, match="needs method.host=moco"):
        cells(config("sensitivity.queue_sizes=[32]"))


def test_splits_with_other_classes_are_refused(tmp_path):
    """Guards against ImageNet labels that are numbered by each split's own folders."""
    for name in ("train/a", "train/b", "train/c", "val/a", "val/c"):
        (tmp_path / "imagenet" / name).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "imagenet" / name / "x.JPEG")
    cfg = config(f"data.root={tmp_path}", name="paper")
    for part in ("train", "test"):
        with pytest.raises(UserError, match=r"different class folders \(b in one"):
            image_part(cfg, part)
    (tmp_path / "imagenet/val/b").mkdir()
    assert image_part(cfg, "test").labels.tolist() == [0, 2]


@pytest.mark.usefixtures("unrendered_figures")
def test_item_13_runner_trains_for_real(tmp_path):
    """Item 13: one cell through the engine."""
    cfg = config(
        "sensitivity.batch_sizes=[]",
        "sensitivity.temperatures=[0.5]",
        "sensitivity.lr_factors=[]",
        "sensitivity.epoch_factors=[]",
        "sensitivity.losses=[dcl]",
    )
    result = run_sensitivity(cfg, Workspace(tmp_path, "dcl", "smoke"))
    assert 0 <= result["spread"]["temperature"]["dcl"]["mean"] <= 1


def test_number_of_samples_is_that_of_the_data():
    for name in ("smoke", "mini"):
        assert num_samples(config(name=name)) == len(image_part(config(name=name), "train").labels)
