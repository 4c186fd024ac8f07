"""The mask head: its layer, targets, loss, masks on pictures, and their average precision."""

import json

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch.nn import functional as F

from common.config import UserError
from common.data.samplers import sample_rng
from common.engine.workspace import Workspace, write_json
from projects.dito import build, coco, evaluate, tasks
from projects.dito import fine_tuning as ft
from projects.dito.data import CocoBoxes
from projects.dito.detection import mask_head as mh
from projects.dito.detection.boxes import Regions
from projects.dito.detection.coco_boxes import box_metrics
from projects.dito.detector import detect
from projects.dito.folder import export, load_network
from projects.dito.inference import Detector
from projects.dito.stages import build_module
from tests.projects.dito.conftest import config, network_of

DIAMOND = [[30, 10, 50, 30, 30, 50, 10, 30]]  # area 800 inside a box of 1,600


def test_the_head_is_the_released_one():
    """Four normalised convolutions, a deconvolution to 28, 20 cosines and a bias a place."""
    head = mh.MaskHead(8, convs=4)
    kinds = [type(layer).__name__ for layer in head.layers]
    assert kinds == ["NormalizedConv2d", "ReLU"] * 4 + ["ConvTranspose2d", "ReLU", kinds[0]]
    crops = torch.randn(3, 8, 14, 14)
    assert head(crops).shape == (3, 28, 28)
    last = head.layers[-1]
    x = torch.randn(2, 8, 5, 5)
    last.bias.data.fill_(0.25)
    cosines = F.cosine_similarity(x, last.weight.expand(2, -1, 5, 5), dim=1)
    torch.testing.assert_close(last(x)[:, 0], 20 * cosines + 0.25)
    torch.testing.assert_close(last(7 * x), last(x))
    assert last(torch.zeros(1, 8, 1, 1)).isfinite().all()


def test_targets_are_what_the_region_holds_of_the_mask():
    """By hand: a right half in a box; the same region, one that is moved, and one around it."""
    masks = mh.draw_mask([np.array([[15.0, 20], [20, 20], [20, 30], [15, 30]])], [10, 20, 20, 30])
    assert masks[:, :56].sum() == 0
    assert masks[:, 56:].all()
    truth = torch.tensor([[10.0, 20, 20, 30]]).repeat(3, 1)
    regions = torch.tensor([[10.0, 20, 20, 30], [15, 20, 25, 30], [0, 10, 40, 50]])
    same, moved, around = mh.mask_targets(masks.repeat(3, 1, 1), truth, regions)
    assert same.shape == (28, 28)
    torch.testing.assert_close(same[:, :14].mean(), torch.tensor(0.0))
    torch.testing.assert_close(same[1:-1, 15:-1].mean(), torch.tensor(1.0))
    assert moved[3:-3, :14].mean() > 0.98
    assert moved[:, 15:].max() == 0
    assert around.sum() * (40 / 28) ** 2 == pytest.approx(50, rel=0.02)


def test_the_loss_is_a_mean_over_the_places_of_foreground():
    """By hand, and 0 with a gradient where a batch has no foreground."""
    logits = torch.tensor([0.0, 2.0]).view(2, 1, 1).expand(2, 28, 28).clone().requires_grad_()
    targets = torch.stack([torch.zeros(28, 28), torch.ones(28, 28)])
    expected = (np.log(2) + np.log1p(np.exp(-2))) / 2
    assert mh.mask_loss(logits, targets).item() == pytest.approx(expected)
    none = mh.mask_loss(logits[:0], targets[:0])
    none.backward()
    assert none == 0
    assert logits.grad.abs().sum() == 0


def test_masks_lie_on_the_picture_where_their_box_is():
    """A full mask fills its box, a left half its left half; what leaves the picture is cut."""
    full, left = torch.ones(28, 28), torch.zeros(28, 28)
    left[:, :14] = 1
    for mask, right in ((full, 52), (left, 31)):
        actual = mh.paste(mask, torch.tensor([10.0, 4, 52, 32]), (40, 60))
        expected = np.zeros((40, 60), dtype=bool)
        expected[4:32, 10:right] = True
        np.testing.assert_array_equal(actual, expected)
    between = mh.paste(full, torch.tensor([10.6, 4.4, 20.4, 8.6]), (40, 60))
    assert between.nonzero()[0][[0, -1]].tolist() == [4, 8]  # centres 4.5 to 8.5
    assert between[4].nonzero()[0][[0, -1]].tolist() == [11, 19]
    outside = mh.paste(full, torch.tensor([-14.0, -14, 14, 14]), (40, 60))
    assert outside[:14, :14].all()
    assert outside.sum() == 14 * 14
    assert not mh.paste(full, torch.tensor([70.0, 4, 80, 9]), (40, 60)).any()


