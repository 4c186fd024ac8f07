"""Twins in the bank, a bank of one's own, and classes among CrossFit's answers: items 4, 5, 14, 15,
19, 22.
"""

import json

import numpy as np
import pytest

from common.config import UserError
from projects.demo_retrieval.bank import Bank, Copies, write_bank
from projects.demo_retrieval.questions import about, data_set
from projects.demo_retrieval.retriever import TfidfSvd
from projects.demo_retrieval.sources import expand, read_task
from projects.demo_retrieval.stages import read_tasks
from projects.demo_retrieval.template import (
    UNASKED,
    Example,
    demonstration_text,
    input_text,
    parse_unifiedqa,
)
from tests.projects.demo_retrieval.conftest import config, module_of
from tests.projects.demo_retrieval.test_data import OFFICIAL, official

WORDS = ("cat", "dog", "sun", "rain")
BARE = [
    Example("unifiedqa/arc_easy", f"what is a {w}?", (w,), "", (w, "none"), f"train-{i}")
    for i, w in enumerate(WORDS)
]
WITH_TEXT = [
    e._replace(task="unifiedqa/arc_easy_with_ir", context=f"facts on {e.answers[0]}") for e in BARE
]


def bank_of(examples) -> Bank:
    return Bank(examples, TfidfSvd.fit([demonstration_text(e) for e in examples], 8), "full")


def test_item_4_a_copy_with_or_without_a_context_is_no_demonstration():
    """Checklist 4: UnifiedQA's sets that exist with and without contexts, in search and in random
    draws.
    """
    bank = bank_of([*BARE, *WITH_TEXT])
    rng = np.random.default_rng(0)
    for i, example in enumerate([*BARE, *WITH_TEXT]):
        assert bank.own(example) == sorted({i, (i + 4) % 8})
        places = [
            bank.nearest([example], 6).positions[0],
            bank.at_random(example, 6, rng, same_task=False),
        ]
        for actual in places:
            assert {bank.examples[k].question for k in actual} == {e.question for e in BARE} - {
                example.question
            }
        assert len(set(bank.at_random(example, 3, rng, same_task=True))) == 3


@pytest.mark.parametrize("name", ["arc_easy", "openbookqa", "qasc"])
def test_item_4_twins_are_found_in_files_as_they_are_released(tmp_path, name):
    """Checklist 4, 12: cased lines that list (A) and (B); the same question with retrieved text is
    no demonstration.
    """
    for folder, tail in ((name, ""), (f"{name}_with_ir", "\\nFacts on a {}.")):
        path = tmp_path / f"unifiedqa/{folder}/train.tsv"
        path.parent.mkdir(parents=True)
        path.write_text(
            "".join(
                f"What is a {w}? \\n (A) {w.title()} (B) None{tail.format(w)}\t{w.title()}\n"
                for w in WORDS
            )
        )
    data = config(f"data.root={tmp_path}").data
    bare, texts = (read_task(f"unifiedqa/{n}", data, 0).train for n in (name, f"{name}_with_ir"))
    assert bare[0][1:5] == ("what is a cat?", ("cat",), "", ("cat", "none"))
    assert texts[0][1:5] == ("what is a cat?", ("cat",), "facts on a cat.", ("cat", "none"))
    bank = bank_of([*bare, *texts])
    for i, example in enumerate(bank.examples):
        assert bank.own(example) == sorted({i, (i + 4) % 8})
        shown = bank.nearest([example], 6).positions[0]
        assert example.question not in {bank.examples[k].question for k in shown}


def test_item_4_equal_questions_of_other_kinds_stay():
    """Checklist 4: another data set, other candidates, or another text for the same question."""
    own = BARE[0]
    others = [
        own._replace(task="unifiedqa/qasc_with_ir", context="facts on it"),
        own._replace(options=("cat", "fox"), context="x", id="9"),
        own._replace(task="mine", context="facts on it"),
    ]
    assert bank_of([own, *others]).own(own) == [0]
    texts = [own._replace(context="one text", id="1"), own._replace(context="two texts", id="2")]
    assert bank_of(texts).own(texts[0]) == [0]
    assert [data_set(n) for n in ("unifiedqa/arc_hard", "crossfit/ai2_arc", "mine", "")] == [
        "arc",
        "arc",
        "mine",
        "",
    ]


TEXT = "The cat sat on the mat. " * 16


