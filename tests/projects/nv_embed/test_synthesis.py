"""Synthetic examples: prompts, answers that are repaired or dropped, resume, and training on
them."""

import json
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest

from common.config import UserError
from common.data.retrieval.records import EmbeddingRecord
from common.data.tables import read_jsonl
from common.decoding.language_model import Continuation, LanguageModel
from common.engine.workspace import Workspace
from projects.nv_embed import build
from projects.nv_embed.data.records import EmbeddingTask, read_task, write_task
from projects.nv_embed.data.training_sets import stage_data, training_tasks
from projects.nv_embed.synthesis import (
    FORMATS,
    distinct_records,
    example_prompt,
    list_items,
    object_fields,
    synthesize,
    task_prompt,
)
from tests.completion_server import CompletionServer
from tests.projects.nv_embed.conftest import config, encoder

SMALL = ["synthesis.requests=2", "synthesis.examples=4", "synthesis.formats=[short-long]"]


class Script:
    """A language model that knows three answers to each kind of prompt, and one that breaks off."""

    tokenizer, context = SimpleNamespace(chat_template=None, bos_token=None), 10**6

    def __init__(self):
        self.prompts = []

    def continuations(self, prompts, policy, rngs, budget, *, batch_size, stop):
        actual = []
        for prompt in prompts:
            self.prompts.append(prompt)
            actual.append(Continuation(self.answer(prompt, len(self.prompts)), True, 1))
        return actual

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
        "Find the book of an author.",
        "Find the town of a river.",
    ]
    actual = read_task(path)
    assert (actual.name, actual.kind, actual.symmetric) == ("synthetic_pairs", "retrieval", False)
    assert [r.query for r in actual.records] == ["q3", "q5"]
    assert actual.instruction == tasks[0]["task"]  # that of the first and the third example
    assert [r.negatives for r in actual.records] == [("no",)] * 2
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


@pytest.mark.slow
def test_the_bundled_language_model_writes_records_and_resumes(tmp_path, monkeypatch):
    """Two formats with `bundled:causal-lm`; one that was stopped ends with the same records."""
    monkeypatch.setattr(LanguageModel, "from_pretrained", cache(LanguageModel.from_pretrained))
    words = ["synthesis.examples=2", "synthesis.max_new_tokens=4"]
    first, *_, last = FORMATS  # records of the first come first
    both = f"synthesis.formats=[{first},{last}]"
    build(config(*words, both)).tasks["synthesize"](Workspace(tmp_path / "whole"))
    whole = (tmp_path / "whole/synthetic_pairs.jsonl").read_text().splitlines(keepends=True)
    rows = [json.loads(line) for line in whole]
    assert len(rows) > 2
    assert {row["task"] for row in rows} == {"synthetic_pairs"}
    assert all(len({row["query"], *row["pos"], *row["neg"]}) == 3 for row in rows)
    asked = read_jsonl(tmp_path / "whole/tasks.jsonl", ("format", "task"))
    assert {row["format"] for row in asked} == {first, last}
    tasks = {row["task"] for row in asked if row["format"] == first}
    own = [line for line, row in zip(whole, rows, strict=True) if row["instruction"] in tasks]

    plain, calls = LanguageModel.continuations, []

    def stopped(self, *args, **options):
        calls.append(1)
        if len(calls) > 5:  # two requests, the first example's fields; in the second example
            raise KeyboardInterrupt
        return plain(self, *args, **options)

    words += [f"synthesis.formats=[{first}]", "task.chunk_size=1"]
    monkeypatch.setattr(LanguageModel, "continuations", stopped)
    with pytest.raises(KeyboardInterrupt):
        synthesize(config(*words), Workspace(tmp_path / "part"))
    assert not (tmp_path / "part/synthetic_pairs.jsonl").exists()
    monkeypatch.setattr(LanguageModel, "continuations", plain)
    synthesize(config(*words), Workspace(tmp_path / "part"))
    assert (tmp_path / "part/synthetic_pairs.jsonl").read_text() == "".join(own)

    monkeypatch.setattr(LanguageModel, "continuations", lambda *_, **__: pytest.fail("asked again"))
    synthesize(config(*words), Workspace(tmp_path / "part"))
    with pytest.raises(UserError, match="made for another seed"):
        synthesize(config(*words, "seed=1"), Workspace(tmp_path / "part"))


def test_two_shares_take_two_passes_and_write_the_same_file(script, tmp_path):
    """The second step needs all shares of the first; the share that finishes last writes the
    file."""
    words = [*SMALL, "task.chunk_size=1"]
    script.answer = lambda prompt, number: (
        'Find the town of a river.", "Find a book of an author."]'
        if prompt.endswith('["')
        else f'{prompt[-40:-30]} q", "positive_document": "yes", "hard_negative_document": "no"}}'
    )
    whole = synthesize(config(*words), Workspace(tmp_path / "whole")).read_text()
    shared = Workspace(tmp_path / "shared")
    for _ in range(2):
        for share in ("0/2", "1/2"):
            path = synthesize(config(*words, f"task.shard={share}"), shared)
    assert path.read_text() == whole
    assert "are left to other shares" in (tmp_path / "shared/notes.txt").read_text()


@pytest.mark.parametrize("api", ["completions", "chat"])
def test_a_server_writes_the_examples(tmp_path, api):
    """Completions continue with what is begun, a chat server answers as a whole."""

    def answer(prompt, body):
        chat = "messages" in body
        if "JSON list" in prompt:
            return ('["' if chat else "") + 'Find the town of a river.", "Find a poem of a poet."]'
        seed = body["seed"]
        head = '{"query": "' if chat else ""
        return f'{head}q{seed}", "positive_document": "p{seed}", "hard_negative_document": "no"}}'

    with CompletionServer(answer) as server:
        cfg = config(*SMALL, f"generator.endpoint={server.url}", f"generator.api={api}")
        actual = read_task(synthesize(cfg, Workspace(tmp_path)))
    assert len(actual.records) == 4
    assert all(r.positives[0][1:] == r.query[1:] for r in actual.records)
    assert {r["path"] for r in server.requests} == {
        "/v1/chat/completions" if api == "chat" else "/v1/completions"
    }


def test_examples_train_under_their_own_instruction(tmp_path):
    """Each record's task is what stands before its query; a set of one task keeps the config's."""
    rows = [
        EmbeddingRecord(f"q {i}", (f"p {i}",), (f"n {i}",), instruction=f"find {i % 2}")
        for i in range(8)
    ]
    path = tmp_path / "synthetic_pairs.jsonl"
    write_task(path, EmbeddingTask("synthetic_pairs", "retrieval", "", rows))
    assert read_task(path).records == rows
    cfg = config(
        "data.source=sets",
        "eval.tasks=[]",
        "eval.primary=[]",
        "data.num_negatives=1",
        f"data.sets={{synthetic_pairs: {{path: {path}, samples: 8}}}}",
    )
    (task,) = training_tasks(cfg)
    assert task.instruction_of(task.records[1]) == "find 1"
    model = encoder()
    data = stage_data(cfg, model, [task]).train_set
    batch = data[[(i, 0) for i in range(4)]]
    for i, ids in enumerate(batch["query"]["input_ids"].tolist()):
        record = data.example(i, 0)[1]
        expected = model.token_rows([record.query], record.instruction)[0][0]
        assert ids[: len(expected)] == expected
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
