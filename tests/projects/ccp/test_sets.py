"""Official files of the sets, and the commands of the card: checklist item 17."""

import gzip
import json

import pytest

from common.config import UserError
from common.data.retrieval.passages import read_passages
from common.engine.workspace import Workspace
from common.evaluation.retrieval.beir import load_beir, load_corpus
from projects.ccp import build
from projects.ccp.evaluate import xor_questions
from tests.projects.ccp.conftest import config


def test_official_files_of_the_sets_become_those_of_the_evaluation(tmp_path):
    """Mr. TyDi 1.1 of a language, XOR-Retrieve with DPR's passages; quotes, titles, a line of
    another layout.
    """
    source = tmp_path / "in"
    source.mkdir()
    (source / "docs.jsonl").write_text(
        json.dumps({"id": "1#0", "contents": 'Title\n\nFirst "text".'})
        + "\n"
        + json.dumps({"id": 2, "contents": "No title."})
        + "\n"
    )
    (source / "topic.test.tsv").write_text('7\tWho said "no?\n8\tWhen?\n')
    (source / "qrels.test.txt").write_text("7 Q0 1#0 1\n8 Q0 2 1\n")
    wiki = tmp_path / "wiki"
    wiki.mkdir()
    with gzip.open(wiki / "enwiki_20190201_w100.tsv.gz", "wt") as file:
        file.write('id\ttext\ttitle\n0\t"She said ""no""."\tTitle\n')
    rows = [
        {"id": i, "question": "q", "answers": ["no"], "lang": lang}
        for i, lang in enumerate(["ar", "te", "ar"])
    ]
    (wiki / "xor_dev_retrieve_v1_1.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))

    def run(kind, part):
        words = [
            f"sets.{k}={v}"
            for k, v in {
                "kind": kind,
                "part": part,
                "input": source if kind == "mrtydi" else wiki,
                "output": tmp_path / kind,
            }.items()
        ]
        return build(config(*words)).tasks["sets"](Workspace(tmp_path / "task"))

    run("mrtydi", "test")
    data = load_beir(tmp_path / "mrtydi")
    assert data.corpus == {"1#0": 'Title First "text".', "2": "No title."}
    assert data.queries == {"7": 'Who said "no?', "8": "When?"}
    assert data.qrels == {"7": {"1#0": 1}, "8": {"2": 1}}
    run("xor", "dev")
    assert load_corpus(tmp_path / "xor") == {"0": 'Title She said "no".'}
    assert [
        len(xor_questions(tmp_path / f"xor/questions.{lang}.jsonl")) for lang in ("ar", "te")
    ] == [2, 1]
    (source / "qrels.test.txt").write_text("7 1#0\n")
    for kind, part, match in (
        ("mrtydi", "test", "query Q0 document grade"),
        ("xor", "test", "has 0 files"),
    ):
        with pytest.raises(UserError, match=match):
            run(kind, part)
    (wiki / "psgs_w100.tsv").write_text("")
    with pytest.raises(UserError, match="has 2 files"):
        run("xor", "dev")


def test_item_17_training_questions_of_mrtydi_are_what_the_fine_tuning_reads(tmp_path, capsys):
    """Checklist 17: positives of the judgements, no negatives; the set of the evaluation stays as
    it is.
    """
    (tmp_path / "docs.jsonl").write_text(
        "".join(
            json.dumps({"id": f"{i}#0", "contents": f"Title {i}\n\nText {i}."}) + "\n"
            for i in range(3)
        )
    )
    (tmp_path / "topic.train.tsv").write_text("7\tWho?\n8\tWhen?\n9\tUnjudged?\n")
    (tmp_path / "qrels.train.txt").write_text("7 Q0 2#0 1\n7 Q0 0#0 1\n8 Q0 1#0 1\n8 Q0 0#0 0\n")
    words = [f"sets.input={tmp_path}", f"sets.output={tmp_path}/th", "sets.part=train"]
    task = build(config(*words)).tasks["sets"]
    task(Workspace(tmp_path / "task"))
    said = capsys.readouterr().out
    assert "2 questions; 1 without an answering passage are left out" in said
    actual = read_passages(tmp_path / "th/train.jsonl")
    assert [(r.question, r.positives) for r in actual] == [
        ("Who?", ("Title 2 Text 2.", "Title 0 Text 0.")),
        ("When?", ("Title 1 Text 1.",)),
    ]
    assert not any(r.negatives or r.hard_negatives for r in actual)
    assert [p.name for p in (tmp_path / "th").iterdir()] == ["train.jsonl"]
    (tmp_path / "qrels.train.txt").write_text("7 Q0 5#0 1\n")
    with pytest.raises(UserError, match="'5#0', which docs.jsonl lacks"):
        task(Workspace(tmp_path / "task"))