@pytest.mark.parametrize(
    ("line", "task", "question", "context", "same"),
    [
        ("Who sat? \\n (Cats) {}", "mrqa/squad", "who sat", TEXT, True),
        (
            "Who sat? \\n (Cats (animals)) (CNN) -- {}",
            "mrqa/newsqa",
            "Who sat?",
            f"ROME (CNN) {TEXT}",
            False,
        ),
        (
            "Who sat? \\n (Cats (animals)) (CNN) -- {}",
            "mrqa/newsqa",
            "Who sat?",
            f"(CNN) -- {TEXT}",
            True,
        ),
        (
            "Who sat? \\n (Cats) {}(Dogs) No dog.",
            "mrqa/hotpotqa",
            "Who sat?",
            f"[PAR] [TLE] Cats [SEP] {TEXT}",
            True,
        ),
        ("Who sat? \\n (Cats) {}", "mrqa/squad", "Who lay?", TEXT, False),
        ("Who sat? \\n (Cats) {}", "mrqa/squad", "Who sat?", "Another cat sat.", False),
        (
            "Who sat? \\n (Cats) {}",
            "crossfit/tweet_qa",
            UNASKED,
            f"question: Who sat? context: {TEXT}",
            True,
        ),
        (
            "Who sat? \\n (Cats) {}",
            "crossfit/tweet_qa",
            UNASKED,
            "question: Who sat? context: Another cat.",
            False,
        ),
        (
            "Who sat? \\n (A) Ann (B) Bob \\n {}",
            "crossfit/multirc",
            UNASKED,
            f"question: Who sat? (A) Ann (B) Bob context: {TEXT}",
            True,
        ),
        (
            "Who sat? \\n (Cats) {}",
            "crossfit/squad-no_context",
            UNASKED,
            "question: Who sat?",
            True,
        ),
        ("Who sat? \\n (Cats) {}", "crossfit/kilt_nq", UNASKED, "Who sat?", False),
    ],
)
def test_items_4_and_5_copies_in_other_collections_are_found(line, task, question, context, same):
    """Checklist 4, 5: titles in brackets or marks, cut contexts, and questions that stand in
    CrossFit's input; from either side.
    """
    unified = parse_unifiedqa(line.format(TEXT) + "\tAnn", "unifiedqa/squad1_1")
    other = Example(task, question, ("Ann",), context)
    assert Copies([unified]).of(other) == Copies([other]).of(unified) == ({0} if same else set())


def test_items_4_and_5_copies_of_official_files_are_no_demonstrations(tmp_path):
    """Checklist 4, 5: own answers are not retrieved through another collection."""
    words = [f"data.root={official(tmp_path)}", *OFFICIAL, "data.exclude_eval_tasks=false"]
    tasks = read_tasks(config(*words))
    bank, meta = bank_of(tasks.bank), {t.name: t.train for t in tasks.meta}
    for example, task, question in (
        (tasks.targets[0].train[0], "unifiedqa/squad1_1", "who sat 1?"),
        (meta["crossfit/tweet_qa"][0], "unifiedqa/race", "what 3?"),
    ):
        (own,) = bank.own(example)
        assert bank.examples[own][:2] == (task, question)
    assert about("crossfit/any")["question"] == UNASKED


def test_a_star_stands_for_no_contrast_set(tmp_path):
    """Their training files are test questions of other sets; a name of one is taken."""
    data = config(f"data.root={official(tmp_path)}").data
    assert expand(["unifiedqa/*"], data) == ["unifiedqa/race", "unifiedqa/squad1_1"]
    assert expand(["unifiedqa/contrast_sets_boolq"], data) == ["unifiedqa/contrast_sets_boolq"]


def test_items_5_and_22_a_bank_file_is_a_bank_like_others(tmp_path):
    """Checklist 5, 22: its rows of the targets' data sets and of evaluated texts leave; names that
    nobody knows stay.
    """
    words = [f"data.root={official(tmp_path)}", *OFFICIAL, f"data.bank_file={tmp_path}/own.jsonl"]
    rows = [
        Example("unifiedqa/squad1_1", "who ran?", ("ann",), "ann ran.", (), "0"),
        Example("unifiedqa/race", "who fell?", ("bob",), "bob fell.", (), "1"),
        Example("mine", "who sang?", ("eve",), "eve sang.", (), "2"),
        Example("mine", "Who sat 51?", ("cat",), "The cat 51 sat.", (), "3"),
        Example("mrqa/squad", "who slept?", ("tom",), "tom slept.", (), "4"),
    ]
    write_bank(tmp_path / "own.jsonl", rows)
    strict = read_tasks(config(*words)).manifest()
    assert strict["bank"] == {"unifiedqa/race": 1, "mine": 1}
    assert strict["left_out"] == ["unifiedqa/squad1_1"]
    assert (
        strict["removed"] == 3
    )  # lines of race and of tweet_qa in meta-training, a row of the file
    kept = read_tasks(config(*words, "data.exclude_eval_tasks=false")).manifest()
    assert kept["bank"] == {"unifiedqa/squad1_1": 1, "unifiedqa/race": 1, "mine": 1}
    own = read_tasks(config(*words, "data.bank_targets=true")).manifest()
    assert own["bank"] == {
        **strict["bank"],
        "mrqa/squad": 4,
        "crossfit/glue-qnli": 4,
        "crossfit/trec": 4,
    }