def write_set(folder):
    """One picture with a black diamond and one with a square, base class and novel class."""
    objects = [(1, DIAMOND, 800), (2, [[5, 5, 25, 5, 25, 25, 5, 25]], 400)]
    notes, images = [], []
    for i, (kind, polygons, area) in enumerate(objects, 1):
        picture = Image.new("RGB", (60, 60), "white")
        points = list(zip(polygons[0][::2], polygons[0][1::2], strict=True))
        ImageDraw.Draw(picture).polygon(points, fill="black")
        picture.save(folder / f"{i}.png")
        x, y = (polygons[0][k::2] for k in (0, 1))
        box = [min(x), min(y), max(x) - min(x), max(y) - min(y)]
        images.append({"id": i, "file_name": f"{i}.png", "width": 60, "height": 60})
        row = {"id": i, "image_id": i, "category_id": kind, "bbox": box, "area": area}
        notes.append({**row, "iscrowd": 0, "segmentation": polygons})
    kinds = [{"id": 1, "name": "person"}, {"id": 2, "name": "fork"}]
    content = {"images": images, "annotations": notes, "categories": kinds}
    write_json(folder / "set.json", content)
    return content


def words(folder, *more):
    return [
        "data.source=coco",
        f"data.root={folder}",
        "data.train_json=set.json",
        "data.eval_json=set.json",
        "method.stages=[detect]",
        "model.masks=true",
        *more,
    ]


def test_masks_follow_their_picture_under_jitter(tmp_path):
    """What is dark inside the box is the mask, after scaling, cropping and mirroring."""
    write_set(tmp_path)
    entry = coco.read_coco(tmp_path / "set.json", "none", training=True, masks=True).images[0]
    picture, shares = coco.opened(tmp_path / entry.file), []
    for seed in range(8):
        sample = coco.jittered(
            picture,
            entry.boxes,
            entry.labels,
            48,
            (0.7, 1.6),
            sample_rng(seed, 0, 0),
            entry.outlines,
        )
        assert len(sample.masks) == len(sample.boxes)
        for mask, (x0, y0, x1, y1) in zip(sample.masks, sample.boxes.round().int(), strict=True):
            dark = (sample.pixels[0, y0:y1, x0:x1] < 0).float()
            seen = F.interpolate(dark[None, None], (112, 112))[0, 0] > 0.5
            shares.append((seen == mask).float().mean())
    assert len(shares) > 4
    assert min(shares) > 0.9


def test_the_detect_stage_trains_the_mask_head(tmp_path):
    """The term is in the loss, reaches the head, is on foreground alone, and is absent without
    one."""
    write_set(tmp_path)
    cfg = config(*words(tmp_path, f"model.init_from={start(tmp_path)}"))
    module = build_module(cfg, network_of(cfg, ("image",)), 0)
    batch = CocoBoxes(cfg)[[(0, 0), (1, 0)]]
    assert [m.shape[1:] for m in batch["masks"]] == [(112, 112)] * 2
    terms = module.losses(batch)
    torch.testing.assert_close(terms["loss"], sum(v for k, v in terms.items() if k != "loss"))
    grads = torch.autograd.grad(terms["mask"], list(module.network.mask_head.parameters()))
    assert all(g.abs().sum() > 0 for g in grads)
    batch["labels"] = [labels[:0] for labels in batch["labels"]]
    batch |= {name: [b[:0] for b in batch[name]] for name in ("boxes", "masks")}
    assert module.losses(batch)["mask"] == 0
    plain = config(*words(tmp_path), "model.masks=false")
    without = build_module(plain, network_of(plain, ("image",)), 0)
    assert without.network.mask_head is None
    assert "mask" not in without.losses(CocoBoxes(plain)[[(0, 0)]])


