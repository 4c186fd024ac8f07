"""Linear evaluation as a training: the encoder stays, the classifier learns, the protocol is the
usual one.
"""

import importlib
import json
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from common.config import UserError, load
from common.data.image.labelled import LabelledPixels
from common.data.image.parts import ImagePart
from common.data.image.sources import EvalTransform
from common.engine import checkpoint as ckpt
from common.engine.run import prepare, train
from common.engine.tracking import read_metrics
from common.engine.trained import evaluate, export
from common.engine.workspace import Workspace
from common.families.images import linear
from common.models import load as load_model
from common.registry import config_class

CLASSES = 8


def options(tmp_path, encoder, *words):
    return [
        "linear.train=true",
        f"linear.encoder={encoder}",
        "eval.online_probe=false",
        "optim.name=sgd",
        "optim.schedule=constant",
        "optim.lr=0.05",
        "trainer.log_every_n_steps=1",
        f"runs_dir={tmp_path}",
        *words,
    ]


@pytest.fixture(scope="module", params=["dcl", pytest.param("cacr", marks=pytest.mark.slow)])
def exported(request, tmp_path_factory):
    """A project, and the folder of a trained encoder."""
    folder = tmp_path_factory.mktemp("linear")
    words = [f"runs_dir={folder}", "trainer.max_steps=2", "trainer.val_every_n_steps=null"]
    run = train(request.param, "smoke", words)
    return request.param, export(request.param, "smoke", [f"runs_dir={folder}"], run.name, None)


def test_the_classifier_learns_and_the_encoder_stays_as_it_was(exported, tmp_path):
    """DCL and CACR, evaluation: SGD on augmented images, the frozen encoder in evaluation mode."""
    project, encoder = exported
    run = train(
        project,
        "smoke",
        options(
            tmp_path,
            encoder,
            "trainer.max_epochs=null",
            "trainer.max_steps=24",
            "trainer.val_every_n_steps=12",
        ),
    )
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["linear_top1_chance"] == 1 / CLASSES
    assert metrics["linear_top5"] > metrics["linear_top1"]
    curves = read_metrics(run / "metrics.csv")
    losses = [value for _, value in curves["linear/train/loss"]]
    assert losses[0] == pytest.approx(math.log(CLASSES))  # the classifier begins at zero
    assert len(curves["linear/val/top1"]) == 2
    if project == "dcl":  # two steps leave CACR's statistics of batch norm as they were
        assert sum(losses[-4:]) / 4 < 0.95 * losses[0]
        assert metrics["linear_top1"] > 1.5 / CLASSES
    out = export(project, "smoke", [f"runs_dir={tmp_path}"], run.name, None)
    _, again = evaluate(project, "smoke", options(tmp_path, encoder), None, str(out))
    assert again == pytest.approx(metrics)
    network, images = load_model(out), torch.rand(2, 3, 16, 16)
    assert network(images).shape == (2, CLASSES)  # what `common.models.load` opens
    assert load_model(encoder).encoder(images).shape[0] == 2
    actual = importlib.import_module("safetensors.torch").load_file(out / "model.safetensors")
    before = importlib.import_module("safetensors.torch").load_file(encoder / "model.safetensors")
    shared = [name for name in before if name.startswith("encoder.")]
    assert shared
    assert all(torch.equal(actual[name], before[name]) for name in shared)  # statistics too
    assert actual["classifier.weight"].abs().max() > 0


def test_training_mode_leaves_the_statistics_of_the_encoder():
    encoder = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(12))
    encoder.num_features = 12
    network = linear.LinearNetwork(encoder, 3, 0.01).train()
    before = encoder[1].running_mean.clone()
    logits = network(torch.rand(5, 3, 2, 2))
    assert torch.equal(encoder[1].running_mean, before)
    assert network.classifier.training
    assert logits.requires_grad
    assert not any(p.requires_grad for p in encoder.parameters())
    assert network.classifier.weight.std() > 0
    assert not linear.LinearNetwork(encoder, 3).classifier.weight.any()


