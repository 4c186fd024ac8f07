"""Rows with wrong values: each reader of own data reads them or refuses them in one sentence.

`test_mutations` damages bytes; here the files stay JSON or tables, and what is in them is wrong.
"""

import csv
import importlib
import io
import json
from dataclasses import is_dataclass
from typing import get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.config import UserError

DPR = {"question": "q", "positive_ctxs": [{"title": "t", "text": "p"}], "negative_ctxs": []}
ANSWERS = {f"a{i}": f"answer {i}" for i in range(5)}
COCO = {
    "categories": [{"id": 1, "name": "cat", "frequency": "c"}],
    "images": [{"id": 7, "file_name": "0.jpg", "width": 9, "height": 9}],
    "annotations": [
        {
            "id": 1,
            "image_id": 7,
            "category_id": 1,
            "bbox": [1, 1, 4, 4],
            "area": 16,
            "segmentation": [[1, 1, 5, 1, 5, 5]],
        }
    ],
}
ITEM = {
    "wikidata_id": "Q1",
    "label": "a",
    "description": "a town",
    "instances": [["Q2", "town"]],
    "first_paragraph": "A is a town.",
}

LINES = {  # of JSON lines: reader -> rows
    "common.data.tables:read_jsonl": [{"text": "a", "label": 1}],
    "common.data.text.labelled.own_texts:read_own_texts": [{"text": "a", "label": "x"}],
    "common.data.text.sets:load_scored_pairs": [
        {"sentence1": "a", "sentence2": "b", "score": 1.5},
        {"sentence1": "c", "sentence2": "d", "score": 3},
    ],
    "common.data.retrieval.readers:read_dpr": [DPR],
    "common.data.retrieval.passages:read_passages": [DPR],
    "common.data.retrieval.readers:read_records dpr": [DPR],
    "common.data.retrieval.readers:read_records pairs": [{"query": "q", "pos": ["p"], "neg": []}],
    "common.data.retrieval.readers:read_records tevatron": [
        {"query": "q", "positive_passages": [{"title": "t", "text": "p"}]}
    ],
    "common.data.retrieval.readers:read_records nli": [
        {"sentence1": "a", "sentence2": "b", "gold_label": "entailment"},
        {"sentence1": "a", "sentence2": "c", "gold_label": "contradiction"},
    ],
    "common.data.retrieval.readers:read_records sts": [
        {"sentence1": "a", "sentence2": "b", "score": 4.5}
    ],
    "common.data.retrieval.readers:read_labels labelled": [{"text": "a", "label": "x"}],
    "common.data.retrieval.readers:read_labels clusters": [{"sentences": ["a"], "labels": ["x"]}],
    "projects.mofi.build_set:read_input": [{"image": "0.png", "alt_text": "a", "title": "b"}],
    "projects.dse.pair_scores:read_scores": [{"first": "a", "second": "b", "logits": [0.5, 1]}],
    "projects.nv_embed.data.records:read_task": [
        {
            "task": "t",
            "instruction": "i",
            "query": "q",
            "pos": ["p"],
            "neg": ["n"],
            "symmetric": False,
            "label": "x",
        }
    ],
    "projects.promptreps.lexical.impact_files:read_impacts": [{"id": "1", "vector": {"a": 3}}],
    "projects.video_qa.clips.tv_sets:read_tvqa": [
        {"qid": 1, "vid_name": "v", "q": "who", "answer_idx": 0, "ts": "1.0-2.5", **ANSWERS}
    ],
    "projects.video_qa.clips.tv_sets:read_objects": [{"clip": "v", "labels": [["cat"]]}],
    "projects.vacancysbert.normalisation:read_title_rows": [
        {
            "title": "a",
            "normalized_title": "b",
            "skills": ["c"],
            "other_skills": {"x": ["d"]},
            "part": "val",
        }
    ],
    "projects.mclrec.interactions:read_log": [{"user": "u", "items": ["a", "b"]}],
    "projects.wikides.collect:read_items": [ITEM],
    "projects.wikides.data:read_rows ranking": [{"source": "a", "target": "b", "candidate": ["c"]}],
    "projects.rankgen.identification:load_identification": [
        {"prefix": "a", "suffix": "b", "negatives": ["c"]},
        {"ctx": "a", "endings": ["b", "c"], "label": 0},
    ],
    "projects.demo_retrieval.bank:read_bank": [
        {"question": "q", "answers": ["a"], "context": "c", "task": "t"}
    ],
    "projects.demo_retrieval.sources:read_mrqa squad": [
        {"header": {}},
        {"context": "c", "qas": [{"qid": "1", "question": "q", "answers": ["a"]}]},
    ],
    "projects.rtd.triplets:read_triplets": [
        {"reference_caption": "a", "conditioning_caption": "b", "target_caption": "c"}
    ],
}
WHOLE = {  # one JSON value: reader -> value
    "common.data.retrieval.readers:read_records squad": {
        "data": [{"paragraphs": [{"context": "c", "qas": [{"question": "q"}]}]}]
    },
    "projects.rtd.oti:read_phrases": {"cat": ["a cat"]},
    "projects.video_qa.clips.tv_sets:read_dramaqa": [
        {"qid": 1, "vid": "v", "que": "q", "answers": ["a", "b", "c", "d", "e"], "correct_idx": 0}
    ],
    "projects.video_qa.clips.clips:read_subtitles": [
        {"speaker": "a", "text": "b", "start": 0, "end": 1.5}
    ],
    "projects.video_qa.descriptions:read_description": {
        "subtitles": [{"start": 0, "end": 1, "text": "b"}],
        "questions": [{"question": "q", "candidates": ["a", "b"]}],
        "objects": [["cat"]],
        "fps": 3,
    },
    "projects.space2.dialogs.turns:read_dialogs": {
        "d": {"turns": [{"role": "user", "text": "a", "label": {}}]}
    },
    "projects.dito.coco:read_coco coco": COCO,
}
TABLES = {  # reader -> suffix, rows with the header first
    "common.data.tables:read_csv": ("csv", [["a", "b"], ["1", "2"]]),
    "common.data.text.sets:load_text_rows": ("csv", [["a", "b"], ["x", "y"]]),
    "common.data.text.sets:load_scored_pairs": (
        "tsv",
        [["sentence1", "sentence2", "score"], ["a", "b", "1"], ["c", "d", "2"]],
    ),
    "projects.mofi.data:read_entities": (
        "tsv",
        [["id", "name", "description", "count"], ["Q1", "a", "b", "3"]],
    ),
    "projects.mofi.knowledge:read_knowledge": (
        "tsv",
        [["id", "name", "description", "prior", "aliases"], ["Q1", "a", "b", "0.5", "c|d"]],
    ),
    "projects.close.pairs:own_pairs": ("csv", [["0.png", "a cat"], ["1.png", "a dog"]]),
    "projects.multicsr.graded_triplets:read_triplets": (
        "csv",
        [["sent0", "sent1", "hard_neg"], ["a", "b", "c"]],
    ),
    "projects.mclrec.interactions:read_log": (
        "csv",
        [["user", "item", "timestamp"], ["u", "a", "1"], ["u", "b", "2"]],
    ),
    "projects.rankgen.preference:read_answers": (
        "csv",
        [["InstanceNum", "Order", "Choice", "Explanation"], ["1", "x,y", "1", "better"]],
    ),
    "projects.rankgen.tasks:read_prefixes": ("csv", [["one"], ["two"]]),
    "projects.mirror_bert.word_similarity:load_word_pairs": (
        "tsv",
        [["word1", "word2", "POS", "SimLex999"], ["a", "b", "N", "3.5"]],
    ),
    "projects.demo_retrieval.bank:read_passages": ("csv", [["one passage"]]),
    "projects.vacancysbert.normalisation:read_candidates": ("csv", [["one title"]]),
}
EXTRA = {  # further arguments of a reader by the word after its name
    "dpr": {"layout": "dpr"},
    "pairs": {"layout": "pairs"},
    "tevatron": {"layout": "tevatron"},
    "nli": {"layout": "nli"},
    "sts": {"layout": "sts"},
    "labelled": {"layout": "labelled"},
    "clusters": {"layout": "clusters"},
    "ranking": {"ranking": True},
    "squad": {"layout": "squad"},
    "coco": {"novel": "none", "training": True, "masks": True},
}
VALUES = [None, "", " ", "x", "\0", 5, -1, 1.5, 1e400, True, [], {}, [None], ["x"], {"x": None}]
CELLS = ["", " ", "x", "-1", "nan", "1e400", '"', "a\rb", "\0", "x" * 200_000]