def test_a_region_s_target_is_cut_at_the_region(monkeypatch):
    """Every foreground region takes the mask of its own true box, as far as it reaches."""
    cfg = config(
        "data.source=coco", "data.eval_json=x", "method.stages=[detect]", "model.masks=true"
    )
    net, seen = network_of(cfg), {}
    monkeypatch.setattr(ft, "mask_loss", lambda logits, targets: seen.update(targets=targets))
    truth = torch.tensor([[0.0, 0, 16, 16], [8, 8, 24, 24]])
    masks = torch.zeros(2, 112, 112, dtype=torch.bool)
    masks[0], masks[1, :, 56:] = True, True  # all of the first, the right half of the second
    boxes = torch.tensor([[8.0, 8, 16, 24], [0, 0, 16, 16], [16, 8, 24, 24], [0, 0, 4, 4]])
    matches, labels = torch.tensor([1, 0, 1, 0]), torch.tensor([2, 1, 2, 0])
    regions = Regions(boxes, labels, torch.zeros(4, 4), matches)
    maps = net.pyramid(net.detector_map(torch.randn(1, 3, 32, 32)))
    ft.masked(net, maps, {"boxes": [truth], "masks": [masks]}, [regions])
    left, whole, right = seen["targets"]
    assert left[:, :-1].max() == 0
    assert whole[1:-1, 1:-1].min() == 1
    assert right[1:-1, 1:-1].min() == 1


def start(folder):
    """An export of image-level pretraining."""
    cfg = config("method.stages=[image]", "method.image_steps=1")
    module = build_module(cfg, network_of(cfg, ("image",)), 0)
    (folder / "start").mkdir(exist_ok=True)
    export(cfg, module, folder / "start")
    return folder / "start"


@pytest.fixture
def trained(tmp_path):
    """An untrained detector with a mask head, as if it had been through the detect stage."""
    write_set(tmp_path)
    cfg = config(*words(tmp_path))
    module = build_module(cfg, network_of(cfg, ("image",)), 0)
    module.network.trained = ["image", "detect"]
    (tmp_path / "export").mkdir()
    export(cfg, module, tmp_path / "export")
    return tmp_path, module


def test_an_export_draws_masks_of_free_names(trained):
    """Equal outputs after reloading; masks of the picture's size in the answer, the list and the
    drawing."""
    folder, module = trained
    network, _ = load_network(folder / "export")
    for name, value in module.network.state_dict().items():
        assert torch.equal(network.state_dict()[name], value), name
    experiment = build(config(*words(folder)))
    again = experiment.load_export(folder / "export")
    torch.testing.assert_close(experiment.embed(again)["masks"], experiment.embed(module)["masks"])
    found = Detector(folder / "export")(folder / "1.png", ["a dog"])
    assert {f.mask.shape for f in found} == {(60, 60)}
    with torch.no_grad():
        pixels, classes = torch.randn(1, 3, 32, 32), network.classes(["a dog"])
        (made,) = detect(network, pixels, classes, config().score)
        network.mask_head.layers[-1].bias.fill_(-9.0)
        (empty,) = detect(network, pixels, classes, config().score)
        network.trained = ["image", "region"]
        assert detect(network, pixels, classes, config().score)[0].masks is None
    assert made.masks.shape == (len(made.boxes), 28, 28)
    assert 0 <= made.masks.min() < made.masks.max() <= 1
    assert empty.masks.min() < made.masks.min()
    x0, y0, x1, y1 = (round(v) for v in found[0].box)
    outside = found[0].mask.copy()
    outside[max(0, y0 - 2) : y1 + 3, max(0, x0 - 2) : x1 + 3] = False
    assert not outside.any()
    drawn = [np.array(Detector.draw(folder / "1.png", f)) for f in (found[:1], bare(found[:1]))]
    assert (drawn[0] != drawn[1]).any() == bool(found[0].mask.any())
    task = [f"run.model={folder}/export", f"run.inputs=[{folder}/1.png]", "run.names=[a dog]"]
    tasks.detect(config(*task, "run.threshold=0.0"), Workspace(folder / "work"))
    rows = json.loads((folder / "work/detections.json").read_text())[f"{folder}/1.png"]
    assert {tuple(row["segmentation"]["size"]) for row in rows} == {(60, 60)}
    assert "mask" not in rows[0]


def bare(found):
    return [f._replace(mask=None) for f in found]


