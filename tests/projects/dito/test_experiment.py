"""Runs, files, evaluation, export and tasks as the commands drive them."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from common.config import UserError
from common.data.samplers import sample_rng
from common.encoders.modes import evaluation_mode
from common.engine import checkpoint as ckpt
from common.engine.workspace import Workspace
from common.models import load as load_model
from projects.dito import build, coco, detector, evaluate, inference, tasks
from projects.dito.data import CocoBoxes, base_names, num_samples
from projects.dito.detector import Detections, detect
from projects.dito.folder import export, load, load_network
from projects.dito.inference import Detector
from projects.dito.module import DITO
from projects.dito.network import build_network
from projects.dito.objective import detection_scores, fuse_scores
from projects.dito.scenes import clipart_pictures, emoji_pictures, scenes_of, shape_pictures
from projects.dito.stages import build_module
from tests.projects.dito.conftest import config, network_of


def test_a_run_has_the_metrics_of_all_stages(run):
    """Image, region and detect stage one after the other; gallery with drawn boxes."""
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert {
        "region_top1",
        "region_top1_chance",
        "region_top1_base",
        "region_top1_novel",
        "pointing_patch",
        "pointing_region",
        "shift_variance",
        "box_recall",
    } <= metrics.keys()
    assert sorted(p.name for p in (run / "checkpoints").iterdir() if p.is_dir()) == [
        "detect",
        "image",
        "region",
    ]
    assert len(list(run.glob("gallery/regions/*-query.png"))) == 8


def test_an_export_reloads_with_equal_outputs_and_starts_the_next_stage(run, exported):
    """Safetensors by our loader; the frozen branch is in it; `model.init_from` takes its
    pretraining.
    """
    network, settings = load_network(exported)
    assert network.trained == ["image", "region", "detect"]
    assert settings["vlm"]
    state = ckpt.load(run / "checkpoints/detect/step-00000004.ckpt")["state_dict"]
    for name, value in network.state_dict().items():
        assert torch.equal(value, state[f"network.{name}"]), name
    cfg = config(
        f"model.init_from={exported}", "method.stages=[region]", "method.detect_steps=null"
    )
    stage = next(build(cfg).stages())
    assert torch.equal(stage.module.network.backbone.patch.weight, network.backbone.patch.weight)
    assert not torch.equal(
        stage.module.network.rpn.centerness.weight, network.rpn.centerness.weight
    )
    assert stage.module.network.trained == ["image", "region", "detect", "region"]
    with pytest.raises(UserError, match="not an exported DITO model"):
        Detector(exported.parent)


def test_item_13_names_are_given_at_inference(exported):
    """Checklist 13: any list, any length, on one exported model; boxes in the picture's pixels."""
    model = load_model(exported)
    picture = Image.new("RGB", (80, 50), "white")
    picture.paste((220, 40, 40), (10, 10, 40, 40))
    for names in (["red square"], ["a dog", "red square", "green circle", "sky"]):
        actual = model(picture, names)
        assert actual
        assert {f.name for f in actual} <= set(names)
        assert [f.score for f in actual] == sorted((f.score for f in actual), reverse=True)
        boxes = torch.tensor([f.box for f in actual])
        assert float(boxes.min()) >= 0
        assert float(boxes[:, 2].max()) <= 80.01
        assert float(boxes[:, 3].max()) <= 50.01
    split = model(picture, names, base=["a dog"])
    assert [f.score for f in split] != [f.score for f in model(picture, names)]
    vectors = model.region_embed(picture, [(0, 0, 80, 50), (10, 10, 40, 40)])
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(model.text_embed(["sky"])[0], model.text_embed(["a dog", "sky"])[1])
    assert model.similarity(picture, ["red square", "sky"]).shape == (2, 8, 8)
    assert model.draw(picture, actual).size[1] >= 256
    with pytest.raises(UserError, match="not among the names"):
        model(picture, ["sky"], base=["sea"])
    with pytest.raises(UserError, match="at least one class name"):
        model(picture, [])