def test_losses_are_the_cross_entropy_of_the_logits():
    cfg = load(config_class("dcl"), "dcl", "smoke", ["linear.train=true"])
    encoder = nn.Flatten()
    encoder.num_features = 12
    module = linear.LinearClassification(cfg, linear.LinearNetwork(encoder, 3, 1.0))
    batch = {"images": torch.rand(5, 3, 2, 2), "labels": torch.tensor([0, 1, 2, 1, 0])}
    terms, logits = module.losses(batch), module.network(batch["images"])
    torch.testing.assert_close(terms["loss"], F.cross_entropy(logits, batch["labels"]))
    assert terms["top1"] == (logits.argmax(1) == batch["labels"]).float().mean()


def test_equal_logits_are_no_luck(tmp_path):
    """A classifier that has learnt nothing finds the first class alone."""
    cfg = load(config_class("dcl"), "dcl", "smoke", ["linear.train=true"])
    encoder = nn.Flatten()
    encoder.num_features = 3 * 16 * 16
    module = linear.LinearClassification(cfg, linear.LinearNetwork(encoder, 8)).eval()
    images = torch.zeros(16, 3, 16, 16, dtype=torch.uint8)
    test = ImagePart(LabelledPixels(images, torch.arange(16) % 8, [str(c) for c in range(8)]))
    cfg.data.image_size = 16
    with torch.no_grad():
        actual = linear.evaluate_linear(cfg, module, test, Workspace(tmp_path))
    assert actual["linear_top1"] == 1 / 8
    assert actual["linear_top5"] == 5 / 8 == actual["linear_top5_chance"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_logits_that_are_no_numbers_are_wrong(tmp_path, value):
    """Of a classifier that diverged: comparisons alone would call every image right."""
    cfg = load(config_class("dcl"), "dcl", "smoke", ["linear.train=true"])
    encoder = nn.Flatten()
    encoder.num_features = 3 * 16 * 16
    module = linear.LinearClassification(cfg, linear.LinearNetwork(encoder, 8)).eval()
    module.network.classifier.bias.data.fill_(value)
    images = torch.zeros(16, 3, 16, 16, dtype=torch.uint8)
    test = ImagePart(LabelledPixels(images, torch.arange(16) % 8, [str(c) for c in range(8)]))
    with torch.no_grad():
        actual = linear.evaluate_linear(cfg, module, test, Workspace(tmp_path))
    names = ("linear_top1", "linear_top5", "linear_mean_per_class")
    assert [actual[name] for name in names] == [0, 0, 0]


@pytest.mark.usefixtures("unrendered_figures")
def test_a_killed_training_of_the_classifier_goes_on_bit_for_bit(exported, tmp_path):
    project, encoder = exported
    words = options(
        tmp_path,
        encoder,
        "trainer.max_epochs=null",
        "trainer.max_steps=4",
        "run_id=r",
        "trainer.val_every_n_steps=null",
        "trainer.keep_checkpoints=5",
        "trainer.checkpoint_every_n_steps=2",
    )
    run = train(project, "smoke", words)
    folder = run / "checkpoints/linear"
    whole = ckpt.load(folder / "step-00000004.ckpt")["state_dict"]
    half = ckpt.load(folder / "step-00000002.ckpt")["state_dict"]
    (folder / "step-00000004.ckpt").unlink()
    (folder / "finished.json").unlink()
    assert train(project, "smoke", [*words, "resume=r"]) == run
    again = ckpt.load(folder / "step-00000004.ckpt")["state_dict"]
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert not torch.equal(whole["network.classifier.weight"], half["network.classifier.weight"])


def test_milestones_divide_the_rate(tmp_path, exported):
    """MoCo's linear evaluation: a tenth at 60 % and 80 % of training."""
    project, encoder = exported
    words = [
        "linear.milestones=[0.5]",
        "optim.warmup_steps=0",
        "optim.warmup_epochs=0",
        "trainer.max_epochs=null",
        "trainer.max_steps=4",
        "trainer.val_every_n_steps=null",
    ]
    run = train(project, "smoke", options(tmp_path, encoder, *words))
    rates = [value for _, value in read_metrics(run / "metrics.csv")["linear/train/lr"]]
    assert rates == pytest.approx([0.05, 0.05, 0.005, 0.005])
    with pytest.raises(UserError, match="constant"):
        prepare(project, "smoke", options(tmp_path, encoder, *words, "optim.schedule=cosine"))
    for warm in (
        "optim.warmup_steps=1",
        "optim.warmup_epochs=0.5",
    ):  # which was left out in silence
        with pytest.raises(UserError, match=r"set optim\.warmup_steps=0"):
            prepare(project, "smoke", options(tmp_path, encoder, *words, warm))


def test_a_missing_or_another_encoder_is_refused(exported, tmp_path):
    project, encoder = exported
    with pytest.raises(UserError, match="make export"):
        train(project, "smoke", [f"runs_dir={tmp_path}", "linear.train=true"])
    with pytest.raises(UserError, match="trained with"):
        train(project, "smoke", options(tmp_path, encoder, "model.backbone=resnet18"))
    needs = prepare(project, "smoke", ["linear.train=true"])[1].plan().requirements
    assert not next(need for need in needs if need.name == "encoder").present


def test_weights_of_elsewhere_can_be_judged(exported):
    """`model.pretrained` in place of an export; nothing is drawn at random in its place."""
    project, _ = exported
    words = [
        "linear.train=true",
        "model.backbone=resnet18",
        "model.pretrained=torchvision:resnet18",
    ]
    needs = prepare(project, "smoke", words)[1].plan().requirements
    assert {need.name for need in needs} == {"weights"}
    plan = prepare(project, "smoke", ["linear.train=true", "data.source=bundled"])[1].plan()
    data = importlib.import_module(f"projects.{project}.data")
    cfg = load(config_class(project), project, "smoke", ["data.source=bundled"])
    assert plan.num_samples == len(data.image_part(cfg, "bank").labels)


def test_nesterov_is_a_setting_of_sgd(exported, tmp_path):
    project, encoder = exported
    words = [
        "optim.nesterov=true",
        "trainer.max_epochs=null",
        "trainer.max_steps=1",
        "trainer.val_every_n_steps=null",
    ]
    run = train(project, "smoke", options(tmp_path, encoder, *words))
    saved = ckpt.load(next((run / "checkpoints/linear").glob("*.ckpt")))
    assert all(group["nesterov"] for group in saved["optimizer_states"][0]["param_groups"])
    with pytest.raises(UserError, match="momentum"):
        prepare(project, "smoke", options(tmp_path, encoder, *words, "optim.name=adamw"))


def test_training_crops_are_those_of_the_config(exported):
    """Crops and flips, or the method's own views with their colours."""
    project, _ = exported
    module = importlib.import_module(f"projects.{project}.data")
    cfg = load(config_class(project), project, "smoke", ["linear.train=true"])
    bank = module.image_part(cfg, "bank")
    views = module.train_transform if project == "dcl" else module.one_view
    keys = [(i, 0) for i in range(6)]
    plain = linear.linear_data(cfg, bank, module.image_part, views).train_set
    cfg.linear.augment = "views"
    own = linear.linear_data(cfg, bank, module.image_part, views).train_set
    assert not torch.equal(plain[keys]["images"], own[keys]["images"])
    assert torch.equal(plain[keys]["images"], plain[keys]["images"])
    assert not torch.equal(plain[keys]["images"], plain[[(i, 1) for i, _ in keys]]["images"])
    assert torch.equal(plain[keys]["labels"], bank.labels[:6])
    assert own.images.transform == views(cfg.data)


@pytest.mark.parametrize("project", ["dcl", "cacr", "hydra"])
def test_judged_images_are_resized_and_cropped_as_the_config_says(project):
    """Official protocols: shorter side to 256 (or 70, 36), then the inner part."""
    words = ["data.image_size=8", "data.eval_resize=12", "data.eval_interpolation=bicubic"]
    data = load(config_class(project), project, "smoke", words).data
    from common.families.images.data import eval_transform

    transform = eval_transform(data)
    assert isinstance(transform, EvalTransform)
    assert (transform.size, transform.resize, transform.interpolation.value) == (8, 12, "bicubic")
    with pytest.raises(UserError, match="eval_resize"):
        load(config_class(project), project, "smoke", ["data.image_size=8", "data.eval_resize=7"])