def read(name, path):
    """The result of a reader."""
    place, _, kind = name.partition(" ")
    module, function = place.split(":")
    options = {"task": "squad"} if function == "read_mrqa" else EXTRA.get(kind, {})
    return getattr(importlib.import_module(module), function)(path, **options)


def places(value, path=()):
    """Paths of all values inside a JSON value, itself first."""
    yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*path, key))


def changed(value, path, kind, new):
    """A JSON value with one place inside it replaced, removed or doubled."""
    if not path:
        return new
    value, (key, *rest) = json.loads(json.dumps(value)), path
    if rest:
        value[key] = changed(value[key], rest, kind, new)
    elif kind == "remove":
        del value[key]
    elif kind == "double" and isinstance(value, list):
        value.insert(key, value[key])
    else:
        value[key] = new
    return value


CHANGES = st.lists(
    st.tuples(
        st.integers(0, 10**6),
        st.sampled_from(["replace", "replace", "remove", "double"]),
        st.sampled_from(VALUES),
    ),
    min_size=1,
    max_size=2,
)


def mutate(value, changes):
    for place, kind, new in changes:
        paths = list(places(value))
        value = changed(value, paths[place % len(paths)], kind, new)
    return value


def refused_or_read(name, path):
    said, result = "", None
    try:
        result = read(name, path)
    except UserError as error:
        said = str(error)
    assert "\n" not in said
    assert "'None'" not in repr(result), "a null has become a text"
    assert list(other_than_text(result)) == []


