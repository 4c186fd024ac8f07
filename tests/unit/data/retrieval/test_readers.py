"""Public layouts of training sets -> records."""

import gzip
import json

import pytest

from common.config import UserError
from common.data.retrieval.readers import LAYOUTS, read_labels, read_records, read_table
from common.data.retrieval.records import EmbeddingRecord, nli_records
from common.data.retrieval.registry import MTEB_TASKS, TRAINING_SETS, known_set, mteb_prompts


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


def test_pairs(tmp_path):
    rows = [["a", "b"], ["a", "b", "c"], {"query": "q", "pos": ["p"], "neg": ["n", "m"]},
            {"query": "q", "pos": "p"}, {"set": ["x", "y", "z"]}]  # fmt: skip
    found = read_records(lines(tmp_path / "pairs.jsonl.gz", rows), "pairs")
    assert [(r.query, r.positives, r.negatives) for r in found] == [
        ("a", ("b",), ()), ("a", ("b",), ("c",)), ("q", ("p",), ("n", "m")), ("q", ("p",), ()),
        ("x", ("y",), ()), ("x", ("z",), ()),
    ]  # fmt: skip


def test_dpr_tevatron_and_squad(tmp_path):
    passage = {"title": "T", "text": "t"}
    dpr = [{"question": "q", "positive_ctxs": [passage], "hard_negative_ctxs": [{"text": "n"}]},
           {"question": "none", "positive_ctxs": []}]  # fmt: skip
    (tmp_path / "dpr.json").write_text(json.dumps(dpr))
    assert read_records(tmp_path / "dpr.json", "dpr") == [EmbeddingRecord("q", ("T t",), ("n",))]
    row = {"query": "q", "positive_passages": [passage], "negative_passages": [{"text": "n"}]}
    found = read_records(lines(tmp_path / "t.jsonl", [row]), "tevatron")
    assert found == [EmbeddingRecord("q", ("T t",), ("n",))]
    squad = {"data": [{"paragraphs": [{"context": "c", "qas": [{"question": " who? "}]}]}]}
    (tmp_path / "squad.json").write_text(json.dumps(squad))
    assert read_records(tmp_path / "squad.json", "squad") == [EmbeddingRecord("who?", ("c",))]


def test_nli_and_sts(tmp_path):
    rows = [{"sentence1": "p", "sentence2": h, "gold_label": g}
            for h, g in (("e", "entailment"), ("c", "contradiction"), ("n", "neutral"), ("x", "-"))]  # fmt: skip
    found = read_records(lines(tmp_path / "nli.jsonl", rows), "nli")
    assert found == [EmbeddingRecord("p", ("e",), ("c", "n"))]
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
    found = read_labels(lines(tmp_path / "k.jsonl", rows), "clusters")
    assert found == (["a", "b", "c"], ["x", "y", "x"])
    with pytest.raises(UserError, match="layout 'clusters'"):
        read_labels(tmp_path / "c.csv", "clusters")
    for broken in ({"text": "b"}, {"text": "b", "label": None}, {"text": "b", "label": " "}):
        path = lines(tmp_path / "b.jsonl", [{"text": "a", "label": 0}, broken])
        with pytest.raises(UserError, match="no label_text or label for 'b'"):
            read_labels(path, "labelled")


@pytest.mark.parametrize("layout", ["beir", "dpr", "pairs", "tevatron", "squad", "nli"])
def test_a_missing_file_and_one_of_another_layout_are_named(tmp_path, layout):
    with pytest.raises(UserError, match="does not exist"):
        read_records(tmp_path / "none.jsonl", layout)
    if layout != "beir":
        path = tmp_path / "x.jsonl"
        path.write_text('{"a": 1}\n')
        with pytest.raises(UserError, match=r"x.jsonl"):
            read_records(path, layout)


def test_unknown_kinds(tmp_path):
    with pytest.raises(UserError, match="holds no records"):
        read_records(tmp_path, "labelled")
    with pytest.raises(UserError, match="holds no classes"):
        read_labels(tmp_path, "beir")
    with pytest.raises(UserError, match="expected a .jsonl"):
        read_table(tmp_path / "x.xml")


def test_registry():
    """Instruction for every set; the 56 English MTEB tasks by type; symmetric ones on both sides."""
    assert all(known.instruction and known.layout in LAYOUTS for known in TRAINING_SETS.values())
    assert [len(tasks) for tasks in MTEB_TASKS.values()] == [15, 12, 11, 3, 4, 10, 1]
    prompts = mteb_prompts()
    assert "QuoraRetrieval" in prompts
    assert "NQ-query" in prompts
    assert "NQ" not in prompts
    with pytest.raises(UserError, match="did you mean 'fiqa'"):
        known_set("fiqua")