def test_detections_without_a_trained_rpn_come_from_a_grid():
    """After the region stage boxes are squares of the grid; image-level pretraining alone is
    refused.
    """
    cfg = config("score.vlm=false")
    images = torch.randn(2, 3, 32, 32)
    network = network_of(cfg, ("image", "region")).eval()
    classes = network.classes(["a", "b", "c"])
    actual = detect(network, images, classes, cfg.score, sizes=[(32, 32), (16, 32)])
    assert float(actual[1].boxes[:, 3].max()) <= 16
    with torch.no_grad():
        vectors = network.region_vectors(images[:1], [actual[0].boxes])
        p = (F.normalize(vectors, dim=1) @ classes.T * network.region_scale()).softmax(1)
    best = p[torch.arange(len(p)), actual[0].labels]
    torch.testing.assert_close(best, actual[0].scores)
    with pytest.raises(UserError, match="never trained"):
        detect(network_of(cfg, ("image",)), images, classes, cfg.score)
    with pytest.raises(UserError, match="needs a model with the stage detect"):
        detect(network, images, classes, config("score.proposals=rpn").score)
    network.trained.append("detect")
    few = config("score.vlm=false", "score.rpn_top=3", "score.rpn_keep=4", "score.nms=1").score
    boxes = detect(network, images, classes[:2], few)[0].boxes
    assert len(boxes) == 4  # of six on two levels


def test_item_9_the_detector_s_scores_are_fused_and_weighed_by_objectness(monkeypatch):
    """Checklist 9: both branches are fused with the split, then times the proposal's score to the
    third.
    """
    cfg = config()
    network = network_of(cfg, ("region", "detect")).eval()
    images, classes = torch.randn(1, 3, 32, 32), network.classes(["a", "b"])
    base, seen = torch.tensor([False, True, False]), {}

    def fused(p, q, split, alpha, beta):
        seen["fused"] = (p, q, split, alpha, beta)
        return fuse_scores(p, q, split, alpha, beta)

    def weighed(p, objectness, exponent):
        seen["weighed"] = (p, objectness, exponent)
        return detection_scores(p, objectness, exponent)

    monkeypatch.setattr(detector, "fuse_scores", fused)
    monkeypatch.setattr(detector, "detection_scores", weighed)
    detector.detect(network, images, classes, cfg.score, base)
    p, q, split, alpha, beta = seen["fused"]
    assert (alpha, beta) == (0.35, 0.65)
    assert torch.equal(split, base)
    assert not torch.allclose(p, q)
    torch.testing.assert_close(seen["weighed"][0], fuse_scores(p, q, base))
    with torch.no_grad():
        maps = network.pyramid(network.detector_map(images))
        best = network.rpn(maps)[0].sigmoid().flatten().sort(descending=True).values
    _, objectness, exponent = seen["weighed"]
    torch.testing.assert_close(objectness, best[: len(objectness)])
    assert exponent == 3


# -- data ------------------------------------------------------------------------------------------