def other_than_text(value):
    """Fields of records in a result that are declared as text and hold something else."""
    if isinstance(value, list | tuple | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from other_than_text(each)
    if is_dataclass(value) or hasattr(value, "_fields"):
        for name, hint in get_type_hints(type(value)).items():
            field = getattr(value, name, "")
            yield from other_than_text(field)
            texts = field if hint == tuple[str, ...] else [field] if hint is str else []
            yield from ((name, text) for text in texts if not isinstance(text, str))


def to_lines(rows):
    rows = rows if isinstance(rows, list) else [rows]
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("rows")


@pytest.mark.parametrize("name", LINES)
@given(changes=CHANGES)
def test_lines_with_wrong_values_are_read_or_refused(folder, name, changes):
    path = folder / "rows.jsonl"
    path.write_text(to_lines(mutate(LINES[name], changes)), encoding="utf-8")
    refused_or_read(name, path)


@pytest.mark.parametrize("name", WHOLE)
@given(changes=CHANGES)
def test_json_with_wrong_values_is_read_or_refused(folder, name, changes):
    path = folder / "whole.json"
    path.write_text(json.dumps(mutate(WHOLE[name], changes)), encoding="utf-8")
    refused_or_read(name, path)


def table(rows, suffix):
    file = io.StringIO()
    csv.writer(file, delimiter="\t" if suffix == "tsv" else ",").writerows(rows)
    return file.getvalue()


@pytest.mark.parametrize("name", TABLES)
@given(
    row=st.integers(0, 9),
    column=st.integers(0, 9),
    cells=st.lists(st.sampled_from(CELLS), max_size=2),
    raw=st.sampled_from(["", "\n", '"', "\t,", "\xff"]),
)
def test_tables_with_wrong_cells_are_read_or_refused(folder, name, row, column, cells, raw):
    """A cell is replaced by none, one or two others; something else than a table follows."""
    suffix, rows = TABLES[name]
    rows = [list(each) for each in rows]
    line = rows[row % len(rows)]
    line[column % len(line) : column % len(line) + 1] = cells
    path = folder / f"table.{suffix}"
    path.write_bytes((table(rows, suffix) + raw).encode("latin-1"))
    refused_or_read(name, path)


@pytest.mark.parametrize(
    ("name", "file", "text"),
    [
        *((name, "rows.jsonl", to_lines(rows)) for name, rows in LINES.items()),
        *((name, "whole.json", json.dumps(value)) for name, value in WHOLE.items()),
        *((name, f"t.{suffix}", table(rows, suffix)) for name, (suffix, rows) in TABLES.items()),
    ],
)
def test_what_is_right_is_read(tmp_path, name, file, text):
    """Else the others would pass because everything is refused."""
    (tmp_path / file).write_text(text, encoding="utf-8")
    assert read(name, tmp_path / file)


def test_a_number_is_no_name_of_an_image(tmp_path):
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(COCO | {"images": [{"id": 7, "file_name": 5}]}), encoding="utf-8")
    with pytest.raises(UserError, match="the file_name 5 is not a text"):
        read("projects.dito.coco:read_coco coco", path)
