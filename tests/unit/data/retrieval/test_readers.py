"""Public layouts of training sets -> records."""

import gzip
import json
import tracemalloc
from typing import get_args

import pytest

from common.config import UserError
from common.data.retrieval.readers import Layout, read_labels, read_records, read_table
from common.data.retrieval.records import EmbeddingRecord, nli_records
from projects.nv_embed.data.records import read_task
from projects.nv_embed.data.registry import MTEB_TASKS, TRAINING_SETS, known_set, mteb_prompts


def lines(path, rows):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def test_beir(tmp_path):
    docs = [{"_id": "1", "title": "T", "text": "one"}, {"_id": "2", "title": "", "text": "two"}]
    lines(tmp_path / "corpus.jsonl.gz", docs)
    lines(tmp_path / "queries.jsonl", [{"_id": "q", "text": "ask"}, {"_id": "r", "text": "other"}])
    (tmp_path / "qrels").mkdir()
    rows = "query-id\tcorpus-id\tscore\nq\t1\t1\nq\t2\t2\nr\t1\t0\n"
    (tmp_path / "qrels/train.tsv").write_text(rows)
    assert read_records(tmp_path, "beir") == [EmbeddingRecord("ask", ("T one", "two"))]


def write_beir(folder, docs, qrels):
    lines(folder / "corpus.jsonl", docs)
    lines(folder / "queries.jsonl", [{"_id": "q", "text": "ask"}, {"_id": "r", "text": "other"}])
    (folder / "qrels").mkdir(exist_ok=True)
    rows = "".join("\t".join(row.split()) + "\n" for row in qrels)
    (folder / "qrels/train.tsv").write_text("query-id\tcorpus-id\tscore\n" + rows)
    return folder


def test_beir_with_a_few_unknown_documents(tmp_path, caplog):
    """One in 299 stopped the run; a query that has no other positive gives no example."""
    docs = [{"_id": str(i), "title": "T", "text": f"text {i}"} for i in range(298)]
    judged = [f"q {i} 1" for i in range(298)]
    write_beir(tmp_path, docs, ["r gone 1", *judged])
    assert [(r.query, len(r.positives)) for r in read_records(tmp_path, "beir")] == [("ask", 298)]
    assert "judges 1 documents" in caplog.text
    write_beir(tmp_path, docs, ["r gone 1", *judged[:10]])
    with pytest.raises(UserError, match="judges document 'gone'"):
        read_records(tmp_path, "beir")
    with pytest.raises(UserError, match="judges query 'nobody'"):
        read_records(write_beir(tmp_path, docs, ["nobody 1 1"]), "beir")


def test_beir_texts_that_are_null(tmp_path):
    """They became the word "None"."""
    docs = [{"_id": "1", "title": "T", "text": None}, {"_id": "2", "title": None, "text": "two"}]
    write_beir(tmp_path, docs, ["r 1 1", "q 2 1"])
    assert read_records(tmp_path, "beir") == [
        EmbeddingRecord("other", ("T",)),
        EmbeddingRecord("ask", ("two",)),
    ]
    lines(tmp_path / "queries.jsonl", [{"_id": "q", "text": None}, {"_id": "r", "text": "other"}])
    with pytest.raises(UserError, match="query 'q' has no text"):
        read_records(tmp_path, "beir")


def test_beir_holds_what_is_judged_only(tmp_path):
    """The passages of MS MARCO took 12.6 GB."""
    docs = [{"_id": str(i), "title": "", "text": f"{i} " + "word " * 500} for i in range(1000)]
    write_beir(tmp_path, docs, ["q 17 1", "q 4 0"])
    tracemalloc.start()
    (actual,) = read_records(tmp_path, "beir")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert actual.positives[0].startswith("17 word")
    assert peak < 0.5e6  # all of them: 2.5 MB


