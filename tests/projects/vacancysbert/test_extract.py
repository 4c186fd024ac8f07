"""The extraction stage: dictionary and language model, cached, resumable, one call for all
files."""

import json

import pytest

from common.config import UserError
from common.data.tables import read_jsonl, write_jsonl
from common.engine.trained import run_task
from common.engine.workspace import Workspace
from projects.vacancysbert import extract as stage
from projects.vacancysbert.data import load_data
from tests.completion_server import CompletionServer
from tests.projects.vacancysbert.conftest import config
from tests.taggers import save_tagger

TRAIN = [
    {"title": "coder", "description": "Knows Machine Learning, SQL and C++; sql again. Git."},
    {"title": "baker", "description": "Nothing that is listed."},
]
TEST = [
    {"title": "dev", "normalized_title": "coder", "description": "SQL or git or machine-learning."}
]
LISTED = "machine learning\nlearning\nSQL\nC++\ngit\n"


@pytest.fixture
def files(tmp_path):
    write_jsonl(tmp_path / "train.jsonl", TRAIN)
    write_jsonl(tmp_path / "test.jsonl", TEST)
    (tmp_path / "list.txt").write_text(LISTED, encoding="utf-8")
    both = ",".join(str(tmp_path / name) for name in ("train.jsonl", "test.jsonl"))
    return [
        f"extract.inputs=[{both}]",
        f"extract.output={tmp_path / 'out'}",
        f"extract.dictionary={tmp_path / 'list.txt'}",
        f"runs_dir={tmp_path / 'runs'}",
    ]


def test_checklist_14_test_descriptions_pass_through_the_same_stage(files, tmp_path):
    """Checklist 14 and 18: one call writes both files, which the loaders then read."""
    run_task("vacancysbert", "smoke", files, "extract")
    train, test = (read_jsonl(tmp_path / "out" / name) for name in ("train.jsonl", "test.jsonl"))
    assert train[0] == {"title": "coder", "skills": ["machine learning", "SQL", "C++", "git"]}
    assert train[1]["skills"] == []
    assert test == [
        {"title": "dev", "normalized_title": "coder", "skills": ["SQL", "git", "machine learning"]}
    ]
    words = [
        "data.source=files",
        f"data.root={tmp_path / 'out'}",
        "data.train=train.jsonl",
        "data.test=test.jsonl",
        "eval.beta=0.5",
        "trainer.val_every_n_steps=null",
    ]
    sets = load_data(config(*words))
    assert [ad.title for ad in sets.ads] == ["coder"]
    assert sets.counts["dropped_few_skills"] == 1
    assert sets.test.candidates == ["coder"]


def test_checklist_14_the_stage_is_cached_and_goes_on_where_it_was_stopped(
    files, tmp_path, monkeypatch
):
    """Checklist 14: finished chunks are not computed again; other settings are refused there."""
    words = [*files, "task.chunk_size=1"]
    run_task("vacancysbert", "smoke", words, "extract")
    first = (tmp_path / "out/train.jsonl").read_bytes()
    parts = sorted((tmp_path / "out/train.jsonl.parts").glob("part-*.jsonl"))
    assert len(parts) == 2
    parts[1].unlink()
    (tmp_path / "out/train.jsonl").unlink()
    seen = []
    plain = stage.PhraseMatcher.__call__
    monkeypatch.setattr(
        stage.PhraseMatcher,
        "__call__",
        lambda self, text: (seen.append(text), plain(self, text))[1],
    )
    run_task("vacancysbert", "smoke", words, "extract")
    assert seen == [TRAIN[1]["description"]]
    assert (tmp_path / "out/train.jsonl").read_bytes() == first
    with pytest.raises(UserError, match="kind"):
        run_task("vacancysbert", "smoke", [*words, "extract.kind=clauses"], "extract")


