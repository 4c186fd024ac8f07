"""The experiment as the commands drive it: evaluation, export, check, validation, wrong input."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from common.config import UserError
from common.engine.run import train
from common.engine.trained import module_of_run
from common.engine.workspace import Workspace
from common.families.image_text.data import requirements
from common.families.image_text.drawings import UNSEEN_TEMPLATES
from projects.laclip import build
from projects.laclip.module import LaCLIP
from tests.projects.laclip.conftest import config, csv_config


@pytest.mark.slow
@pytest.mark.usefixtures("unrendered_figures")
def test_synthetic_training_learns_and_reports_chance(tmp_path):
    """A short run beats chance on templates that were never trained on."""
    run = train(
        "laclip",
        "smoke",
        [f"runs_dir={tmp_path}", "trainer.max_steps=60", "optim.lr=2e-3", "data.augmentation=none"],
    )
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["zeroshot_top1_chance"] == 1 / 8
    assert metrics["zeroshot_top1"] > 0.5


def test_unseen_templates_are_unseen():
    """No evaluation template is a training frame, nor any of its opening words."""
    from common.data.image.synthetic import FRAMES as SYNTHETIC
    from common.data.image_text.drawings import FRAMES

    seen = {frame for frames in FRAMES for frame in frames} | set(SYNTHETIC)
    for template in UNSEEN_TEMPLATES:
        assert template.rstrip(".") not in seen
        assert not any(frame.startswith(template.split("{}")[0]) for frame in seen)


def test_export_reloads_in_open_clip_with_equal_embeddings(tmp_path):
    import open_clip

    cfg = config()
    experiment = build(cfg)
    torch.manual_seed(0)
    module = LaCLIP(cfg).eval()
    module.logit_scale.log_scale.data.fill_(3.25)
    with torch.inference_mode():
        experiment.export(module, tmp_path / "export")
        again = experiment.load_export(tmp_path / "export").eval()
        before, after = experiment.embed(module), experiment.embed(again)
        assert all(torch.allclose(before[k], after[k], atol=1e-6) for k in before)
        model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}/export")
        tokens = open_clip.get_tokenizer(f"local-dir:{tmp_path}/export")(
            ["a drawing of a cat", "two red arrows"]
        )
        assert torch.allclose(model.eval().encode_text(tokens), before["text"], atol=1e-5)
    assert abs(float(model.logit_scale) - 3.25) < 1e-6
    assert abs(float(again.logit_scale.log_scale) - 3.25) < 1e-6


@pytest.mark.slow
def test_export_of_the_paper_s_towers_keeps_their_embeddings(tmp_path):
    """GELU image tower with QK norm and QuickGELU text tower, in small."""
    text = "model.text={vocab_size: 49408, context_length: 16, width: 32, heads: 2, layers: 1}"
    cfg = config("model.open_clip=null", "model.vision=qknorm_vit_s16", text, "model.embed_dim=16")
    experiment = build(cfg)
    module = LaCLIP(cfg).eval()
    with torch.inference_mode():
        before = experiment.embed(module)
        experiment.export(module, tmp_path / "export")
        after = experiment.embed(experiment.load_export(tmp_path / "export").eval())
    assert all(torch.allclose(before[k], after[k], atol=1e-5) for k in before)


def test_evaluation_sets_are_asked_for_before_training(official):
    cfg = csv_config(official, "eval.datasets=[cifar10]")
    with pytest.raises(UserError, match="image set 'cifar10' not found") as error:
        next(build(cfg).stages())
    assert "cifar-10-batches-py" in str(error.value)
    with pytest.raises(UserError, match="did you mean 'cifar10'"):
        next(build(csv_config(official, "eval.datasets=[cifar_10]")).stages())


def test_training_parts_of_evaluation_sets_are_asked_for_before_training(official):
    """A linear probe on ImageNet needs its training images, zero-shot does not."""
    (official / "imagenet/val").mkdir(parents=True)
    cfg = csv_config(official, "eval.datasets=[imagenet]", "eval.protocols=[zeroshot,linear_probe]")
    with pytest.raises(UserError, match="imagenet/train does not exist"):
        next(build(cfg).stages())
    needs = {need.name: need.present for need in requirements(cfg)}
    assert (needs["eval: imagenet"], needs["eval: imagenet (train)"]) == (True, False)
    zeroshot = csv_config(official, "eval.datasets=[imagenet]")
    next(build(zeroshot).stages())
    assert "eval: imagenet (train)" not in {need.name for need in requirements(zeroshot)}


@pytest.fixture
def resisc(tmp_path):
    """Two classes of 44 images each in RESISC45's layout: dark and bright."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(("airplane", "beach")):
        folder = tmp_path / "NWPU-RESISC45" / name
        folder.mkdir(parents=True)
        for i in range(44):
            pixels = rng.integers(0, 60, (32, 32, 3)) + 150 * label
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{name}_{i:03d}.jpg")
    return tmp_path


