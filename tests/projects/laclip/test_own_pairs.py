"""`eval.pairs`: recall on held-out pictures and captions of one's own."""

import json
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from common.config import UserError
from common.engine.run import train
from common.engine.workspace import Workspace
from common.evaluation.retrieval.cross_modal import image_text_retrieval
from common.families.image_text import pairs
from projects.laclip import evaluate
from projects.laclip.data import build_data
from projects.laclip.module import LaCLIP
from tests.projects.laclip.conftest import config, csv_config

COLOURS = {
    "red": (220, 10, 10),
    "green": (10, 220, 10),
    "blue": (10, 10, 220),
    "grey": (90, 90, 90),
}
ROWS = [
    "red,a red square",
    "green,grass",
    "red,a tomato",
    "blue,the sea",
    "grey,a stone",
    "green,a leaf",
]


@pytest.fixture
def own(tmp_path):
    """Four pictures, two of which have two captions."""
    folder = tmp_path / "own"
    folder.mkdir()
    for name, colour in COLOURS.items():
        Image.new("RGB", (50, 40), colour).save(folder / f"{name}.png")
    lines = [row.replace(",", ".png,") for row in ROWS]
    (folder / "held_out.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path


def test_recalls_of_both_directions_with_several_captions_a_picture(own, tmp_path, monkeypatch):
    cfg = config("eval.pairs=own/held_out.csv", f"data.root={own}", "eval.batch_size=3")
    actual = pairs.read_pairs(cfg, "own/held_out.csv")
    assert [path.stem for path in actual.paths] == ["red", "green", "blue", "grey"]
    assert actual.image_of_text.tolist() == [0, 1, 0, 2, 3, 1]
    assert actual.texts[2] == "a tomato"
    torch.manual_seed(0)
    module, workspace = LaCLIP(cfg).eval(), Workspace(tmp_path / "run")
    encoded = {}
    for name in ("encode_files", "encode_texts"):
        real = getattr(pairs, name)
        monkeypatch.setattr(
            pairs, name, lambda *words, n=name, f=real: encoded.setdefault(n, f(*words))
        )
    with torch.inference_mode():
        metrics = pairs.evaluate_pairs(cfg, module, workspace, "own/held_out.csv")
        one = pairs.eval_transform(cfg.data).one(Image.open(actual.paths[3]).convert("RGB"), None)
        alone = torch.nn.functional.normalize(module.encoder.encode_image(one[None]), dim=1)
    torch.testing.assert_close(encoded["encode_files"][3:], alone, rtol=1e-4, atol=1e-5)
    expected = image_text_retrieval(*encoded.values(), actual.image_of_text)
    assert metrics == {f"pairs_{name}": value for name, value in expected.items()}
    assert metrics["pairs_text_to_image_recall_at_1_chance"] == 1 / 4
    items = json.loads((tmp_path / "run/items/pairs_text_to_image_recall_at_10.json").read_text())
    assert items == [1.0] * 6  # of four pictures
    for name in ("captions to pictures", "pictures to captions"):
        rows = json.loads((tmp_path / f"run/gallery/{name}/gallery.json").read_text())
        assert len(rows) == 4


def test_the_tenth_picture_of_a_ranking_is_found_and_the_eleventh_is_not(tmp_path, monkeypatch):
    """The items of a caption, whose mean is the metric."""
    for i in range(12):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{i}.png")
    table = "".join(f"{i}.png,picture {i}\n" for i in range(12))
    (tmp_path / "held_out.csv").write_text(table, encoding="utf-8")
    i, ranks = torch.arange(12), torch.tensor([10, 11] * 6)
    texts = ((i - i[:, None] - ranks[:, None]) % 12).float()  # row: a caption's scores of pictures
    monkeypatch.setattr(pairs, "encode_files", lambda *_: torch.eye(12))
    monkeypatch.setattr(pairs, "encode_texts", lambda *_: texts)
    cfg, workspace = config(f"data.root={tmp_path}"), Workspace(tmp_path / "run")
    metrics = pairs.evaluate_pairs(cfg, LaCLIP(cfg).eval(), workspace, "held_out.csv")
    items = json.loads((tmp_path / "run/items/pairs_text_to_image_recall_at_10.json").read_text())
    assert items == [1.0, 0.0] * 6
    assert metrics["pairs_text_to_image_recall_at_10"] == 0.5


def test_the_right_picture_of_a_caption_is_its_own(own):
    """A model that knows colours finds all; one that is wrong in one caption loses it."""
    cfg = config(f"data.root={own}")
    read = pairs.read_pairs(cfg, "own/held_out.csv")
    images = torch.eye(4)
    right = images[read.image_of_text]
    assert image_text_retrieval(images, right, read.image_of_text)["recall_mean"] == 1
    wrong = right.clone()
    wrong[2] = images[3]
    actual = image_text_retrieval(images, wrong, read.image_of_text, (1,))
    assert actual["text_to_image_recall_at_1"] == pytest.approx(5 / 6)


@pytest.mark.parametrize("source", ["synthetic", "scenes", "pool"])
def test_held_out_pairs_below_a_relative_root_are_judged_next_to_other_metrics(
    own, tmp_path, monkeypatch, source
):
    """The root was put before the path twice, and the evaluation failed after the training."""
    monkeypatch.chdir(own.parent)
    cfg = config("eval.pairs=own/held_out.csv", f"data.root={own.name}")
    cfg.data.source = source
    for name in ("evaluate_scenes", "evaluate_drawings", "evaluate_image_text"):
        monkeypatch.setattr(evaluate, name, lambda *_: {"other": 1.0})
    for name in ("show", "show_extremes"):
        monkeypatch.setattr(pairs, name, lambda *_: None)
    torch.manual_seed(0)
    actual = evaluate.evaluate(cfg, LaCLIP(cfg), Workspace(tmp_path / "run"), lambda: LaCLIP(cfg))
    assert (actual["other"], actual["num_images"], actual["num_captions"]) == (1, 4, 6)
    assert {"pairs_recall_mean", "untrained_pairs_recall_mean"} <= actual.keys()


@pytest.mark.slow
@pytest.mark.usefixtures("unrendered_figures")
def test_training_reports_them(official, own, tmp_path):
    words = [
        "data.source=csv",
        "data.captions=toy/toy.csv",
        f"data.root={own}",
        "data.batch_size=4",
    ]
    words += ["data.texts=[original]", "data.augmentation=none", "eval.pairs=own/held_out.csv"]
    run = train("laclip", "smoke", [*words, f"runs_dir={tmp_path / 'runs'}", "trainer.max_steps=1"])
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert 0 <= metrics["pairs_recall_mean"] <= 1
    assert "pairs_image_to_text_recall_at_5" in metrics


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda folder: (folder / "held_out.csv").unlink(),
            "held-out pairs not found.*one relative/path.jpg,caption",
        ),
        (
            lambda folder: (folder / "red.png").unlink(),
            r"1 of 4 images cannot be read, more than 5%.*red\.png \(no such file\)",
        ),
        (
            lambda folder: (folder / "held_out.csv").write_text("notes.txt,x\n"),
            "no row of the form path,caption",
        ),
    ],
)
def test_what_is_missing_is_refused_before_training(official, own, change, message):
    change(own / "own")
    cfg = csv_config(own, "eval.pairs=own/held_out.csv")
    with pytest.raises(UserError, match=message):
        build_data(cfg, SimpleNamespace(context_length=12))


def test_a_picture_that_cannot_be_read_is_named(own, tmp_path):
    (own / "own/blue.png").write_bytes(b"no picture")
    cfg = config(f"data.root={own}")
    with pytest.raises(UserError, match=r"1 of 4 images cannot be read.*blue\.png \(Unident"):
        pairs.evaluate_pairs(
            cfg, LaCLIP(cfg).eval(), Workspace(tmp_path / "run"), "own/held_out.csv"
        )