def test_a_language_model_s_answer_is_read_line_by_line(files, tmp_path):
    """Sheet, extraction (b): one a line, no bullets, distinct, at most six words; a server's
    answer.
    """
    answer = "- Python\n2. data pipelines\n* PYTHON\none two three four five six seven\n\n"
    with CompletionServer(lambda prompt, body: answer) as server:
        words = [f"generator.endpoint={server.url}", "extract.kind=lm"]
        run_task("vacancysbert", "smoke", [*files, *words], "extract")
        prompts = [json.dumps(request) for request in server.requests]
    rows = read_jsonl(tmp_path / "out/train.jsonl")
    assert [row["skills"] for row in rows] == [["Python", "data pipelines"]] * 2
    assert any("Machine Learning" in prompt for prompt in prompts)
    assert not stage.POLICY.samples


def test_the_bundled_language_model_writes_offline(files, tmp_path):
    """Checklist 14: runs without a network; the prompt is cut to the model's context."""
    long = [{"title": "x", "description": "tailors sew coats " * 200}]
    write_jsonl(tmp_path / "long.jsonl", long)
    words = [
        f"extract.inputs=[{tmp_path / 'long.jsonl'}]",
        "extract.kind=lm",
        "extract.device=cpu",
        "extract.model=bundled:stories260k",
        "extract.max_prompt_tokens=200",
        "extract.max_new_tokens=4",
    ]
    run_task("vacancysbert", "smoke", [*files, *words], "extract")
    (row,) = read_jsonl(tmp_path / "out/long.jsonl")
    assert isinstance(row["skills"], list)
    assert all(len(skill.split()) <= 6 for skill in row["skills"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["extract.inputs=[]"], r"extract\.inputs"),
        (["extract.inputs=[a/x.jsonl,b/x.jsonl]"], "one name"),
        (["extract.inputs=[absent.jsonl]"], "absent"),
    ],
)
def test_what_is_wrong_with_the_inputs_is_said(words, message, tmp_path):
    with pytest.raises(UserError, match=message):
        stage.extract(config(*words, f"extract.output={tmp_path / 'out'}"), Workspace(tmp_path))


def test_a_tagger_s_spans_are_skills(files, tmp_path):
    """Sheet, extraction (c); distinct, in the order of the text."""
    model = save_tagger(tmp_path / "tagger", ["Machine", "and"], ["Python", "python", "SQL"])
    words = ["extract.kind=ner", f"extract.ner_model={model}", "extract.device=cpu"]
    write_jsonl(tmp_path / "ads.jsonl", [{"title": "x", "description": "Python , python and SQL"}])
    run_task(
        "vacancysbert",
        "smoke",
        [*files, *words, f"extract.inputs=[{tmp_path / 'ads.jsonl'}]"],
        "extract",
    )
    (row,) = read_jsonl(tmp_path / "out/ads.jsonl")
    assert row["skills"] == ["Python", "SQL"]
    with pytest.raises(UserError, match=r"extract\.ner_model"):
        stage.extractor(config("extract.kind=ner").extract, config().generator, None)


@pytest.mark.parametrize(
    ("kind", "row"),
    [("clauses", {"description": None}), ("precomputed", {"skills": "SQL, Python"})],
)
def test_fields_of_another_kind_are_refused_with_their_place(kind, row, tmp_path):
    """One string in the place of a list would be read letter by letter."""
    write_jsonl(
        tmp_path / "ads.jsonl",
        [{"title": "x", "description": "a", "skills": ["b"]}, {"title": "y", **row}],
    )
    words = (f"extract.inputs=[{tmp_path / 'ads.jsonl'}]", f"extract.output={tmp_path / 'out'}")
    with pytest.raises(UserError, match=r"ads\.jsonl, row 2"):
        stage.extract(config(f"extract.kind={kind}", *words), Workspace(tmp_path))


def test_the_default_dictionary_is_esco_s_and_ready_skills_are_tidied(tmp_path):
    """Sheet, extraction (a) and precomputed."""
    find = stage.extractor(config().extract, config().generator, None)
    text = "You will perform toxicological tests and sports medicine."
    assert find([text], [])[0] == ["perform toxicological tests", "sports medicine"]
    ready = stage.extractor(config("extract.kind=precomputed").extract, config().generator, None)
    assert ready([["SQL ", "sql", "a b c d e f g", ""]], []) == [["SQL"]]