@pytest.mark.usefixtures("unrendered_figures")
def test_labelled_sets_run_through_all_protocols(resisc, tmp_path, monkeypatch):
    """Zero-shot, few-shot and linear probe from a local folder; the mean over sets."""
    from common.evaluation.image_text import image_sets

    monkeypatch.setattr(image_sets, "WAYS", 2)
    cfg = config(
        "eval.datasets=[resisc45]",
        f"eval.root={resisc}",
        "data.source=csv",
        "data.captions=x.csv",
        "eval.protocols=[zeroshot,few_shot,linear_probe]",
    )
    torch.manual_seed(0)
    metrics = build(cfg).evaluate(LaCLIP(cfg), Workspace(tmp_path / "run"))
    assert metrics["resisc45_linear_probe_top1"] > 0.9
    assert metrics["resisc45_few_shot_top1"] > 0.9
    assert metrics["resisc45_zeroshot_top1_chance"] == 0.5
    assert 0 <= metrics["resisc45_zeroshot_mean_per_class"] <= 1
    cfg.eval.protocols = ["zero_shot"]
    with pytest.raises(UserError, match="did you mean 'zeroshot'"):
        build(cfg).evaluate(LaCLIP(cfg), Workspace(tmp_path / "run"))


@pytest.mark.slow
@pytest.mark.usefixtures("unrendered_figures")
def test_validation_chooses_the_checkpoint_by_zero_shot_accuracy(resisc, tmp_path):
    run = train(
        "laclip",
        "smoke",
        [
            f"runs_dir={tmp_path}",
            "eval.validate=resisc45",
            f"eval.root={resisc}",
            "trainer.val_every_n_steps=3",
        ],
    )
    assert "val/zeroshot_top1" in (run / "metrics.csv").read_text(encoding="utf-8")
    assert (run / "checkpoints/train/best.ckpt").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("unrendered_figures")
def test_training_from_official_files_and_shards(official, tmp_path):
    """The real readers through the engine: two steps each, no evaluation sets."""
    run = train(
        "laclip",
        "smoke",
        [
            f"runs_dir={tmp_path}",
            f"data.root={official}",
            "data.source=csv",
            "data.captions=toy/toy.csv",
            "data.batch_size=4",
            "trainer.max_steps=2",
            "method.num_texts=2",
            "optim.warmup_steps=1",
        ],
    )
    assert list(json.loads((run / "metrics.json").read_text("utf-8"))) == ["logit_scale"]
    assert (run / "metrics.csv").read_text(encoding="utf-8").count("\n") >= 2


@pytest.mark.slow
@pytest.mark.usefixtures("unrendered_figures")
def test_training_does_not_depend_on_the_loss_backend(tmp_path):
    """The fused loss gives the losses and the embeddings of the dense reference, step by step.

    Weights are not compared: the bias of the key norm has no gradient but rounding, which Adam
    turns into steps of full size.
    """
    losses, embeddings = [], []
    for backend in ("dense", "blocked"):
        overrides = [f"runs_dir={tmp_path}/{backend}", "run_id=r", f"method.loss_backend={backend}"]
        run = train("laclip", "smoke", overrides)
        rows = [row.split(",") for row in (run / "metrics.csv").read_text().splitlines()]
        losses.append([float(row[3]) for row in rows if row[2] == "train/loss"])
        embeddings.append(build(config()).embed(module_of_run(build(config()), run))["text"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert len(set(losses[0])) > 1
    torch.testing.assert_close(embeddings[1], embeddings[0], rtol=1e-3, atol=1e-4)
