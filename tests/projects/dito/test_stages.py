"""What stages start from, how long they last, and which backbone is the frozen one."""

from dataclasses import replace

import pytest
import torch
import yaml
from torch.nn import functional as F

from common.config import CONFIG_DIR, UserError
from projects.dito import build
from projects.dito.data import pairs_of
from projects.dito.detector import similarity_maps
from projects.dito.folder import export, load_network
from projects.dito.module import DITO
from projects.dito.network import DitoNetwork
from projects.dito.stages import build_module, image_path
from tests.projects.dito.conftest import config, module_of, network_of, sines

SHORT = ["method.image_steps=2", "method.detect_steps=2", "data.scenes=8"]


def exported_to(folder, trained: tuple[str, ...], *, vlm: bool = False) -> DitoNetwork:
    """A network in an exported folder; its frozen copy, if any, has other weights than its
    backbone.
    """
    cfg = config()
    network = network_of(cfg, trained)
    if vlm:
        network.keep_vlm()
        network.vlm.backbone.patch.weight.data += 1
    export(cfg, DITO(cfg, network, "image"), folder)
    return network


@pytest.mark.parametrize("stages", [["region"], ["detect"], ["region", "detect"]])
def test_no_stage_starts_from_a_random_backbone(stages, tmp_path):
    """Region and detect need an image stage before them, here or in `model.init_from`; the check
    names it.
    """
    words = [*SHORT, f"method.stages=[{','.join(stages)}]"]
    experiment = build(config(*words))
    with pytest.raises(UserError, match=r"model\.init_from"):
        next(experiment.stages())
    with torch.device("meta"):
        plan = experiment.plan()
        assert isinstance(plan.module(), DITO)  # `make check` still counts it
    need = next(r for r in plan.requirements if r.name == "weights: model.init_from")
    assert (need.location, need.present) == ("not set", False)
    exported_to(tmp_path, ("image",))
    known = build(config(*words, f"model.init_from={tmp_path}"))
    assert next(known.stages()).name == stages[0]
    need = next(r for r in known.plan().requirements if r.name == "weights: model.init_from")
    assert (need.location, need.present) == (str(tmp_path), True)


def test_a_baseline_that_goes_on_needs_its_start():
    """`method.continues`: an image stage that would otherwise begin from nothing."""
    words = [*SHORT, "method.stages=[image]"]
    with pytest.raises(UserError, match=r"model\.init_from"):
        next(build(config(*words, "method.continues=true")).stages())
    assert next(build(config(*words)).stages()).name == "image"


def test_image_steps_count_for_a_single_stage_too():
    """The first image stage has its own steps and rate, whatever follows."""
    for stages in ("[image]", "[image,region]"):
        cfg = config(
            "method.image_steps=3",
            "method.image_lr=0.25",
            "method.detect_steps=null",
            f"method.stages={stages}",
        )
        stage = next(build(cfg).stages())
        assert stage.trainer["max_steps"] == 3
        assert stage.module.optim.lr == 0.25


def test_a_single_image_stage_takes_the_kept_weights(tmp_path):
    """The arm with an untrained head shares the first stage; a stage that starts from a folder does
    not.
    """
    words = ["method.image_steps=2", "method.detect_steps=null", f"runs_dir={tmp_path}"]
    kept = image_path(config(*words, "method.stages=[image,region]"), 0)
    alone = build(config(*words, "method.stages=[image]"))
    assert next(alone.stages()).weights is None
    kept.parent.mkdir(parents=True)
    kept.touch()
    assert next(alone.stages()).weights == kept
    exported_to(tmp_path / "start", ("image",))
    for stages in ("[image]", "[image,region]"):
        cfg = config(*words, f"method.stages={stages}", f"model.init_from={tmp_path}/start")
        path = image_path(cfg, 0)
        path.touch()
        assert next(build(cfg).stages()).weights is None
    cfg = config(
        f"runs_dir={tmp_path}",
        "method.stages=[image]",
        "method.image_steps=null",
        "method.detect_steps=null",
    )
    image_path(cfg, 0).touch()  # its key does not say how long it was trained
    assert next(build(cfg).stages()).weights is None


