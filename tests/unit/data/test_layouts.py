"""A user's file or folder is recognised by what it holds."""

import gzip
import json

import pytest
from PIL import Image

from common.config import UserError
from common.data.layouts import Layout, layout_of

TABLES = {
    "sentence1,sentence2,score\na,b,1\n": Layout.PAIRS,
    "left,right,gold\na,b,0.5\n": Layout.PAIRS,
    "left,right,gold\na,b,\n": Layout.PAIRS,
    "first,second,label\na,b,same\n": Layout.LABELLED_PAIRS,
    "one,two,kind\na,b,same\n": Layout.LABELLED_PAIRS,
    "text,label\nhello,greeting\n": Layout.LABELLED,
    "sentence,topic\nhello,greeting\n": Layout.LABELLED,
    "a.png,a cat\nb.JPG,a dog\n": Layout.CAPTIONS,
    "image,caption\na.png,a cat\n": Layout.CAPTIONS,
    "user,item,timestamp\n1,2,3\n": Layout.LOG,
    "Question,Best Answer,Incorrect Answers\nq,a,b\n": Layout.QUESTIONS,
}
ROWS = {
    Layout.PAIRS: {"sentence1": "a", "sentence2": "b", "score": 1},
    Layout.LABELLED: {"text": "a", "label": "b"},
    Layout.LOG: {"user": "u", "items": ["a", "b"]},
    Layout.MULTILINGUAL: {"image_path": "a.png", "caption": {"en": "a"}},
    Layout.COMPOSED: {"reference": "a.png", "text": "redder", "target": "b.png"},
    Layout.RECORDINGS: {"audio": "a.wav", "text": "hello", "intent": "greet"},
    Layout.CLIPS: {"clip": "c", "question": "q", "answers": ["a", "b"]},
    Layout.ADVERTS: {"title": "t", "skills": ["s"], "normalized_title": "n"},
    Layout.DESCRIPTIONS: {"source": "s", "target": "t", "candidate": ["c"]},
    Layout.CODE: {"code": "c", "docstring": "d"},
    Layout.TEXTS: {"text": "a"},
}


@pytest.mark.parametrize(("text", "layout"), TABLES.items())
def test_tables(text, layout, tmp_path):
    (tmp_path / "file.csv").write_text(text, encoding="utf-8")
    assert layout_of(tmp_path / "file.csv") is layout
    (tmp_path / "file.tsv").write_text(text.replace(",", "\t"), encoding="utf-8")
    assert layout_of(tmp_path / "file.tsv") is layout


@pytest.mark.parametrize(("layout", "row"), ROWS.items(), ids=lambda x: getattr(x, "name", ""))
def test_json_lines(layout, row, tmp_path):
    line = json.dumps(row) + "\n"
    (tmp_path / "file.jsonl").write_text(line, encoding="utf-8")
    assert layout_of(tmp_path / "file.jsonl") is layout
    (tmp_path / "file.jsonl.gz").write_bytes(gzip.compress(line.encode()))
    assert layout_of(tmp_path / "file.jsonl.gz") is layout


def test_annotated_images(tmp_path):
    content = {"images": [], "annotations": [], "categories": [], "info": {}}
    (tmp_path / "file.json").write_text(json.dumps(content), encoding="utf-8")
    assert layout_of(tmp_path / "file.json") is Layout.BOXES
    (tmp_path / "file.json").write_text(json.dumps({"images": []}), encoding="utf-8")
    with pytest.raises(UserError, match="is none of"):
        layout_of(tmp_path / "file.json")
    (tmp_path / "file.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="not valid JSON"):
        layout_of(tmp_path / "file.json")


def test_folders(tmp_path):
    names = ("beir", "classes", "drives", "scans")
    beir, classes, drives, scans = folders = [tmp_path / name for name in names]
    for folder in (beir, classes / "cat", drives / "2011_09_26" / "drive_0001_sync", scans):
        folder.mkdir(parents=True)
    (beir / "corpus.jsonl.gz").write_bytes(b"")
    Image.new("RGB", (4, 4)).save(classes / "cat" / "1.png")
    (scans / "0.npz").write_bytes(b"")
    assert [layout_of(folder) for folder in folders] == [
        Layout.JUDGED,
        Layout.CLASSES,
        Layout.DRIVES,
        Layout.SCANS,
    ]


@pytest.mark.parametrize("name", ["file.pdf", "empty.csv", "odd.jsonl", "images"])
def test_anything_else_is_refused_with_the_layouts(name, tmp_path):
    path = tmp_path / name
    if name == "images":  # not in class folders
        path.mkdir()
        Image.new("RGB", (4, 4)).save(path / "1.png")
    else:
        path.write_text('{"a": 1}\n' if name == "odd.jsonl" else "", encoding="utf-8")
    with pytest.raises(UserError, match=r"is none of: judged queries .*docs/your-data\.md"):
        layout_of(path)