def test_pairs(tmp_path):
    rows = [
        ["a", "b"],
        ["a", "b", "c"],
        {"query": "q", "pos": ["p"], "neg": ["n", "m"]},
        {"query": "q", "pos": "p"},
        {"set": ["x", "y", "z"]},
    ]
    actual = read_records(lines(tmp_path / "pairs.jsonl.gz", rows), "pairs")
    assert [(r.query, r.positives, r.negatives) for r in actual] == [
        ("a", ("b",), ()),
        ("a", ("b",), ("c",)),
        ("q", ("p",), ("n", "m")),
        ("q", ("p",), ()),
        ("x", ("y",), ()),
        ("x", ("z",), ()),
    ]


def test_dpr_tevatron_and_squad(tmp_path):
    passage = {"title": "T", "text": "t"}
    dpr = [
        {"question": "q", "positive_ctxs": [passage], "hard_negative_ctxs": [{"text": "n"}]},
        {"question": "none", "positive_ctxs": []},
    ]
    (tmp_path / "dpr.json").write_text(json.dumps(dpr))
    assert read_records(tmp_path / "dpr.json", "dpr") == [EmbeddingRecord("q", ("T t",), ("n",))]
    row = {"query": "q", "positive_passages": [passage], "negative_passages": [{"text": "n"}]}
    actual = read_records(lines(tmp_path / "t.jsonl", [row]), "tevatron")
    assert actual == [EmbeddingRecord("q", ("T t",), ("n",))]
    squad = {"data": [{"paragraphs": [{"context": "c", "qas": [{"question": " who? "}]}]}]}
    (tmp_path / "squad.json").write_text(json.dumps(squad))
    assert read_records(tmp_path / "squad.json", "squad") == [EmbeddingRecord("who?", ("c",))]
    asked = squad["data"][0]["paragraphs"][0]["qas"]  # 2.0 has such
    asked += [
        {"question": "why?", "is_impossible": True},
        {"question": "how?", "is_impossible": False},
    ]
    (tmp_path / "squad.json").write_text(json.dumps(squad))
    assert [r.query for r in read_records(tmp_path / "squad.json", "squad")] == ["who?", "how?"]


def test_nli_and_sts(tmp_path):
    rows = [
        {"sentence1": "p", "sentence2": h, "gold_label": g}
        for h, g in (("e", "entailment"), ("c", "contradiction"), ("n", "neutral"), ("x", "-"))
    ]
    actual = read_records(lines(tmp_path / "nli.jsonl", rows), "nli")
    assert actual == [EmbeddingRecord("p", ("e",), ("c", "n"))]
    assert nli_records([("p", "c", "contradiction")]) == []
    (tmp_path / "sts.tsv").write_text("sentence1\tsentence2\tscore\na\tb\t4.5\nc\td\t1\n")
    assert len(read_records(tmp_path / "sts.tsv", "sts")) == 2
    (tmp_path / "bad.tsv").write_text("x\ty\n1\t2\n")
    with pytest.raises(UserError, match="needs the columns"):
        read_records(tmp_path / "bad.tsv", "sts")


def test_labels(tmp_path):
    (tmp_path / "c.csv").write_text("text,label,label_text\na,0,joy\nb,1,fear\n")
    assert read_labels(tmp_path / "c.csv", "labelled") == (["a", "b"], ["joy", "fear"])
    rows = [{"sentences": ["a", "b"], "labels": ["x", "y"]}, {"sentences": ["c"], "labels": ["x"]}]
    actual = read_labels(lines(tmp_path / "k.jsonl", rows), "clusters")
    assert actual == (["a", "b", "c"], ["x", "y", "x"])
    with pytest.raises(UserError, match="layout 'clusters'"):
        read_labels(tmp_path / "c.csv", "clusters")
    for broken in ({"text": "b"}, {"text": "b", "label": None}, {"text": "b", "label": " "}):
        path = lines(tmp_path / "b.jsonl", [{"text": "a", "label": 0}, broken])
        with pytest.raises(UserError, match="no label_text or label for 'b'"):
            read_labels(path, "labelled")