def test_the_frozen_copy_of_an_earlier_run_is_kept(tmp_path):
    """Checklist 12: a detector continues with the stored VLM, not with its own fine-tuned
    backbone."""
    source = exported_to(tmp_path, ("image", "region", "detect"), vlm=True)
    for stages in ("[detect]", "[region]"):
        cfg = config(*SHORT, f"method.stages={stages}", f"model.init_from={tmp_path}")
        network = next(build(cfg).stages()).module.network
        assert torch.equal(network.vlm.backbone.patch.weight, source.vlm.backbone.patch.weight)
        assert torch.equal(network.backbone.patch.weight, source.backbone.patch.weight)
        assert not any(p.requires_grad for p in network.vlm.parameters())
    cfg = config(*SHORT, "method.stages=[image]", f"model.init_from={tmp_path}")
    assert next(build(cfg).stages()).module.network.vlm is None  # it trains the VLM itself


def test_a_region_stage_that_trains_the_backbone_sets_the_vlm_aside_first(tmp_path):
    """Checklist 12: its VLM is the one of the image stage; the detector, its checkpoint and export
    keep it.
    """
    cfg = config(*SHORT, "method.freeze_backbone=false", "method.detect_freeze_backbone=true")
    network = network_of(cfg)
    before = network.backbone.patch.weight.detach().clone()
    assert build_module(cfg, network, 0).network.vlm is None
    build_module(cfg, network, 1)
    network.backbone.patch.weight.data += 1  # the stage trains
    module = build_module(cfg, network, 2)
    assert torch.equal(network.vlm.backbone.patch.weight, before)
    fresh = build(cfg).plan().module()  # what a checkpoint of the last stage is loaded into
    assert fresh.state_dict().keys() == module.state_dict().keys()
    export(cfg, module, tmp_path)
    assert torch.equal(load_network(tmp_path)[0].vlm.backbone.patch.weight, before)


@pytest.mark.parametrize(
    ("shift", "windows"), [(False, False), (False, True), (True, False), (True, True)]
)
def test_item_15_image_level_maps_are_the_pretraining_s_own(shift, windows):
    """Checklist 15: the configured windows and shift; after fine-tuning still the backbone of
    image-level pretraining.
    """
    words = [f"model.image_shift={shift}", f"model.image_windows={windows}", "model.shift=2"]
    network = network_of(config(*words), ("image",)).eval()
    images, texts = sines(2, 3, 32, 32).float(), F.normalize(sines(2, 3, 32).float(), dim=-1)
    kind = {"shift": 2 if shift else 0, "windows": "mixed" if windows else "none"}
    boxes = [torch.tensor([[3.0, 2, 29, 21]])] * 2

    def outputs():
        return (
            network.image_map(images),
            network.image_vectors(images),
            network.map_vectors(images, boxes),
            similarity_maps(network, images, texts, "patch"),
        )

    with torch.no_grad():
        before, seen = outputs(), network.detector_map(images)
        torch.testing.assert_close(before[0], network.backbone(images, **kind))
        plain = network.backbone(images, windows="none")
        assert torch.allclose(before[0], plain, atol=1e-5) == (not shift and not windows)
        network.keep_vlm()
        network.backbone.patch.weight.mul_(-1)  # the detector trains
        assert all(torch.equal(a, b) for a, b in zip(before, outputs(), strict=True))
        assert not torch.allclose(seen, network.detector_map(images), atol=1e-3)