def test_item_15_the_split_of_the_development_examples_can_be_trained_on(tmp_path):
    """Checklist 15: 1,024 examples of seed 42 take them from the next seed's; none left says what
    to lower.
    """
    folder = official(tmp_path) / "mrqa/squad"
    words = [f"data.root={tmp_path}", "data.qa_shots=1024", "data.split_seed=42"]
    other = folder / "squad-train-seed-43-num-examples-1024.jsonl"
    own = folder / "squad-train-seed-42-num-examples-1024.jsonl"
    rows = [
        {
            "context": f"the cat {i} sat.",
            "qas": [{"qid": f"q{i}", "question": f"who sat {i}?", "answers": ["cat"]}],
        }
        for i in (8, 20, 21)
    ]
    other.write_text("\n".join(json.dumps(r) for r in rows) + "\n")
    task = read_task("mrqa/squad", config(*words).data, 0, target=True)
    assert len(task.train) == 9
    assert {e.id for e in task.dev} == {"q20", "q21"}
    other.write_text(own.read_text())
    with pytest.raises(UserError, match=r"no development example.*data\.qa_shots"):
        read_task("mrqa/squad", config(*words).data, 0, target=True)


def test_item_19_few_answers_of_crossfit_are_listed(tmp_path):
    """Checklist 19: a classification without a question of its own lists its labels; open answers
    are not taken for labels.
    """
    answers = {
        "emo": ["happy", "sad", "very angry"] * 16,
        "open": [f"answer {i}" for i in range(32)],
        "long": ["it is the first of them", "no"] * 16,
        "many": [f"class {i}" for i in range(21)] * 16,
    }
    for name, golds in answers.items():
        path = tmp_path / f"crossfit/{name}/{name}_16_42_train.tsv"
        path.parent.mkdir(parents=True)
        path.write_text("".join(f"text {i}\t{gold}\n" for i, gold in enumerate(golds)))
    cfg = config(f"data.root={tmp_path}", "data.shots=16", "data.split_seed=42")
    actual = {name: read_task(f"crossfit/{name}", cfg.data, 0) for name in answers}
    assert {n: (t.family, len(t.labels)) for n, t in actual.items()} == {
        "emo": ("classification", 3),
        "open": ("qa", 0),
        "long": ("qa", 0),
        "many": ("qa", 0),
    }
    assert "(a) happy (b) sad (c) very angry \n text 0" in input_text(actual["emo"].train[0], "_")
    assert not actual["open"].train[0].options


def test_item_4_parts_of_a_set_share_no_id(tmp_path):
    """Checklist 4: a test question of UnifiedQA is excluded by its own id, not by that of a
    training line.
    """
    folder = tmp_path / "unifiedqa/own"
    folder.mkdir(parents=True)
    for part in ("train", "test"):
        rows = (f"who {part} {i}? \\n text {part} {i}.\tx\n" for i in range(9))
        (folder / f"{part}.tsv").write_text("".join(rows))
    data = config(f"data.root={tmp_path}", "data.qa_shots=4", "data.dev_shots=2").data
    task = read_task("unifiedqa/own", data, 0, target=True)
    assert not {e.id for e in task.train} & {e.id for e in task.test}
    assert bank_of(task.train).own(task.test[0]) == []


def test_messages_name_settings_that_exist():
    """Too few examples of a label, or of a stage's batch."""
    from projects.demo_retrieval.stages import stages

    with pytest.raises(UserError, match=r"label '\w+' has .*data\.shots or data\.dev_shots"):
        read_tasks(config("data.targets=[made_up_topic]", "data.shots=200"))
    for words, key in (
        (["meta=false", "denoise.max_steps=0", "finetune.batch_size=999"], "finetune"),
        (["denoise.batch_size=999"], "denoise"),
        (["denoise.max_steps=0", "data.batch_size=999"], "data"),
    ):
        with pytest.raises(UserError, match=rf"lower {key}\.batch_size"):
            next(stages(config(*words)))


def test_too_long_questions_of_targets_are_counted_too(tmp_path):
    """manifest.json: what meta-training and fine-tuning leave out."""
    from dataclasses import replace

    from common.engine.workspace import Workspace
    from projects.demo_retrieval.evaluate import write_manifest

    module, tasks = module_of()

    def longer(task):
        return replace(
            task, train=(task.train[0]._replace(question="what is it? " * 20), *task.train[1:])
        )

    for meta, want in ((tuple(map(longer, tasks.meta)), {"made_up_other": 1}), ((), {})):
        own = replace(tasks, meta=meta, targets=(longer(tasks.targets[0]), *tasks.targets[1:]))
        write_manifest(module.cfg, module, own, Workspace(tmp_path, "demo_retrieval", "smoke"))
        actual = json.loads((tmp_path / "manifest.json").read_text())
        assert actual["too_long"] == {**want, "made_up_qa": 1}
