"""The official sets through `evaluate`: public and hidden targets, before and after, validation on
CIRR.
"""

import json

import pytest
import torch
from PIL import Image

from common.config import UserError
from common.engine.workspace import Workspace
from projects.rtd.evaluate import evaluate, image_encoder, judge_of, official_sets
from tests.projects.rtd.conftest import config, module_of

COLOURS = {"a": (255, 0, 0), "b": (0, 255, 0), "c": (0, 0, 255), "d": (250, 250, 0)}
NAMES = {"red": "a", "green": "b", "blue": "c", "yellow": "d"}
FILES = [
    "data.source=files",
    "data.rules=true",
    "data.captions=c.txt",
    "eval.cirr=CIRR",
    "eval.circo=CIRCO",
]


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def paint(path, name):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), COLOURS[name]).save(path)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """CIRR and CIRCO with four pictures of one colour each; test parts have no targets."""
    root = tmp_path_factory.mktemp("sets")
    rows = [
        {
            "pairid": 7,
            "reference": "a",
            "target_hard": "d",
            "caption": "make it red",
            "img_set": {"members": ["a", "b", "d"]},
        },
        {
            "pairid": 8,
            "reference": "b",
            "target_hard": "c",
            "caption": "make it blue",
            "img_set": {"members": ["a", "b", "c"]},
        },
    ]
    hidden = [{k: v for k, v in row.items() if k != "target_hard"} for row in rows]
    row = {
        "id": 0,
        "reference_img_id": 1,
        "target_img_id": 4,
        "relative_caption": "is yellow",
        "gt_img_ids": [4],
    }
    for split, actual in (("val", rows), ("test1", hidden)):
        write(root / f"CIRR/captions/cap.rc2.{split}.json", actual)
        write(
            root / f"CIRR/image_splits/split.rc2.{split}.json",
            {n: f"./dev/{n}.png" for n in COLOURS},
        )
    write(root / "CIRCO/annotations/val.json", [row])
    write(
        root / "CIRCO/annotations/test.json",
        [{k: row[k] for k in ("id", "reference_img_id", "relative_caption")}],
    )
    coco = root / "CIRCO/COCO2017_unlabeled"
    files = {i: f"{i:012d}.jpg" for i in range(1, 5)}
    write(
        coco / "annotations/image_info_unlabeled2017.json",
        {"images": [{"id": i, "file_name": f} for i, f in files.items()]},
    )
    for file, name in zip(files.values(), COLOURS, strict=True):
        paint(root / f"CIRR/dev/{name}.png", name)
        paint(coco / f"unlabeled2017/{file}", name)
    return root


def painter(root, monkeypatch, *words):
    """A config and a module that sees mean colours and finds what is asked for; the anchor finds
    green.
    """
    cfg = config(*FILES, f"data.root={root}", *words)
    module = module_of()
    composer = module.composer
    monkeypatch.setattr(composer.encoder, "encode_image", lambda pixels: pixels.mean((2, 3)))

    def compose(references, texts, *, anchor=False):
        names = ["green" if anchor else text.split()[-1] for text in texts]
        pictures = [Image.new("RGB", (8, 8), COLOURS[NAMES[name]]) for name in names]
        return image_encoder(cfg, composer)(pictures)

    monkeypatch.setattr(composer, "compose", compose)
    return cfg, module


def test_item_15_public_targets_are_scored_before_and_after(root, monkeypatch, tmp_path):
    """Checklist 14, 15: both text towers, each set under its name, nothing for a server."""
    cfg, module = painter(root, monkeypatch)
    actual = evaluate(cfg, module, Workspace(tmp_path))
    names = ("cirr_recall_at_1", "cirr_subset_recall_at_1", "circo_map_at_5")
    assert [actual[name] for name in names] == [1.0, 1.0, 1.0]
    assert [actual[f"before_{name}"] < 1 for name in names] == [True, True, True]
    assert actual["before_cirr_recall_at_1"] == 0
    assert not any("submitted" in name for name in actual)
    assert not (tmp_path / "submission").exists()


def test_item_15_hidden_targets_are_written_for_the_servers(root, monkeypatch, tmp_path):
    """Checklist 15: the run ends well although no set has a figure."""
    cfg, module = painter(root, monkeypatch, "eval.official_split=test")
    actual = evaluate(cfg, module, Workspace(tmp_path))
    own = {name: value for name, value in actual.items() if not name.startswith("cost_")}
    assert own == {"cirr_submitted": 2.0, "circo_submitted": 1.0}
    files = {p.name: json.loads(p.read_text()) for p in (tmp_path / "submission").iterdir()}
    assert sorted(files) == ["circo.json", "cirr_recall.json", "cirr_subset.json"]
    assert files["cirr_recall.json"]["7"][0] == "d"  # without the reference
    assert files["circo.json"]["0"][0] == 4
    with pytest.raises(UserError, match="nothing to evaluate"):
        evaluate(config(*FILES, "eval.cirr=null", "eval.circo=null"), module, Workspace(tmp_path))


def test_item_15_validation_on_cirr_leaves_the_reference_out(root, monkeypatch):
    """Checklist 10, 15: one answer a query, of the val part; pictures are embedded once."""
    cfg, module = painter(root, monkeypatch, "eval.validate=true", "eval.official_split=test")
    count, judge = judge_of(cfg)
    assert count == 2
    assert judge(module.composer).tolist() == [True, True]
    monkeypatch.setattr(module.composer.encoder, "encode_image", None)
    monkeypatch.setattr(module.composer, "compose", lambda images, texts: -images)
    assert judge(module.composer).tolist() != [True, True]


def test_item_15_every_set_has_its_parts_and_pictures_may_be_padded():
    """Checklist 15: names of the sets; with a target ratio the borders of a wide picture are
    seen."""
    cfg = config(*FILES, "eval.fashioniq=F", "eval.genecis=G", "data.root=.")
    assert [name for name, _ in official_sets(cfg)] == [
        "fashioniq_dress",
        "fashioniq_shirt",
        "fashioniq_toptee",
        "cirr",
        "circo",
        "genecis_focus_attribute",
        "genecis_change_attribute",
        "genecis_focus_object",
        "genecis_change_object",
    ]
    composer = module_of().composer
    composer.encoder.encode_image = lambda pixels: pixels.mean((2, 3))
    wide = Image.new("RGB", (60, 20))
    wide.paste((255, 255, 255), (20, 0, 40, 20))
    cut, padded = (
        image_encoder(config(f"eval.target_pad={pad}"), composer)([wide]) for pad in ("null", 1.25)
    )
    white = image_encoder(config(), composer)([Image.new("RGB", (20, 20), "white")])
    torch.testing.assert_close(cut, white, atol=0.2, rtol=0)
    assert (padded < white - 0.5).all()