def test_masks_of_files_are_in_pixels_of_the_file(trained, monkeypatch):
    """A box and a full mask in pixels of the input become run lengths of the picture; AP of boxes
    and of masks are asked for apart."""
    folder, module = trained
    cfg = config(*words(folder, "eval.detections=true", "eval.masks=true"))
    asked, protocols = [], set()

    def judge(truth, results, **options):
        asked.append((options.get("kind", "bbox"), results))
        protocols.add((options["style"], tuple(options["groups"])))
        return {"ap": float(len(asked))}

    plain = evaluate.detect

    def spy(*args):
        return [
            d._replace(boxes=torch.tensor([[8.0, 8, 24, 24]]).repeat(len(d.boxes), 1))._replace(
                masks=torch.ones_like(d.masks)
            )
            for d in plain(*args)
        ]

    monkeypatch.setattr(evaluate, "box_metrics", judge)
    monkeypatch.setattr(evaluate, "detect", spy)
    with torch.no_grad():
        module.network.eval()
        actual = evaluate.evaluate_files(cfg, module.network, Workspace(folder / "w"))
    assert (actual["ap"], actual["mask_ap"]) == (1, 2)
    assert [kind for kind, _ in asked] == ["bbox", "segm"]
    assert protocols == {("coco", ("all",))}
    first = asked[1][1][0]
    assert first["segmentation"]["size"] == [60, 60]
    inside = sum(first["segmentation"]["counts"][1::2])
    assert inside == (16 * 60 / 32) ** 2
    content = json.loads((folder / "set.json").read_text())
    for kind, frequency in zip(content["categories"], "rf", strict=True):
        kind["frequency"] = frequency
    write_json(folder / "set.json", content)
    lvis = config(*words(folder, "eval.detections=true", "eval.masks=true", "data.novel=lvis"))
    protocols.clear()
    evaluate.evaluate_files(lvis, module.network, Workspace(folder / "l"))
    assert protocols == {("lvis", ("base", "novel", "all"))}
    without = config(*words(folder, "eval.detections=true"))
    evaluate.evaluate_files(without, module.network, Workspace(folder / "v"))
    assert "segmentation" not in asked[-1][1][0]
    module.network.mask_head = None
    with pytest.raises(UserError, match="no mask head"):
        evaluate.evaluate_files(cfg, module.network, Workspace(folder / "u"))


def test_average_precision_of_masks(tmp_path):
    """The true masks have AP 1, their boxes alone do not: the diamond fills half of its box."""
    pytest.importorskip("faster_coco_eval", reason="group eval")
    truth = write_set(tmp_path)
    results = []
    for note in truth["annotations"]:
        x, y, w, h = note["bbox"]
        outline = np.array(note["segmentation"][0], dtype=float).reshape(-1, 2)
        mask = mh.draw_mask([outline], [x, y, x + w, y + h]).float()
        small = F.adaptive_avg_pool2d(mask[None], 28)[0]
        whole = mh.paste(small, torch.tensor([x, y, x + w, y + h]), (60, 60))
        row = {k: note[k] for k in ("image_id", "category_id", "bbox")}
        results.append({**row, "score": 0.9, "segmentation": mh.run_lengths(whole)})
    groups = {"diamond": [1], "square": [2]}
    actual = box_metrics(truth, results, kind="segm", groups=groups)
    assert actual["ap50"] == pytest.approx(1)
    assert actual["ap75"] == pytest.approx(1)
    for row, note in zip(results, truth["annotations"], strict=True):
        x, y, w, h = note["bbox"]
        box = np.zeros((60, 60), dtype=bool)
        box[y : y + h, x : x + w] = True
        row["segmentation"] = mh.run_lengths(box)
    twin = box_metrics(truth, results, kind="segm", groups=groups)
    assert twin["ap_square"] > 0.9
    assert twin["ap_diamond"] < 0.2  # IoU .5
    assert box_metrics(truth, results, groups=groups)["ap_diamond"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["model.masks=true"], "data.source=coco"),
        (["eval.masks=true"], "model.masks=true and eval.detections=true"),
    ],
)
def test_settings_without_masks_to_learn_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        config(*settings)


def test_objects_without_polygons_are_refused(tmp_path):
    """Run lengths and absent outlines are named with their annotation."""
    content = write_set(tmp_path)
    content["annotations"][1]["segmentation"] = {"size": [60, 60], "counts": [3600]}
    write_json(tmp_path / "set.json", content)
    with pytest.raises(UserError, match="annotation 2 has no polygons"):
        coco.read_coco(tmp_path / "set.json", "none", training=True, masks=True)
    assert len(coco.read_coco(tmp_path / "set.json", "none", training=True).images) == 2
