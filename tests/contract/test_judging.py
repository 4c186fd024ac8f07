"""A file of a few rows is judged by every project that takes its layout, next to its start."""

import csv
import json
import wave
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.data.layouts import Layout
from common.engine.run import prepare
from common.engine.workspace import Workspace, read_json
from tests.contract.projects import project_param

NOUNS = ("kettle", "ladder", "umbrella", "spade", "lantern", "anchor", "bridge", "oven")
WORDS = {"kettle": "boils water", "ladder": "reaches the roof", "umbrella": "keeps the rain off"}
LINES = [f"The {noun} {WORDS.get(noun, 'is in the shed')}." for noun in NOUNS]


def write_rows(file: Path, rows: list) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def write_table(file: Path, rows: list) -> Path:
    with file.open("w", encoding="utf-8", newline="") as lines:
        csv.writer(lines).writerows(rows)
    return file


def pictures(folder: Path, names: list[str]) -> None:
    random = np.random.default_rng(0)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        noise = random.integers(0, 255, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / name)


def pairs(folder: Path) -> Path:
    rows = [(a, b, float(i == j)) for i, a in enumerate(LINES) for j, b in enumerate(LINES[:3])]
    return write_table(folder / "pairs.csv", [("sentence1", "sentence2", "score"), *rows])


def labelled(folder: Path) -> Path:
    rows = [
        (f"{line} {i}", "first" if k < 4 else "second")
        for k, line in enumerate(LINES)
        for i in range(2)
    ]
    return write_table(folder / "labels.csv", [("text", "label"), *rows, ("", "first")])