@pytest.mark.parametrize("layout", ["beir", "dpr", "pairs", "tevatron", "squad", "nli"])
def test_a_missing_file_and_one_of_another_layout_are_named(tmp_path, layout):
    with pytest.raises(UserError, match=r"none.jsonl.* (does not exist|is missing)"):
        read_records(tmp_path / "none.jsonl", layout)
    if layout != "beir":
        path = tmp_path / "x.jsonl"
        path.write_text('{"a": 1}\n')
        with pytest.raises(UserError, match=r"x.jsonl"):
            read_records(path, layout)


@pytest.mark.parametrize(
    ("layout", "row"),
    [
        ("pairs", ["a", None]),
        ("pairs", {"query": None, "pos": ["p"]}),
        ("tevatron", {"query": "q", "positive_passages": [{"title": "T", "text": None}]}),
        ("sts", {"sentence1": None, "sentence2": "b", "score": 5}),
        ("nli", {"sentence1": "p", "sentence2": None, "gold_label": "entailment"}),
        ("labelled", {"text": None, "label": "a"}),
        ("clusters", {"sentences": ["a", None], "labels": ["x", "y"]}),
        ("clusters", {"sentences": ["a", "b"], "labels": ["x", None]}),
    ],
)
def test_a_text_that_is_null_is_refused(tmp_path, layout, row):
    """Some became the word "None"."""
    read = read_labels if layout in ("labelled", "clusters") else read_records
    with pytest.raises(UserError, match=f"not of the layout '{layout}'"):
        read(lines(tmp_path / "x.jsonl", [row]), layout)


def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path):
    (tmp_path / "pairs.jsonl").write_text('["a", "b"]\n', "utf-8-sig")
    assert read_records(tmp_path / "pairs.jsonl", "pairs") == [EmbeddingRecord("a", ("b",))]


def test_unified_records_of_one_text_and_of_numbered_classes(tmp_path):
    """A text became its characters, and class 0 none."""
    row = {
        "task": "t",
        "instruction": "i",
        "query": "q",
        "pos": "a text",
        "neg": [],
        "symmetric": True,
    }
    rows = [row | {"label": label} for label in (0, 1, "two", None)]
    actual = read_task(lines(tmp_path / "t.jsonl", rows)).records
    assert [(r.positives, r.label) for r in actual] == [
        (("a text",), "0"),
        (("a text",), "1"),
        (("a text",), "two"),
        (("a text",), None),
    ]
    for broken in ({"pos": None}, {"pos": [None]}, {"query": None}):
        with pytest.raises(UserError, match=r"t\.jsonl: "):
            read_task(lines(tmp_path / "t.jsonl", [row | broken]))


def test_unknown_kinds(tmp_path):
    with pytest.raises(UserError, match="has no records"):
        read_records(tmp_path, "labelled")
    with pytest.raises(UserError, match="has no classes"):
        read_labels(tmp_path, "beir")
    with pytest.raises(UserError, match="expected a .jsonl"):
        read_table(tmp_path / "x.xml")


def test_registry():
    """Instruction for every set; the 56 English MTEB tasks by type; symmetric ones on both
    sides."""
    assert all(
        known.instruction and known.layout in get_args(Layout) for known in TRAINING_SETS.values()
    )
    assert [len(tasks) for tasks in MTEB_TASKS.values()] == [15, 12, 11, 3, 4, 10, 1]
    prompts = mteb_prompts()
    assert "QuoraRetrieval" in prompts
    assert "NQ-query" in prompts
    assert "NQ" not in prompts
    forums = [name for name in prompts if name.startswith("CQADupstack")]  # encoded as tasks
    assert len(forums) == 1 + 12
    assert {"CQADupstackAndroidRetrieval", "CQADupstackWordpressRetrieval"} < {*forums}
    assert len({prompts[name] for name in forums}) == 1
    with pytest.raises(UserError, match="did you mean 'fiqa'"):
        known_set("fiqua")
