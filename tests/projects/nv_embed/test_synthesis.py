"""Synthetic examples: prompts, answers that are repaired or dropped, resume, and training on them."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

import projects.nv_embed.synthesis as stage
from common.config import UserError
from common.data.retrieval.records import EmbeddingRecord, EmbeddingTask, read_task, write_task
from common.data.tables import read_jsonl
from common.decoding.language_model import Continuation, LanguageModel
from common.engine.workspace import Workspace
from common.families.retrieval.training_sets import stage_data, training_tasks
from projects.nv_embed import build
from projects.nv_embed.synthesis import (
    FORMATS,
    distinct_records,
    example_prompt,
    framed,
    list_items,
    object_fields,
    synthesize,
    task_prompt,
)
from tests.projects.nv_embed.conftest import config, encoder

SMALL = ["synthesis.requests=2", "synthesis.examples=4", "synthesis.formats=[short-long]"]


class Script:
    """A language model that knows three answers to each kind of prompt, and one that breaks off."""

    tokenizer = SimpleNamespace(chat_template=None, bos_token=None)

    def __init__(self):
        self.prompts = []

    def continuations(self, prompts, policy, rngs, budget, *, batch_size):
        found = []
        for prompt in prompts:
            self.prompts.append(prompt)
            found.append(Continuation(self.answer(prompt, len(self.prompts)), True, 1))
        return found

    def answer(self, prompt, number):
        if prompt.endswith('["'):
            return 'Find the book of an author.", "Find the\\ntown of a river.", "No"] as asked'
        if prompt.endswith('{"query": "') and number % 2:
            return (
                f'q{number}", "positive_document": "yes {number}", "hard_negative_document": "no"}}'
            )
        return "the same. And th"  # no quote: cut, then asked for the next field


@pytest.fixture
def script(monkeypatch):
    model = Script()
    monkeypatch.setattr(LanguageModel, "from_pretrained", lambda *args: model)
    return model


def test_prompts_name_format_task_and_drawn_constraints():
    assert "JSON list of 7 strings" in task_prompt(FORMATS["short-long"], 7)
    seen = set()
    for i in range(30):
        prompt = example_prompt(FORMATS["short-long"], "Find a town.", np.random.default_rng(i))
        assert "Find a town." in prompt
        assert "query, positive_document, hard_negative_document" in prompt
        seen.add(prompt)
    assert len(seen) > 15
    again = example_prompt(FORMATS["short-long"], "Find a town.", np.random.default_rng(3))
    assert again in seen
    label = example_prompt(FORMATS["long-short"], "x", np.random.default_rng(0))
    assert "input_text, label, misleading_label" in label
    assert "{" not in label


def test_chat_models_get_their_template():
    plain = SimpleNamespace(chat_template=None)
    assert framed(plain, "do it") == "do it\n\nAnswer:\n"
    chat = SimpleNamespace(
        chat_template="x", bos_token="<s>",
        apply_chat_template=lambda turns, **_: f"<s>[INST] {turns[0]['content']} [/INST]",
    )  # fmt: skip
    assert framed(chat, "do it") == "[INST] do it [/INST]"


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ('["a b", "c"]', ["a b", "c"]),
        ('Sure: ["a \\"b\\"",\n "c\nd" ] and ["e', ['a "b"', "c d"]),
        ('["One end. Two', ["One end."]),
        ('["a\\xb"]', ["a\\xb"]),  # no JSON escape
        ("nothing", []),
    ],
)
def test_lists_in_answers(text, items):
    assert list_items(text) == items


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ('{"a": "x", "b": "y"} Done.', {"a": "x", "b": "y"}),
        ('{"b":"y\\n\\u00e9" , "c": 1, "a": ""', {"b": "y é"}),
        ('{"a": "First. Sec', {"a": "First."}),
        ('{"a": x}', {}),
    ],
)
def test_objects_in_answers(text, fields):
    assert object_fields(text, ["a", "b"]) == fields


def test_both_steps_with_answers_of_every_kind(script, tmp_path):
    """Tasks without repetition, complete distinct examples; the rest is dropped and counted."""
    path = synthesize(config(*SMALL), Workspace(tmp_path))
    tasks = read_jsonl(tmp_path / "tasks.jsonl", ("format", "task"))
    assert [row["task"] for row in tasks] == [
        "Find the book of an author.", "Find the town of a river.",
    ]  # fmt: skip
    found = read_task(path)
    assert (found.name, found.kind, found.symmetric) == ("synthetic_pairs", "retrieval", False)
    assert [r.query for r in found.records] == ["q3", "q5"]
    assert found.instruction == tasks[0]["task"]  # that of the first and the third example
    assert [r.negatives for r in found.records] == [("no",)] * 2
    notes = (tmp_path / "notes.txt").read_text()
    assert "2 tasks of 6 that were written" in notes
    assert "2 usable examples of 4" in notes  # two repeat one text in all fields
    # the model was asked to go on where a field was missing, with what it had written so far
    assert any(p.endswith('{"query": "the same.", "positive_document": "') for p in script.prompts)


def test_repeated_queries_are_dropped():
    rows = [EmbeddingRecord(q, (p,)) for q, p in (("Ask", "a"), ("other", "b"), ("ask", "c"))]
    assert distinct_records(rows) == rows[:2]


def test_a_model_without_usable_answers_is_a_user_error(script, tmp_path, monkeypatch):
    monkeypatch.setattr(Script, "answer", lambda *_: "no")
    with pytest.raises(UserError, match="wrote no usable task of the format short-long"):
        synthesize(config(*SMALL), Workspace(tmp_path))


def test_the_bundled_language_model_writes_records_and_resumes(tmp_path, monkeypatch):
    """The whole task with `bundled:causal-lm`; stopped after a block it ends with the same file."""
    cfg = config()
    build(cfg).tasks["synthesize"](Workspace(tmp_path / "whole"))
    whole = (tmp_path / "whole/synthetic_pairs.jsonl").read_text()
    rows = [json.loads(line) for line in whole.splitlines()]
    assert len(rows) > 3
    assert {row["task"] for row in rows} == {"synthetic_pairs"}
    assert all(len({row["query"], *row["pos"], *row["neg"]}) == 3 for row in rows)
    formats = {row["format"] for row in read_jsonl(tmp_path / "whole/tasks.jsonl")}
    assert formats == set(FORMATS)

    plain, calls = LanguageModel.continuations, []

    def stopped(self, *args, **options):
        calls.append(1)
        if len(calls) > 4:
            raise KeyboardInterrupt
        return plain(self, *args, **options)

    monkeypatch.setattr(stage, "BLOCK", 1)
    monkeypatch.setattr(LanguageModel, "continuations", stopped)
    with pytest.raises(KeyboardInterrupt):
        synthesize(cfg, Workspace(tmp_path / "part"))
    assert not (tmp_path / "part/synthetic_pairs.jsonl").exists()
    monkeypatch.setattr(LanguageModel, "continuations", plain)
    synthesize(cfg, Workspace(tmp_path / "part"))
    assert (tmp_path / "part/synthetic_pairs.jsonl").read_text() == whole

    monkeypatch.setattr(LanguageModel, "continuations", lambda *_, **__: pytest.fail("asked again"))
    synthesize(cfg, Workspace(tmp_path / "part"))
    with pytest.raises(UserError, match="made for another seed"):
        synthesize(config("seed=1"), Workspace(tmp_path / "part"))


def test_examples_train_under_their_own_instruction(tmp_path):
    """Each record's task is what stands before its query; a set of one task keeps the config's."""
    rows = [EmbeddingRecord(f"q {i}", (f"p {i}",), (f"n {i}",), instruction=f"find {i % 2}")
            for i in range(8)]  # fmt: skip
    path = tmp_path / "synthetic_pairs.jsonl"
    write_task(path, EmbeddingTask("synthetic_pairs", "retrieval", "", rows))
    assert read_task(path).records == rows
    cfg = config("data.source=sets", "eval.tasks=[]", "eval.primary=[]", "data.num_negatives=1",
                 f"data.sets={{synthetic_pairs: {{path: {path}, samples: 8}}}}")  # fmt: skip
    (task,) = training_tasks(cfg)
    assert task.instruction_of(task.records[1]) == "find 1"
    model = encoder()
    data = stage_data(cfg, model, [task]).train_set
    batch = data[[(i, 0) for i in range(4)]]
    for i, ids in enumerate(batch["query"]["input_ids"].tolist()):
        record = data.example(i, 0)[1]
        wanted = model.token_rows([record.query], record.instruction)[0][0]
        assert ids[: len(wanted)] == wanted
    one = [EmbeddingRecord("q", ("p",), ("n",), instruction="find it")] * 2
    write_task(path, EmbeddingTask("synthetic_pairs", "retrieval", "", one))
    (task,) = training_tasks(cfg)
    assert {task.instruction_of(r) for r in task.records} == {"Find text that fits the query"}
    write_task(path, EmbeddingTask("synthetic_pairs", "sts", "", rows, symmetric=True))
    with pytest.raises(UserError, match="a symmetric task has one instruction"):
        read_task(path)


def test_settings_of_the_stage():
    with pytest.raises(UserError, match="none of short-long"):
        config("synthesis.formats=[long-long]")
    with pytest.raises(UserError, match="must be >= 1"):
        config("synthesis.examples=0")