def judged(folder: Path) -> Path:
    place = folder / "mine"
    (place / "qrels").mkdir(parents=True)
    documents = [{"_id": f"d{i}", "title": noun, "text": LINES[i]} for i, noun in enumerate(NOUNS)]
    write_rows(place / "corpus.jsonl", documents)
    queries = [{"_id": f"q{i}", "text": noun} for i, noun in enumerate(NOUNS[:5])]
    write_rows(place / "queries.jsonl", queries)
    lines = ["query-id\tcorpus-id\tscore", *(f"q{i}\td{i}\t1" for i in range(5))]
    (place / "qrels" / "test.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return place


def classes(folder: Path) -> Path:
    names = [f"{name}/{i}.png" for name in ("grey_cat", "dog") for i in range(8)]
    pictures(folder / "classes", names)
    return folder / "classes"


def captions(folder: Path) -> Path:
    names = [f"{i}.png" for i in range(12)]
    pictures(folder, names)
    return write_table(
        folder / "pairs.csv", [(n, f"a picture of {i}") for i, n in enumerate(names)]
    )


def composed(folder: Path) -> Path:
    names = [f"{i}.png" for i in range(6)]
    pictures(folder, names)
    rows = [{"reference": a, "text": "is darker", "target": b} for a, b in pairwise(names)]
    lost = {"reference": "1.png", "text": "", "target": "0.png"}
    return write_rows(folder / "queries.jsonl", [*rows, lost])


def recordings(folder: Path) -> Path:
    said = ["open door", "shut shop"] * 3 + ["fly"]
    for i in range(len(said)):
        with wave.open(str(folder / f"{i}.wav"), "wb") as file:
            file.setparams((1, 2, 8000, 0, "NONE", ""))
            sound = 8000 * np.sin(np.arange(4000) * (0.05 + 0.01 * i))
            file.writeframes(sound.astype(np.int16).tobytes())
    rows = [{"audio": f"{i}.wav", "text": text, "intent": text} for i, text in enumerate(said)]
    return write_rows(folder / "manifest.jsonl", rows)


def clips(folder: Path) -> Path:
    pictures(folder, [f"clip/{i}.png" for i in range(3)])
    row = {"clip": "", "question": "What is red?", "answers": ["the cup", "the red door"]}
    said = [[0.0, 1.0, "The door is red."], [1.0, 2.0, "The cup is blue."]]
    rows = [{**row, "correct": place, "subtitles": said} for place in (1, 0)]
    return write_rows(folder / "questions.jsonl", [*rows, {**row, "correct": None}])


def questions(folder: Path) -> Path:
    rows = [
        {
            "question": f"What does a {n} do?",
            "best_answer": f"It {w}.",
            "correct": [f"It {w}."],
            "incorrect": ["It sings."],
        }
        for n, w in WORDS.items()
    ]
    return write_rows(folder / "questions.jsonl", rows)


def descriptions(folder: Path) -> Path:
    rows = [
        {
            "source": f"{line} It is old.",
            "target": f"old {noun}",
            "candidate": [f"a {noun}", "thing"],
        }
        for noun, line in zip(NOUNS, LINES, strict=True)
    ]
    return write_rows(folder / "rows.jsonl", rows)


def texts(folder: Path) -> Path:
    (folder / "texts.txt").write_text("\n".join(" ".join(LINES) for _ in range(3)), "utf-8")
    return folder / "texts.txt"


def log(folder: Path, items: list[str]) -> Path:
    rows = [
        {"user": f"u{i}", "items": [items[i], "no such item", items[i + 1], items[i + 2]]}
        for i in range(5)
    ]
    return write_rows(folder / "log.jsonl", [*rows, {"user": "new", "items": ["no such item"]}])


TEXT = {
    "pairs": (pairs, "spearman"),
    "labelled": (labelled, "accuracy"),
    "judged": (judged, "ndcg_at_10"),
}
SENTENCES = (
    "debcse",
    "defsent_plus",
    "esimcse",
    "mirror_bert",
    "multicsr",
    "simcse",
    "whitenedcse",
)
DENSE = ("ccp", "cocosoda", "contriever", "nv_embed", "rankgen", "vacancysbert")
CASES = [
    *((project, kind) for project in (*SENTENCES, "moe_embeddings") for kind in TEXT),
    *((project, kind) for project in DENSE for kind in TEXT),
    ("dse", "pairs"),
]


def judge(project: str, path: Path, folder: Path, config: str = "smoke", *words: str):
    """Metrics of the model before its training, and the folder of what is left behind."""
    torch.manual_seed(0)
    _, experiment = prepare(project, config, [f"eval.own={path}", *words])
    module = experiment.plan().module().eval()
    workspace = Workspace(folder / "eval", project, config)
    with torch.inference_mode():
        return experiment.evaluate(module, workspace), workspace


def galleries(workspace: Workspace) -> int:
    return len(list(workspace.path.glob("gallery/*/gallery.json")))


@pytest.mark.parametrize(
    ("project", "kind"),
    [project_param(p, kind, quick=kind == "pairs") for p, kind in CASES],
)
def test_texts(project, kind, tmp_path):
    make, metric = TEXT[kind]
    metrics, workspace = judge(project, make(tmp_path), tmp_path)
    prefix = {"pairs": "pairs_", "judged": "mine_"}
    name = metric if metric in metrics else f"{prefix[kind]}{metric}"
    assert -1 <= metrics[name] <= 1
    assert any(key.endswith(name) and key.startswith("untrained_") for key in metrics)
    assert any(key.endswith(name) and key.startswith(("tfidf_", "bm25_")) for key in metrics)
    counts = {key: value for key, value in metrics.items() if "num_" in key}
    expected = {"pairs": 24, "labelled": 16, "judged": 5}[kind]
    assert expected in counts.values()
    assert galleries(workspace)


@pytest.mark.parametrize("project", [project_param(p) for p in ("b_prop", "promptreps")])
def test_rankings_of_other_kinds(project, tmp_path):
    metrics, _ = judge(project, judged(tmp_path), tmp_path)
    assert (metrics["mine_num_queries"], metrics["mine_num_documents"]) == (5, 8)
    assert 0 <= metrics["mine_ndcg_at_10"] <= 1
    assert "bm25_mine_ndcg_at_10" in metrics


@pytest.mark.parametrize("project", [project_param(p) for p in ("cacr", "dcl", "hydra")])
def test_images_in_class_folders(project, tmp_path):
    metrics, workspace = judge(project, classes(tmp_path), tmp_path)
    assert (metrics["num_images"], metrics["num_bank_images"], metrics["num_classes"]) == (8, 8, 2)
    for row in ("", "untrained_", "raw_pixels_"):
        assert 0 <= metrics[f"{row}linear_probe_top1"] <= 1
    assert metrics["linear_probe_top1_chance"] == 0.5
    assert galleries(workspace) == 3


@pytest.mark.parametrize(
    "project", [project_param(p) for p in ("laclip", "clip_baselines", "cwcl", "mofi")]
)
def test_images_with_captions_or_classes(project, tmp_path):
    metrics, workspace = judge(project, captions(tmp_path), tmp_path)
    assert (metrics["num_images"], metrics["num_captions"], metrics["num_skipped"]) == (12, 12, 0)
    assert 0 <= metrics["pairs_recall_mean"] <= 1
    assert "untrained_pairs_recall_mean" in metrics
    assert galleries(workspace) == 4
    metrics, workspace = judge(project, classes(tmp_path / "more"), tmp_path / "more")
    assert (metrics["num_images"], metrics["num_classes"]) == (16, 2)
    assert {"zeroshot_top1", "untrained_zeroshot_top1", "zeroshot_top1_chance"} <= metrics.keys()
    assert galleries(workspace) == 3


FIELDS = {
    "rtd": (composed, {"num_queries": 5, "num_images": 6, "num_skipped": 1}, "recall_at_1"),
    "close": (captions, {"num_images": 12, "num_captions": 12, "num_skipped": 0}, "bleu_4"),
    "coconut": (recordings, {"num_recordings": 6, "num_skipped": 1, "num_classes": 2}, "accuracy"),
    "video_qa": (clips, {"num_questions": 2, "num_clips": 1, "num_skipped": 1}, "accuracy"),
}


@pytest.mark.parametrize("project", [project_param(p) for p in FIELDS])
def test_fields(project, tmp_path):
    make, counts, metric = FIELDS[project]
    words = ["model.streams=text"] if project == "video_qa" else []
    metrics, workspace = judge(project, make(tmp_path), tmp_path, "smoke", *words)
    assert {name: metrics[name] for name in counts} == counts
    assert metric in metrics
    assert f"untrained_{metric}" in metrics
    assert galleries(workspace) == 1


KNOWN = {
    "peft_augmentation": ("animals", "weather", "no such label"),
    "vega": ("0", "1", "no such label"),
    "demo_retrieval": ("animals", "Weather", "no such label"),
}


@pytest.mark.parametrize("project", [project_param(p, quick=False) for p in KNOWN])
def test_classifiers(project, tmp_path):
    rows = [(f"{line} {label}", label) for line in LINES[:4] for label in KNOWN[project]]
    path = write_table(tmp_path / "known.csv", [("text", "label"), *rows, ("", "x")])
    metrics, workspace = judge(project, path, tmp_path)
    assert (metrics["num_texts"], metrics["num_skipped"]) == (8, 5)
    assert metrics["accuracy_chance"] == 0.5
    for row in ("", "untrained_", "majority_", "tfidf_words_", "tfidf_chars_"):
        assert 0 <= metrics[f"{row}accuracy"] <= 1
    assert galleries(workspace) == 2


@pytest.mark.slow
def test_vectors_of_requests(tmp_path):
    for make, metric in (TEXT["pairs"], TEXT["labelled"]):
        metrics, workspace = judge("space2", make(tmp_path), tmp_path)
        assert {metric, f"untrained_{metric}", f"tfidf_{metric}"} <= metrics.keys()
        assert galleries(workspace)


def translated(folder: Path) -> Path:
    names = [f"{i}.png" for i in range(12)]
    pictures(folder, names)
    rows: list = [
        {"image_path": name, "caption": {"en": f"picture {i}", "de": f"Bild {i}"}}
        for i, name in enumerate(names)
    ]
    rows[0]["caption"]["de"] = ""
    return write_rows(folder / "captions.jsonl", [*rows, {"image_path": "0.png", "caption": {}}])


def boxes(folder: Path) -> Path:
    names = [f"{i}.png" for i in range(6)]
    pictures(folder, names)
    images = [{"id": i, "file_name": n, "height": 24, "width": 24} for i, n in enumerate(names)]
    annotations = [
        {"id": i, "image_id": i, "category_id": 1 + i % 2, "bbox": [2, 2, 8, 8]} for i in range(5)
    ]
    categories = [{"id": 1, "name": "red_cup"}, {"id": 2, "name": "blue cup"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "boxes.json").write_text(json.dumps(content), encoding="utf-8")
    return folder / "boxes.json"


IMAGES = [
    ("one_to_k", translated, {"num_images": 12, "num_captions": 23}, "recall_mean", 2),
    ("one_to_k", captions, {"num_images": 12, "num_captions": 12}, "recall_mean", 1),
    ("dito", boxes, {"num_images": 5, "num_boxes": 5, "num_skipped": 1}, "region_top1", 2),
    ("cosmo", captions, {"num_images": 12, "num_skipped": 0}, "mrr", 1),
]


@pytest.mark.slow
@pytest.mark.parametrize(("project", "make", "counts", "metric", "shown"), IMAGES)
def test_images_with_texts(project, make, counts, metric, shown, tmp_path):
    metrics, workspace = judge(project, make(tmp_path), tmp_path)
    assert {name: metrics[name] for name in counts} == counts
    assert {metric, f"untrained_{metric}", f"{metric}_chance"} <= metrics.keys()
    assert galleries(workspace) == shown


@pytest.mark.slow
def test_recordings_of_any_texts(tmp_path):
    metrics, _ = judge("cwcl", recordings(tmp_path), tmp_path, "smoke_speech")
    assert (metrics["num_recordings"], metrics["num_classes"]) == (7, 3)
    assert {"intent_top1", "untrained_intent_top1", "intent_top1_chance"} <= metrics.keys()


OTHERS = {
    "lol": (questions, "mc1"),
    "wikides": (descriptions, "rouge_1"),
    "contrastive_search": (texts, "diversity"),
}


@pytest.mark.slow
@pytest.mark.parametrize("project", OTHERS)
def test_files_that_settings_point_to(project, tmp_path):
    make, metric = OTHERS[project]
    metrics, _ = judge(project, make(tmp_path), tmp_path)
    assert any(metric in name for name in metrics), sorted(metrics)


def test_a_log_is_judged_over_the_items_of_the_training(tmp_path):
    from projects.mclrec.config import Config
    from projects.mclrec.data import load_sets
    from tests.configs import load

    items = load_sets(load(Config, "mclrec", "smoke", [])).log.items
    metrics, workspace = judge("mclrec", log(tmp_path, items), tmp_path)
    assert (metrics["num_users"], metrics["num_skipped_users"]) == (5, 1)
    assert (metrics["num_interactions"], metrics["num_unknown_interactions"]) == (21, 6)
    assert {"ndcg_at_10", "untrained_ndcg_at_10", "markov_ndcg_at_10"} <= metrics.keys()
    assert read_json(workspace.path / "gallery" / "next items" / "gallery.json")


@pytest.mark.slow
def test_every_layout_that_needs_a_function_has_one_in_some_config():
    from common.config import config_names
    from tests.contract.projects import PROJECTS
    from tests.contract.test_own_data import section

    for project in PROJECTS:
        needed = {k for k, judge in section(project).judges.items() if not judge.settings}
        smokes = [name for name in config_names(project) if name.startswith("smoke")]
        if needed:
            offered = {k for name in smokes for k in prepare(project, name, [])[1].judges}
            assert needed <= offered, f"{project}: {needed - offered}"
    assert Layout.PAIRS in section("simcse").judges


@pytest.mark.slow
def test_sequences_of_scans(tmp_path):
    random = np.random.default_rng(0)
    frames = {}
    for k in range(6):
        points = random.uniform(-8, 8, size=(400, 4)).astype(np.float32)
        points[:, 2] = random.uniform(-1, 1, size=400)
        points[:, 3] = random.uniform(0, 1, size=400)
        frames |= {f"points_{k}": points, f"pose_{k}": np.eye(4), f"time_{k}": 0.5 * k}
    (tmp_path / "scans").mkdir()
    np.savez(tmp_path / "scans" / "drive.npz", **frames)
    metrics, _ = judge("trend", tmp_path / "scans", tmp_path)
    assert metrics["num_windows"] > metrics["num_skipped"] == 0
    assert metrics["forecast_l1"] > 0
    assert {"copy_frame_forecast_l1", "untrained_forecast_l1"} <= metrics.keys()
    assert not any(name.startswith("map_") for name in metrics)  # no box is in the file