def test_the_detector_s_recipe_is_the_released_one():
    """Checklist 8, 9, 11: values of the release for LVIS, each as the sheet has it."""
    cfg = config(name="paper_lvis")
    own, score, optim, trainer = cfg.detect, cfg.score, cfg.optim, cfg.trainer
    assert (own.backbone_gradient, own.background_weight, own.rpn_box_weight, own.l2, own.nms) == (
        0.6,
        0.9,
        8.0,
        1e-4,
        0.7,
    )
    assert (own.milestones, own.places, own.box_loss) == ([0.8, 0.9, 0.95], 256, "huber")
    assert (score.alpha, score.beta, score.objectness_exp) == (0.35, 0.65, 3.0)
    assert (score.temp_det, score.temp_vlm) == (0.1, 0.01)
    assert (score.nms, score.rpn_nms, score.keep, score.threshold) == (0.5, 1.0, 300, 0.0)
    assert (optim.name, optim.lr, optim.momentum, optim.weight_decay) == ("sgd", 0.18, 0.9, 0.0)
    assert (optim.warmup_steps, optim.warmup_start_lr, optim.schedule) == (1000, 0.0032, "constant")
    assert (trainer.max_steps, cfg.data.batch_size * trainer.devices * trainer.num_nodes) == (
        46_100,
        256,
    )
    assert (cfg.data.image_size, tuple(cfg.data.jitter)) == (1024, (0.1, 2.0))


def test_paper_configs_agree_with_each_other():
    """COCO's steps belong to batch 256; text tower by the released table; the baseline sees the
    same pixels.
    """
    actual = {
        name: config(name=name)
        for name in ("paper", "paper_coco", "paper_lvis", "paper_image_continued")
    }
    coco, lvis = actual["paper_coco"], actual["paper_lvis"]
    batch = coco.data.batch_size * coco.trainer.devices * coco.trainer.num_nodes
    assert batch == 256
    assert coco.trainer.max_steps * batch / coco.data.num_samples == pytest.approx(100, abs=1)
    assert (coco.optim.lr, coco.trainer.max_steps) == (lvis.optim.lr, lvis.trainer.max_steps)
    assert {k: actual["paper"].model.text[k] for k in ("width", "heads", "layers")} == {
        "width": 768,
        "heads": 12,
        "layers": 12,
    }
    stage, baseline = actual["paper"], actual["paper_image_continued"]
    for part in ("data", "optim", "trainer"):
        assert getattr(stage, part) == getattr(baseline, part), part
    assert baseline.method.continues
    written = yaml.safe_load((CONFIG_DIR / "dito/paper_coco.yaml").read_text())
    assert written["extends"] == "paper_lvis"


def test_every_stage_has_its_own_rate_and_every_step_its_own_boxes():
    """`method.image_lr` of the first image stage, `method.detect_lr` of the detector; random boxes
    depend on step and image."""
    words = ["optim.lr=0.5", "method.image_lr=0.25", "method.detect_lr=0.125"]
    rates = {stage: module_of(stage, *words).optim.lr for stage in ("image", "region", "detect")}
    assert rates == {"image": 0.25, "region": 0.5, "detect": 0.125}
    cfg = config(*words, "method.stages=[image,image]", "method.image_steps=2")
    network = network_of(cfg, ("image",))
    assert [build_module(cfg, network, i).optim.lr for i in (0, 1)] == [0.25, 0.5]
    module, ids = module_of("region", "method.boxes=3"), torch.tensor([4, 9])
    first = module.boxes_of(ids, (32, 32))
    assert all(
        torch.equal(a, b) for a, b in zip(first, module.boxes_of(ids, (32, 32)), strict=True)
    )
    assert not torch.equal(first[0], first[1])
    type(module).global_step, plain = property(lambda _: 7), type(module).global_step
    try:
        assert not torch.equal(module.boxes_of(ids, (32, 32))[0], first[0])
    finally:
        type(module).global_step = plain


def test_settings_of_pairs_reach_their_reader():
    """What is set of a CSV or of shards is what the family's reader gets."""
    data = config(
        "data.source=csv",
        "method.stages=[image]",
        "data.captions=c.csv",
        "data.images=i",
        "data.crop_scale=[0.7,0.9]",
    ).data
    pairs = pairs_of(data)
    assert (pairs.source, pairs.captions, pairs.images) == ("csv", "c.csv", "i")
    assert (tuple(pairs.crop_scale), pairs.image_size) == ((0.7, 0.9), data.image_size)
    assert pairs_of(replace(data, source="webdataset", shards="s", num_samples=3)).shards == "s"