def test_scenes_have_their_pictures_in_their_boxes():
    """Three different names, boxes inside the scene, colours of the shape inside its box; seeds
    differ.
    """
    cfg = config(
        "data.source=emoji",
        "data.image_size=64",
        "data.names=120",
        "data.objects=3",
        "data.scenes=12",
        "data.eval_scenes=6",
    )
    train_, test = scenes_of(cfg, "train"), scenes_of(cfg, "test")
    assert len(train_.names) == 120
    for scenes in (train_, test):
        assert all(len(set(row)) == 3 for row in scenes.labels.tolist())
        sides = (scenes.boxes[..., 2:] - scenes.boxes[..., :2]).amax(-1)
        assert float(sides.min()) >= 18
        assert float(sides.max()) <= 39
        assert float(scenes.boxes.min()) >= 0
        assert float(scenes.boxes.max()) <= 64
    assert train_.caption(0).count(", ") == 2
    other = config(
        "data.source=emoji",
        "data.image_size=64",
        "data.names=120",
        "data.objects=3",
        "data.scenes=12",
        "data.eval_scenes=6",
        "seed=1",
    )
    assert not torch.equal(scenes_of(other, "train").images, train_.images)
    assert torch.equal(scenes_of(other, "test").images, test.images)
    shapes = scenes_of(config(), "test")
    place = shapes.names.index("red square")
    for i, k in (shapes.labels == place).nonzero().tolist()[:2]:
        if k == shapes.labels.shape[1] - 1:  # nothing covers the last one
            x0, y0, x1, y1 = shapes.boxes[i, k].int().tolist()
            middle = shapes.images[i, :, (y0 + y1) // 2, (x0 + x1) // 2]
            assert int(middle.argmax()) == 0
    pictures, names = clipart_pictures()
    assert len(set(names)) > 60
    assert all(names.count(n) >= 2 for n in set(names))
    known = set(emoji_pictures(120)[1])
    assert 20 < len(known & set(names)) < len(set(names))
    assert pictures[0].getbbox() != (0, 0, 64, 64) or pictures[1].getbbox() != (0, 0, 64, 64)
    with pytest.raises(UserError, match="there are 12"):
        shape_pictures(13)


def write_set(folder: Path, lvis: bool = False) -> Path:
    """Two pictures, three classes of which one is novel, a crowd."""
    kinds = [
        {"id": 3, "name": "person", "frequency": "f"},
        {"id": 7, "name": "tie", "frequency": "r"},
        {"id": 9, "name": "fork", "frequency": "c"},
    ]
    images = []
    for i, size in ((11, (60, 40)), (12, (40, 80))):
        Image.new("RGB", size, (200, 30 * i % 255, 90)).save(folder / f"{i}.jpg")
        own = {"coco_url": f"http://host/val/{i}.jpg"} if lvis else {"file_name": f"{i}.jpg"}
        images.append(
            {
                "id": i,
                "width": size[0],
                "height": size[1],
                "neg_category_ids": [],
                "not_exhaustive_category_ids": [],
                **own,
            }
        )
    rows = [
        (11, 3, [5, 5, 20, 10], 0),
        (11, 7, [30, 10, 10, 20], 0),
        (12, 9, [0, 0, 30, 60], 0),
        (12, 3, [1, 1, 5, 5], 1),
        (12, 7, [3, 3, 9, 9], 0),
    ]
    notes = [
        {"id": k, "image_id": i, "category_id": c, "bbox": b, "area": b[2] * b[3], "iscrowd": crowd}
        for k, (i, c, b, crowd) in enumerate(rows, 1)
    ]
    path = folder / "set.json"
    path.write_text(json.dumps({"images": images, "annotations": notes, "categories": kinds}))
    return path


@pytest.mark.parametrize("novel", ["coco", "lvis"])
def test_item_10_novel_boxes_of_files_are_left_out_of_training(novel, tmp_path):
    """Checklist 10: rare or novel classes and crowds are no targets; evaluation keeps all
    classes."""
    path = write_set(tmp_path, lvis=novel == "lvis")
    actual = coco.read_coco(path, novel, training=True)
    assert actual.names == ["person", "tie", "fork"]
    assert actual.base == [True, False, True]
    assert [(i.id, i.labels.tolist(), i.boxes.tolist()) for i in actual.images] == [
        (11, [1], [[5, 5, 25, 15]]),
        (12, [3], [[0, 0, 30, 60]]),
    ]
    assert actual.images[0].file == ("val/11.jpg" if novel == "lvis" else "11.jpg")
    judged = coco.read_coco(path, novel, training=False)
    assert [len(i.labels) for i in judged.images] == [2, 2]  # without the crowd
    cfg = config(
        "data.source=coco",
        f"data.root={tmp_path}",
        f"data.novel={novel}",
        "data.train_json=set.json",
        "data.eval_json=set.json",
        "method.stages=[detect]",
    )
    assert base_names(cfg) == ["person", "fork"]
    if novel == "coco":
        batch = CocoBoxes(cfg)[[(0, 0), (1, 0), (1, 1)]]
        assert batch["images"].shape == (3, 3, 32, 32)
        assert {int(x) for row in batch["labels"] for x in row} <= {1, 2}
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(UserError, match="not an annotation file"):
        coco.read_coco(tmp_path / "bad.json", novel, training=True)
    with pytest.raises(UserError, match="cocodataset"):
        coco.read_coco(tmp_path / "absent.json", novel, training=True)


def test_training_images_are_jittered_anew_by_seed_and_epoch(tmp_path, monkeypatch):
    """Of the training folder, by `data.jitter`; images without a target are no samples."""
    for name in ("train", "val"):
        (tmp_path / name).mkdir()
        write_set(tmp_path / name)
    content = json.loads((tmp_path / "train/set.json").read_text())
    content["annotations"] = content["annotations"][:2]
    (tmp_path / "train/set.json").write_text(json.dumps(content))
    (tmp_path / "val/11.jpg").unlink()
    words = ["data.source=coco", f"data.root={tmp_path}", "data.eval_json=val/set.json"]
    words += ["data.train_json=train/set.json", "data.train_images=train", "data.eval_images=val"]
    words += ["method.stages=[detect]", "data.jitter=[0.5,0.6]"]
    assert num_samples(config(*words)) == 1
    seen, plain = [], coco.jittered

    def spy(picture, boxes, labels, size, jitter, rng, outlines):
        seen.append((tuple(jitter), rng.random()))
        return plain(picture, boxes, labels, size, jitter, rng, outlines)

    monkeypatch.setattr(coco, "jittered", spy)
    for seed in (0, 1):
        CocoBoxes(config(*words, f"seed={seed}"))[[(0, 0), (0, 1)]]
    assert {jitter for jitter, _ in seen} == {(0.5, 0.6)}
    assert len({number for _, number in seen}) == 4


def test_what_is_judged_is_looked_at_before_training(tmp_path, exported):
    """A wrong name of the judged file or folder was told when the training was over."""
    write_set(tmp_path)
    words = ["data.source=coco", f"data.root={tmp_path}", "data.train_json=set.json"]
    words += ["method.stages=[detect]", f"model.init_from={exported}"]
    next(build(config(*words, "data.eval_json=set.json")).stages())
    empty = {"images": [], "annotations": [], "categories": []}
    (tmp_path / "empty.json").write_text(json.dumps(empty))
    for wrong, told in (
        (["data.eval_json=other.json"], "other.json"),
        (["data.eval_json=empty.json"], "names no image"),
        (["data.eval_json=set.json", "data.eval_images=none"], "cannot read"),
    ):
        with pytest.raises(UserError, match=told):
            next(build(config(*words, *wrong)).stages())


@pytest.mark.parametrize("novel", ["coco", "lvis"])
def test_a_judged_file_is_cut_to_what_is_asked(novel, tmp_path, exported, monkeypatch):
    """`eval.limit` images, boxes of the classes that take part; pictures of the judged folder."""
    (tmp_path / "val").mkdir()
    path = write_set(tmp_path / "val")
    content = json.loads(path.read_text())
    if novel == "coco":
        content["categories"].append({"id": 5, "name": "wig"})
        content["annotations"].append({"image_id": 11, "category_id": 5, "bbox": [1, 1, 9, 9]})
    path.write_text(json.dumps(content))
    words = ["data.source=coco", f"data.root={tmp_path}", f"data.novel={novel}"]
    words += ["data.eval_json=val/set.json", "data.eval_images=val", "data.train_images=train"]
    words += ["method.stages=[detect]", "eval.detections=true", "eval.limit=1"]
    cfg, judged = config(*words, f"model.init_from={exported}"), []
    monkeypatch.setattr(
        evaluate,
        "box_metrics",
        lambda truth, results, **options: judged.append((truth, options["style"])) or {},
    )
    network, _ = load_network(exported)
    with evaluation_mode(network):
        evaluate.evaluate_files(cfg, network, Workspace(tmp_path / "w"))
    ((truth, style),) = judged
    assert style == novel
    assert [row["id"] for row in truth["images"]] == [11]
    assert [row["category_id"] for row in truth["annotations"]] == [3, 7]
    assert [row["id"] for row in truth["categories"]] == [3, 7, 9]


def test_jittered_boxes_follow_their_picture():
    """A black rectangle stays inside its box after scaling, cropping and mirroring."""
    picture = Image.new("RGB", (60, 40), "white")
    picture.paste((0, 0, 0), (10, 8, 40, 30))
    for seed in range(12):
        pixels, boxes, labels, masks = coco.jittered(
            picture,
            torch.tensor([[10.0, 8, 40, 30]]),
            torch.tensor([4]),
            48,
            (0.6, 1.6),
            sample_rng(seed, 0, 0),
        )
        assert masks.shape == (0, 112, 112)
        dark = (pixels[0] < -1.5).nonzero()
        if not len(boxes):
            assert len(dark) < 60
            continue
        assert labels.tolist() == [4]
        y0, x0 = dark.amin(0).tolist()
        y1, x1 = (dark.amax(0) + 1).tolist()
        np.testing.assert_allclose(boxes[0], [x0, y0, x1, y1], atol=1.6)


@pytest.mark.parametrize("novel", ["coco", "none"])
def test_item_16_another_set_s_class_list_is_swapped_in(novel, tmp_path, exported, monkeypatch):
    """Checklist 16: a trained model is judged on another file by the same code, all classes
    weighing as novel.
    """
    write_set(tmp_path)
    cfg = config(
        "data.source=coco",
        f"data.root={tmp_path}",
        f"data.novel={novel}",
        "data.eval_json=set.json",
        "method.stages=[detect]",
        "eval.detections=true",
        f"model.init_from={exported}",
    )
    network, _ = load_network(exported)
    seen = {}

    def judge(truth, results, **words):
        return seen.update(truth=truth, results=results, **words) or {"ap": 0.0}

    splits = []
    plain = evaluate.detect

    def spy(net, images, classes, score, base, sizes):
        splits.append(base)
        assert sizes == [(21, 32), (32, 16)]
        actual = plain(net, images, classes, score, base, sizes)
        box = torch.tensor([[1.0, 2.0, 11.0, 14.0]])
        return [Detections(box, torch.tensor([2]), torch.tensor([0.5])), *actual[1:]]

    monkeypatch.setattr(evaluate, "box_metrics", judge)
    monkeypatch.setattr(evaluate, "detect", spy)
    with evaluation_mode(network):
        actual = evaluate.evaluate_files(cfg, network, Workspace(tmp_path / "w"))
    assert actual.keys() == {"box_recall", "ap"}
    assert (splits[0] is None) == (novel == "none")
    first = seen["results"][0]
    assert (first["image_id"], first["category_id"]) == (11, 7)
    assert first["bbox"] == pytest.approx([1 * 60 / 32, 2 * 60 / 32, 10 * 60 / 32, 12 * 60 / 32])
    assert {r["category_id"] for r in seen["results"]} <= {3, 7, 9}
    assert seen["groups"]["all"] == [3, 7, 9]
    split = {"base": [3, 9], "novel": [7]} if novel == "coco" else {}  # all alone: AP once
    assert {k: v for k, v in seen["groups"].items() if k != "all"} == split


@pytest.mark.parametrize("trained", [["person", "tie", "fork"], ["person"]])
def test_a_set_of_one_s_own_weighs_as_base_where_it_was_trained_on(
    trained, tmp_path, exported, monkeypatch
):
    """Guards against the fusion of novel classes for boxes that were trained on; the export
    remembers the names.
    """
    write_set(tmp_path)
    words = [
        "data.source=coco",
        f"data.root={tmp_path}",
        "data.train_json=set.json",
        "data.eval_json=set.json",
        "method.stages=[detect]",
        f"model.init_from={exported}",
    ]
    cfg = config(*words)
    module = build_module(cfg, build_network(cfg.model, cfg.detect.rpn_convs), 0)
    assert module.network.base_names == ["person", "tie", "fork"]
    module.network.base_names = trained
    export(cfg, module, tmp_path / "export")
    network, _ = load_network(tmp_path / "export")
    assert network.base_names == trained
    splits = []

    def spy(net, images, classes, score, base, sizes):
        splits.append(None if base is None else base.tolist())
        return [Detections(torch.ones(1, 4), torch.tensor([2]), torch.tensor([0.5]))] * len(images)

    monkeypatch.setattr(evaluate, "detect", spy)
    evaluate.evaluate_files(cfg, network, Workspace(tmp_path / "w"))
    assert splits == [[False, True, True, True] if len(trained) == 3 else None]
    monkeypatch.setattr(inference, "detect", spy)
    inference.Detector(tmp_path / "export")(Image.new("RGB", (40, 30)), ["a dog", "person"])
    assert splits[1] == [False, False, True]


def test_a_photograph_is_turned_as_its_camera_says(tmp_path):
    """Guards against pictures that lie on their side: what is seen and drawn is upright."""
    upright = Image.new("RGB", (24, 48), "white")
    upright.paste((255, 0, 0), (0, 0, 24, 12))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to the right
    upright.rotate(90, expand=True).save(tmp_path / "phone.jpg", exif=exif, quality=95)
    for picture in (tmp_path / "phone.jpg", Image.open(tmp_path / "phone.jpg")):
        drawn = inference.Detector.draw(picture, [])
        assert drawn.height == 2 * drawn.width
        red, green, _ = drawn.getpixel((drawn.width // 2, 8))
        assert red > 200 > 90 > green


def test_average_precision_is_asked_for_and_checked_first(tmp_path, exported, monkeypatch):
    """Files give recall alone unless `eval.detections`; without the library nothing is detected,
    nor trained.
    """
    write_set(tmp_path)
    words = [
        "data.source=coco",
        f"data.root={tmp_path}",
        "data.eval_json=set.json",
        "data.train_json=set.json",
        "method.stages=[detect]",
        f"model.init_from={exported}",
    ]
    cfg = config(*words)
    module = load(cfg, exported)
    box = torch.tensor([[5.0, 5, 25, 15]]) * 32 / 60  # the person of the first picture
    actual = [
        Detections(b, torch.ones(len(b), dtype=torch.long), torch.ones(len(b)))
        for b in (box, box[:0])
    ]
    monkeypatch.setattr(evaluate, "detect", lambda *_: actual)
    assert evaluate.evaluate(cfg, module, Workspace(tmp_path / "w")) == {"box_recall": 0.25}
    assert len(json.loads((tmp_path / "w/detections.json").read_text())) == 1

    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    monkeypatch.setattr(evaluate, "detect", lambda *_: pytest.fail("detected before the check"))
    asked = config(*words, "eval.detections=true")
    with pytest.raises(UserError, match="faster-coco-eval"):
        evaluate.evaluate(asked, module, Workspace(tmp_path / "w"))
    with pytest.raises(UserError, match="faster-coco-eval"):
        next(build(asked).stages())
    needs = [r.name for r in build(asked).plan().requirements]
    assert {"library: faster-coco-eval", "weights: model.init_from"} <= set(needs)


# -- tasks -----------------------------------------------------------------------------------------


def test_task_detect_draws_boxes_of_free_names(exported, tmp_path):
    """`make run TASK=detect` on the user's own files: PNG, list, gallery."""
    Image.new("RGB", (90, 60), (10, 200, 10)).save(tmp_path / "mine.png")
    cfg = config(
        f"run.model={exported}",
        f"run.inputs=[{tmp_path}/mine.png]",
        "run.names=[a dog,grass]",
        "run.threshold=0.0",
        "run.most=3",
    )
    actual = tasks.detect(cfg, Workspace(tmp_path / "work"))
    assert len(next(iter(actual.values()))) == 3
    listed = json.loads((tmp_path / "work/detections.json").read_text())
    assert {row["name"] for row in listed[f"{tmp_path}/mine.png"]} <= {"a dog", "grass"}
    assert Image.open(tmp_path / "work/boxes/mine.png").size == (384, 256)
    with pytest.raises(UserError, match=r"run\.model"):
        tasks.detect(config(), Workspace(tmp_path))
    (tmp_path / "no.png").write_text("text")
    with pytest.raises(UserError, match="as an image"):
        tasks.detect(
            config(f"run.model={exported}", f"run.inputs=[{tmp_path}/no.png]", "run.names=[a]"),
            Workspace(tmp_path),
        )


def test_a_name_twice_is_one_class_and_the_gallery_has_small_pictures(exported, tmp_path):
    """A repeated name halved its scores; all pictures were held in full size."""
    Image.new("RGB", (1800, 1200), (10, 200, 10)).save(tmp_path / "mine.png")
    boxes = []
    for names in ("a,b", "a,b,a"):
        work = tmp_path / names
        cfg = config(
            f"run.model={exported}",
            f"run.inputs=[{tmp_path}/mine.png]",
            f"run.names=[{names}]",
            "run.threshold=0.0",
        )
        boxes += tasks.detect(cfg, Workspace(work)).values()
        assert Image.open(work / "boxes/mine.png").width == 1800
        assert Image.open(work / "gallery/detections/0-query.png").width == tasks.SHOWN
    assert boxes[0] == boxes[1]


def test_pictures_of_one_stem_have_their_own_files(exported, tmp_path):
    """`a/mine.png` and `b/mine.png` are both drawn, none over the other."""
    inputs = [tmp_path / folder / "mine.png" for folder in ("a", "b")]
    for path, size in zip(inputs, ((90, 60), (60, 90)), strict=True):
        path.parent.mkdir()
        Image.new("RGB", size).save(path)
    cfg = config(f"run.model={exported}", f"run.inputs=[{inputs[0]},{inputs[1]}]", "run.names=[a]")
    actual = tasks.detect(cfg, Workspace(tmp_path / "work"))
    assert list(actual) == [str(path) for path in inputs]
    drawn = {p.name: Image.open(p).size for p in (tmp_path / "work/boxes").iterdir()}
    assert drawn.keys() == {"mine.png", "mine_2.png"}
    assert drawn["mine.png"] == drawn["mine_2.png"][::-1]
    paths = [Path(p) for p in ("dog.png", "a/dog.jpg", "dog_2.png")]
    assert tasks.own_stems(paths) == ["dog", "dog_2", "dog_2_2"]


def test_an_export_brings_the_temperature_it_was_trained_with(tmp_path):
    """`score.temp_det` is read back, whatever else the scores of a call are; older folders have the
    released one.
    """
    cfg = config("score.temp_det=0.2")
    export(cfg, DITO(cfg, network_of(cfg, ("image", "region")), "image"), tmp_path)
    for score in (None, config("score.keep=7").score):
        own = Detector(tmp_path, score).score
        assert (own.temp_det, own.keep) == (0.2, 7 if score else 300)
    settings = json.loads((tmp_path / "dito.json").read_text())
    del settings["temp_det"]
    (tmp_path / "dito.json").write_text(json.dumps(settings))
    assert Detector(tmp_path, cfg.score).score.temp_det == 0.1


def test_item_15_locality_of_both_models_from_one_command(exported, tmp_path):
    """Checklist 15: pointing accuracy and maps of the image-level baseline and of DITO."""
    cfg = config("method.stages=[image]", "method.image_steps=2")
    baseline = DITO(cfg, network_of(cfg, ("image", "image")), "image")
    export(cfg, baseline, tmp_path / "baseline")
    model = Detector(tmp_path / "baseline")  # its head is random
    picture = Image.new("RGB", (32, 32))
    for ask in (
        lambda: model.region_embed(picture, [(0, 0, 9, 9)]),
        lambda: model.similarity(picture, ["a"]),
    ):
        with pytest.raises(UserError, match="box head was never trained"):
            ask()
    assert model.similarity(picture, ["a"], "patch").shape == (1, 8, 8)
    with pytest.raises(UserError, match="patch or region, not 'nonsense'"):
        model.similarity(picture, ["a"], "nonsense")
    cfg = config(f"run.models=[{tmp_path}/baseline,{exported}]", "eval.limit=4", "run.examples=2")
    actual = tasks.report_locality(cfg, Workspace(tmp_path / "work"))
    assert set(actual) == {
        "1_image_image_pointing_patch",
        "1_image_image_pointing_chance",
        "2_image_region_detect_pointing_patch",
        "2_image_region_detect_pointing_region",
        "2_image_region_detect_pointing_chance",
    }
    assert (tmp_path / "work/plots/locality.png").exists()
    with pytest.raises(UserError, match=r"run\.models"):
        tasks.report_locality(config(), Workspace(tmp_path))
    export(config("data.image_size=48"), baseline, tmp_path / "larger")  # other scenes
    with pytest.raises(UserError, match=r"\[48, 32\] pixels"):
        tasks.report_locality(
            config(f"run.models=[{tmp_path}/larger,{exported}]"), Workspace(tmp_path)
        )
