"""Runs, export, tasks and configs as the commands drive them: items 15, 16, 19, 20, 21, 22."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

from common.config import UserError, config_names
from common.encoders.state_dict import weights_digest
from common.engine.comparison.spec import read_comparisons
from common.engine.lifecycle.settings import resolved
from common.engine.run import train
from common.engine.sweeps.schema import arms_of, read_sweep, words_of
from common.engine.trainer import stage_config
from common.engine.workspace import Workspace
from common.models import load as load_model
from projects.demo_retrieval import baselines, build, folder, tasks
from projects.demo_retrieval.bank import write_bank
from projects.demo_retrieval.evaluate import Answers, answered, mechanism, rows_to_answer, score
from projects.demo_retrieval.folder import BANK, INDEX, SETTINGS, load
from projects.demo_retrieval.inference import Answerer
from projects.demo_retrieval.network import build_generator
from projects.demo_retrieval.retriever import TfidfSvd
from projects.demo_retrieval.sources import Task
from projects.demo_retrieval.stages import Tasks, phase_optim, stages
from projects.demo_retrieval.template import Example
from tests.cards import exported_by
from tests.projects.demo_retrieval.conftest import WORDS, config, module_of


def test_items_19_and_21_one_run_trains_and_scores_three_families(run):
    """Checklist 19, 21: questions, entailment and topics end to end; wall time and peak memory are
    logged.
    """
    actual = json.loads((run / "metrics.json").read_text())
    kinds = [
        f"made_up_topic_{kind}{name}"
        for kind in ("", "generated_", "ranked_")
        for name in ("accuracy", "macro_f1")
    ]
    for name in ("made_up_qa_f1", "made_up_qa_exact", "made_up_nli_accuracy", *kinds):
        assert 0 <= actual[name] <= 1
    assert actual["made_up_topic_macro_f1"] == actual["made_up_topic_generated_macro_f1"]
    assert actual["accuracy_chance"] == pytest.approx((1 / 2 + 1 / 4) / 2)
    assert actual["accuracy"] == pytest.approx(
        (actual["made_up_nli_accuracy"] + actual["made_up_topic_accuracy"]) / 2
    )
    meta = json.loads((run / "meta.json").read_text())
    assert meta["wall_seconds"] > 0
    assert any("memory" in key or "peak" in key for key in meta)
    stages = {p.name for p in (run / "checkpoints").iterdir()}
    assert stages == {"denoise", "meta", "finetune"}


def test_items_16_and_22_tasks_of_hits_and_sources_are_logged(run):
    """Checklist 13, 16, 22: share of hits of other tasks, counts of an epoch, what is in
    meta-training and bank.
    """
    actual = json.loads((run / "metrics.json").read_text())
    assert 0 < actual["other_task"] < 1
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["meta"] == manifest["meta_epoch"] == {"made_up_other": 120}
    assert set(manifest["bank"]) == {"made_up_other", "made_up_qa", "made_up_nli", "made_up_topic"}
    assert manifest["exclude_eval_tasks"] is True
    assert len(manifest["index"]) == 32


def exported(folder, *overrides):
    """An exported module with some weights, and the module."""
    module, _ = module_of(*overrides)
    with torch.no_grad():
        for p in module.network.parameters():
            p.mul_(4)
    folder.mkdir()
    build(module.cfg).export(module.eval(), folder)
    exported_by("demo_retrieval", folder)
    return module


def test_exports_reload_with_equal_outputs_here_and_in_transformers(tmp_path):
    """Generator for the library, retriever and bank in files of their own."""
    module = exported(tmp_path / "export")
    experiment = build(config())
    before, after = (
        experiment.embed(m) for m in (module, experiment.load_export(tmp_path / "export"))
    )
    for name, value in before.items():
        torch.testing.assert_close(value, after[name], atol=1e-6, rtol=1e-6)
    plain = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "export").eval()
    ids = torch.tensor([[2, 9, 8, 3]])
    with torch.no_grad():
        a, b = (m(input_ids=ids, decoder_input_ids=ids).logits for m in (plain, module.network))
    torch.testing.assert_close(a, b)
    assert {p.name for p in (tmp_path / "export").iterdir()} >= {
        SETTINGS,
        "bank.jsonl",
        "retriever.safetensors",
        "retriever.json",
        "model.safetensors",
    }
    with pytest.raises(UserError, match="not an exported"):
        load(config(), tmp_path)


def test_item_20_another_bank_changes_answers_and_no_weight(tmp_path):
    """Checklist 20: by task and by `swap_bank`; the retriever stays the same, too."""
    exported(tmp_path / "export")
    model = load_model(tmp_path / "export")
    assert isinstance(model, Answerer)
    weights, retriever = (
        weights_digest(model.module.network),
        model.module.bank.retriever.fingerprint(),
    )
    question = ("what is there?", "a cat 123")
    shown = model.demonstrations(*question)
    batch = model._rows([Example("", *question[:1], (), question[1])]).collate([0])
    first = model.module.ranked(batch, ("cat", "dog"))
    rows = [
        Example("mine", "what is there?", (w,), f"{w} 123", (), w) for w in ("zebra", "yak", "fox")
    ]
    write_bank(tmp_path / "own.jsonl", rows)
    model.swap_bank(tmp_path / "own.jsonl")
    assert {d.task for d in model.demonstrations(*question)} == {"mine"} != {d.task for d in shown}
    batch = model._rows([Example("", *question[:1], (), question[1])]).collate([0])
    assert not torch.allclose(model.module.ranked(batch, ("cat", "dog")), first)
    assert weights_digest(model.module.network) == weights
    assert model.module.bank.retriever.fingerprint() == retriever
    assert model.answer("which?", "a cat", ["cat", "dog"]) in ("cat", "dog")

    words = [f"answer.run={tmp_path}/export", f"answer.bank={tmp_path}/own.jsonl"]
    workspace = Workspace(tmp_path / "task", "demo_retrieval", "smoke")
    (tmp_path / "in.jsonl").write_text(
        json.dumps({"question": "which?", "context": "a cat", "options": ["cat", "dog"]}) + "\n"
    )
    actual = tasks.answer(config(*words, f"answer.input={tmp_path}/in.jsonl"), workspace)
    lines = [json.loads(x) for x in (tmp_path / "task/answers.jsonl").read_text().splitlines()]
    assert [x["answer"] for x in lines] == actual
    assert {d["task"] for d in lines[0]["demonstrations"]} == {"mine"}
    assert len(tasks.answer(config(*words, "answer.question=who?"), workspace)) == 1
    with pytest.raises(UserError, match=r"answer\.run"):
        tasks.answer(config(), workspace)


def test_answers_say_what_was_not_read_and_what_was_not_known(tmp_path, capsys):
    """A long context was cut without a word, and a bank of unknown words gave its first rows as if
    found.
    """
    exported(tmp_path / "export")
    rows = [Example("mine", f"qqx{i}", ("qqy",), "", (), str(i)) for i in range(3)]
    write_bank(tmp_path / "own.jsonl", rows)
    asked = [
        {"question": "what is there?", "context": "a cat"},
        {"question": "zzyzx?", "context": "vv " * 300},
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    words = [f"answer.run={tmp_path}/export", f"answer.input={tmp_path}/in.jsonl"]
    workspace = Workspace(tmp_path / "task", "demo_retrieval", "smoke")
    tasks.answer(config(*words), workspace)
    said = capsys.readouterr().out
    assert "question 2: the retriever knows none of its words" in said
    assert "question 1:" not in said
    assert "demonstrations have no word" not in said
    first, second = (
        json.loads(x) for x in (tmp_path / "task/answers.jsonl").read_text().splitlines()
    )
    assert first["context_tokens_cut"] == 0 < second["context_tokens_cut"]
    assert f"question 2: the last {second['context_tokens_cut']} of" in said
    tasks.answer(config(*words, f"answer.bank={tmp_path}/own.jsonl"), workspace)
    assert "3 demonstrations have no word that the retriever knows" in capsys.readouterr().out


def test_item_14_an_export_holds_its_index(tmp_path, monkeypatch):
    """Checklist 14, 20: nothing is encoded anew when a folder is opened; another bank has another
    index.
    """
    module, calls = exported(tmp_path / "export"), []
    plain = TfidfSvd.demonstrations
    monkeypatch.setattr(
        TfidfSvd,
        "demonstrations",
        lambda self, texts: calls.append(len(texts)) or plain(self, texts),
    )
    again = load(config(), tmp_path / "export")
    assert calls == []
    assert torch.equal(again.bank.vectors, module.bank.vectors)
    assert (tmp_path / "export" / INDEX).is_file()
    write_bank(tmp_path / "export" / BANK, module.bank.examples[::-1])
    turned = load(config(), tmp_path / "export")
    assert calls == [len(module.bank.examples)]
    torch.testing.assert_close(turned.bank.vectors, module.bank.vectors.flip(0))


def test_the_retriever_of_an_export_keeps_to_the_accelerator(tmp_path, monkeypatch):
    """It went to the GPU with trainer.accelerator=cpu as well."""
    exported(tmp_path / "export")
    seen, plain = [], folder.load_retriever
    monkeypatch.setattr(folder, "load_retriever", lambda *own: seen.append(own[2]) or plain(*own))
    load(config("trainer.accelerator=cpu"), tmp_path / "export")
    assert seen == ["cpu"]


def test_item_17_an_export_with_random_demonstrations_answers(tmp_path):
    """Checklist 17: a question of no task draws from the whole bank, and the answers name what was
    shown.
    """
    module = exported(tmp_path / "export", "method.selection=random_task")
    experiment = build(config())
    before, after = (
        experiment.embed(m) for m in (module, experiment.load_export(tmp_path / "export"))
    )
    torch.testing.assert_close(before, after, atol=1e-6, rtol=1e-6)
    rows = [{"question": "what is there?", "context": "a cat", "options": ["cat", "dog"]}] * 3
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    words = [f"answer.run={tmp_path}/export", f"answer.input={tmp_path}/in.jsonl"]
    tasks.answer(config(*words), Workspace(tmp_path / "task", "demo_retrieval", "smoke"))
    lines = [json.loads(x) for x in (tmp_path / "task/answers.jsonl").read_text().splitlines()]
    actual = [[d["context"] for d in line["demonstrations"]] for line in lines]
    asked = [Example("", "what is there?", (), "a cat", ("cat", "dog"))] * 3
    shown = load_model(tmp_path / "export")._rows(asked).shown
    assert actual == [[d.context for d in own] for own in shown]
    assert len({tuple(own) for own in actual}) > 1
    with pytest.raises(UserError, match="0 demonstrations of another"):  # no silent other bank
        module.bank.at_random(Example("another", "q"), 1, np.random.default_rng(0), same_task=True)


def value(words, key):
    """The last value that overrides give a key."""
    return next(w.partition("=")[2] for w in reversed(words) if w.startswith(f"{key}="))


def fake_run(asked):
    """A training that notes its overrides and writes what a run leaves behind; seed 44 is cut off
    once.
    """
    base: dict = {}  # settings of all draws, but for their seeds

    def train(project, name, overrides):
        asked.append(list(overrides))
        place = Path(value(overrides, "runs_dir")) / project / name / value(overrides, "run_id")
        again = any(w.startswith("resume=") for w in overrides)
        assert place.exists() == again
        place.mkdir(parents=True, exist_ok=True)
        seed = int(value(overrides, "data.split_seed"))
        if not base:
            base.update(resolved(config(*overrides)))
        run = {"project": project, "config": name, "overrides": overrides, "started": "now"}
        meta = {**run, "resolved": {**base, "data": {**base["data"], "split_seed": seed}}}
        if seed == 44 and not again:
            (place / "meta.json").write_text(json.dumps(meta))
            raise KeyboardInterrupt
        (place / "meta.json").write_text(json.dumps({**meta, "finished": "now"}))
        (place / "metrics.json").write_text(json.dumps({"f1": seed / 100}))
        return place

    return train


def test_item_15_the_few_shot_runner_repeats_five_draws(tmp_path):
    """Checklist 15: five draws by default, a run of each, mean and deviation; a cut-off draw goes
    on, finished ones are not repeated.
    """
    asked: list[list[str]] = []
    cfg, train = config("optim.lr=0.5"), fake_run(asked)
    workspace = Workspace(tmp_path / "task", "demo_retrieval", "smoke")
    with pytest.raises(KeyboardInterrupt):
        tasks.few_shot(cfg, workspace, train)
    assert len(asked) == 3
    actual = tasks.few_shot(cfg, workspace, train)
    assert actual["f1"]["mean"] == pytest.approx(0.44)
    assert actual["f1"]["sd"] == pytest.approx(0.0158113883)
    assert [value(w, "data.split_seed") for w in asked] == ["42", "43", "44", "44", "45", "46"]
    assert "resume=draw-44" in asked[3]
    assert all({"optim.lr=0.5", "model.dropout=0.0"} <= set(w) for w in asked)
    assert config(*asked[0]).data.split_seed == 42
    with pytest.raises(UserError, match=r"draw-42 was made with other values of optim\.lr:"):
        tasks.few_shot(config("optim.lr=0.25"), workspace, train)
    cfg.few_shot.run = "folder"
    cfg.few_shot.seeds = [1, 2]
    tasks.few_shot(cfg, Workspace(tmp_path / "task2", "demo_retrieval", "smoke"), train)
    own = config(*asked[-1])
    assert (own.meta, own.model.pretrained, own.model.config) == (False, "folder", None)
    cfg.few_shot.seeds = [1]
    with pytest.raises(UserError, match="at least two"):
        tasks.few_shot(cfg, workspace, train)
    cfg.few_shot.seeds = [1, 2, 2]  # would count the second draw twice
    with pytest.raises(UserError, match="names a draw twice"):
        tasks.few_shot(cfg, workspace, train)


def test_item_15_draws_begin_with_an_exported_pair(tmp_path):
    """Checklist 15: a masked language model with a decoder opens although the config, as `mini`,
    sets its dropout.
    """
    words = ["model.encoder=bundled:text-encoder", "model.config=null", "model.decoder_layers=1"]
    module, experiment = exported(tmp_path / "export", *words), build(config(*words))
    pairs = (experiment.embed(m) for m in (module, experiment.load_export(tmp_path / "export")))
    torch.testing.assert_close(*pairs, atol=1e-6, rtol=1e-6)
    cfg, opened = config(*words, f"few_shot.run={tmp_path}/export", "few_shot.seeds=[1,2]"), []

    def train(project, name, overrides):
        opened.append(build_generator(config(*overrides).model)[0])
        place = tmp_path / value(overrides, "run_id")
        place.mkdir()
        (place / "metrics.json").write_text('{"f1": 0.5}')
        return place

    tasks.few_shot(cfg, Workspace(tmp_path / "task", "demo_retrieval", "smoke"), train)
    assert cfg.model.dropout == 0
    assert [n.encoder.config.hidden_dropout_prob for n in opened] == [0, 0]
    names = set(module.network.state_dict())  # no pooler, which would get no gradient
    assert all(set(n.state_dict()) == names for n in opened)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"question": None}, "expected question"),
        ({"question": "x", "options": "yes"}, "options must be a list"),
        ({"question": "x", "context": ["a"]}, "context must be a text"),
        ({"question": "", "context": "a"}, "empty question"),
    ],
)
def test_a_file_of_questions_says_what_is_wrong(row, said, tmp_path):
    """Fields of another kind are named before a model is opened."""
    (tmp_path / "in.jsonl").write_text(json.dumps(row) + "\n")
    words = [f"answer.run={tmp_path}", f"answer.input={tmp_path}/in.jsonl"]
    with pytest.raises(UserError, match=f"row 1.*{said}|{said}"):
        tasks.answer(config(*words), Workspace(tmp_path / "t", "demo_retrieval", "smoke"))


def test_prepare_writes_bank_and_manifest(tmp_path):
    cfg = config(f"retriever.cache={tmp_path}/index")
    path = tasks.prepare(cfg, Workspace(tmp_path / "task", "demo_retrieval", "smoke"))
    own = config(f"data.bank_file={path}")
    from projects.demo_retrieval.stages import read_tasks

    assert len(read_tasks(own).bank) == len(read_tasks(cfg).bank)
    assert len(list((tmp_path / "index").glob("*.safetensors"))) == 1


def test_baselines_score_the_same_inputs(tmp_path):
    cfg = config("eval.split=dev")
    for name in (
        "majority",
        "retrieved_label",
        "retrieved_vote",
        "word_vote",
        "letter_vote",
        "word_regression",
    ):
        workspace = Workspace(tmp_path / name, "demo_retrieval", "smoke")
        actual = getattr(baselines, name)(cfg, workspace)
        items = json.loads((tmp_path / name / "items/made_up_topic_accuracy.json").read_text())
        assert actual["made_up_topic_accuracy"] == pytest.approx(sum(items) / len(items))
        if name == "majority":
            assert actual["made_up_topic_accuracy"] == pytest.approx(0.25)


def test_the_vote_is_that_of_k_demonstrations(tmp_path, monkeypatch):
    """Three labels, cosines by hand: two of three against the best, and the best of three."""
    labels = ("cat", "dog", "sun")
    bank = tuple(
        Example("other", "q", (label,), f"text {i}", (), str(i))
        for i, label in enumerate(("cat", "dog", "dog", "sun"))
    )
    asked = tuple(
        Example("t", "q", (label,), f"input {label}", labels, label) for label in ("dog", "sun")
    )
    cosines = {"q input dog": [0.9, 0.8, 0.7, 0.6], "q input sun": [0.7, 0.8, 0.1, 0.9]}
    retriever = SimpleNamespace(
        demonstrations=lambda texts: torch.eye(len(texts)),
        questions=lambda texts: torch.tensor([cosines[text] for text in texts]),
    )
    tasks = Tasks((Task("t", "classification", labels, bank, (), asked),), (), bank, (), 0)
    monkeypatch.setattr(baselines, "read_tasks", lambda _: tasks)
    monkeypatch.setattr(baselines, "build_retriever", lambda *_: retriever)
    cfg, items = config("method.k=3"), {}
    for name in ("retrieved_vote", "retrieved_label"):
        actual = getattr(baselines, name)(
            cfg, Workspace(tmp_path / name, "demo_retrieval", "smoke")
        )
        items[name] = json.loads((tmp_path / name / "items/t_accuracy.json").read_text())
        assert actual["t_accuracy"] == actual["accuracy"] == sum(items[name]) / 2
    assert items == {"retrieved_vote": [1.0, 1.0], "retrieved_label": [0.0, 1.0]}


def test_what_is_copied_is_the_answer_of_a_demonstration():
    """By hand: a wrong answer that was shown, a right one that was not, a right one, none."""
    task = Task("t", "classification", ("cat", "dog", "sun"), ())
    shown = [Example("t", "q", ("cat",)), Example("other", "q", ("dog",))]
    golds, told = ("sun", "sun", "dog", "cat"), ["The cat.", "sun", "dog", ""]
    rows = SimpleNamespace(examples=[Example("t", "q", (g,)) for g in golds], shown=[shown] * 4)
    actual = mechanism(task, rows, Answers(told, []))
    assert actual == {
        "label_hit": [0.0, 0.0, 1.0, 1.0],
        "copied": [1.0, 0.0, 1.0, 0.0],
        "other_task": [0.5] * 4,
    }
    ranked = Answers(["none"] * 4, ["sun", "cat", "dog", "cat"], "ranked")  # the headline's answers
    assert mechanism(task, rows, ranked)["copied"] == [0.0, 1.0, 1.0, 1.0]
    rows.shown = [[None]] * 4
    assert mechanism(task, rows, ranked) == {}


def test_the_headline_is_the_generated_label_unless_said_otherwise():
    """`accuracy` is exact match of the free answer; both kinds stand under their own names."""
    task = Task("t", "classification", ("yes", "no"), ())
    examples = [Example("t", "q", ("yes",)), Example("t", "q", ("no",))]
    for headline, want in (("generated", [1.0, 0.0]), ("ranked", [1.0, 1.0])):
        actual = Answers(["Yes.", "maybe"], ["yes", "no"], headline)
        items = score(task, examples, actual)
        assert items["accuracy"] == want
        assert (items["generated_accuracy"], items["ranked_accuracy"]) == ([1.0, 0.0], [1.0, 1.0])
        assert actual.told == (actual.ranked if headline == "ranked" else actual.generated)
    assert config(name="mini").eval.headline == "ranked"


def test_stages_have_rate_accumulation_and_validation_of_their_own(tmp_path):
    """Fine-tuning and denoising accumulate by their own setting, meta-training by the trainer's,
    which validates nothing.
    """
    words = [
        f"runs_dir={tmp_path}",
        "trainer.accumulate_grad_batches=5",
        "finetune.val_every_n_steps=2",
        "finetune.lr=0.125",
        "denoise.lr=0.25",
    ]
    cfg = config(*words, "finetune.accumulate_grad_batches=3")
    first = next(stages(cfg))
    assert (first.name, first.module.optim.lr) == ("denoise", 0.25)
    assert stage_config(cfg.trainer, first).accumulate_grad_batches == 1
    cfg.denoise.max_steps = 0
    actual = [(s.monitor, sorted(s.data.val_sets)) for s in stages(cfg)]
    assert actual == [
        (None, []),
        ("val/f1", ["dev"]),
    ]  # item 5: no development example chooses a step of meta-training
    seen = [(s.name, s.module.optim.lr, stage_config(cfg.trainer, s)) for s in stages(cfg)]
    assert [(name, lr, own.accumulate_grad_batches) for name, lr, own in seen] == [
        ("meta", 1e-3, 5),
        ("finetune", 0.125, 3),
    ]
    assert seen[1][2].val_every_n_steps == 2
    cfg.finetune.max_steps, cfg.finetune_epochs = 0, 3
    last = [stage_config(cfg.trainer, s) for s in stages(cfg)][-1]
    assert (last.max_epochs, last.max_steps) == (3, None)


@pytest.mark.slow
def test_selection_keeps_the_best_step_by_f1(tmp_path):
    """Fine-tuning with validation on development examples logs val/f1."""
    words = [
        *WORDS,
        f"runs_dir={tmp_path}",
        "run_id=v",
        "meta=false",
        "denoise.max_steps=0",
        "finetune.val_every_n_steps=1",
    ]
    run = train("demo_retrieval", "smoke", words)
    assert "val/f1" in (run / "metrics.csv").read_text()


@pytest.mark.parametrize("selection", ["retrieved", "random_task", "none"])
def test_the_copy_test_shows_an_input_itself(selection):
    """`eval.gold`: a single demonstration with the right answer, whatever the model was trained
    with.
    """
    module, actual = module_of(f"method.selection={selection}", "eval.gold=true", "eval.limit=6")
    task = actual.targets[2]
    rows = rows_to_answer(module.cfg, module, task)
    assert rows.shown == [[e] for e in task.test[:6]]
    batch = rows.collate([0, 1])
    assert batch["input_ids"].shape[0] == 2
    text = module.tokenizer.decode(batch["input_ids"][0])
    assert f"answer : {task.test[0].answers[0]}" in text.partition("[MASK]")[0]
    items = mechanism(task, rows, answered(module.cfg, module, task, rows))
    assert items["label_hit"] == [1.0] * 6
    assert items["other_task"] == [0.0] * 6


def test_every_arm_has_the_same_search():
    """As many different rates for each arm, over the same range; none_long encodes as many inputs
    as `retrieved`.
    """
    sweep, rates = read_sweep("demo_retrieval"), {}
    for arm, own in arms_of("demo_retrieval", sweep, []).items():
        points = [
            config(*words_of({**sweep.shared, **own, **point}), name=sweep.base)
            for point in sweep.grid()
        ]
        rates[arm] = [phase_optim(cfg, cfg.finetune).lr for cfg in points]
        assert all(
            cfg.optim.lr == lr for cfg, lr in zip(points, rates[arm], strict=True) if cfg.meta
        )
    assert set(rates) == set(read_comparisons("demo_retrieval")[0].default_arms)
    assert len({tuple(own) for own in rates.values()}) == 1
    assert len(set(rates["retrieved_no_meta"])) == len(sweep.grid()) > 2
    arms, encoded = read_comparisons("demo_retrieval")[0].arms, []
    for arm in ("retrieved", "none_long"):
        cfg = config(*words_of(arms[arm]), name=sweep.base)
        copies = 1 if cfg.method.selection == "none" else cfg.method.k
        encoded.append(
            (
                copies * cfg.trainer.max_steps * cfg.data.batch_size,
                copies * cfg.finetune.max_steps * cfg.finetune.batch_size,
            )
        )
    assert encoded[0] == encoded[1]


@pytest.mark.parametrize(
    "name", [n for n in config_names("demo_retrieval") if n.startswith("paper")]
)
def test_paper_configs_are_built_on_the_meta_device(name):
    """BART-large, as `make check` sees it; what the sheet says of the recipe."""
    cfg = config(name=name)
    assert (cfg.method.k, cfg.method.coupling, cfg.data.max_source) == (5, "token", 800)
    assert (cfg.retriever.kind, cfg.retriever.scale) == ("dpr", 1.0)
    # 25 epochs of batches of two, each epoch validated; the sheet's main metric; seeds of the
    # official files
    assert (cfg.finetune.batch_size, cfg.finetune.accumulate_grad_batches, cfg.finetune_epochs) == (
        2,
        1,
        25,
    )
    classes = {"paper_mnli": 3, "paper_mrpc": 2, "paper_qnli": 2, "paper_trec": 6}.get(name)
    examples = cfg.data.qa_shots if classes is None else classes * cfg.data.shots
    assert cfg.finetune.val_every_n_steps == examples // 2
    assert cfg.eval.headline == "generated"
    assert cfg.few_shot.seeds == (
        [42, 43, 44, 45, 46] if classes is None else [100, 13, 21, 42, 87]
    )
    report = build(cfg).plan()
    with torch.device("meta"):
        module = report.module()
        assert report.forward(module, 1).shape == ()
    assert 400e6 < sum(p.numel() for p in module.parameters()) < 412e6


def test_settings_that_do_not_fit_are_refused():
    for words, said in (
        (["retriever.train_question_encoder=true"], "frozen"),
        (["retriever.kind=dpr"], "belongs to"),
        (["data.meta=[]"], "meta=false"),
        (["meta=false", "finetune.max_steps=0"], "nothing is trained"),
        (["finetune_epochs=2"], "both set"),
        (["model.encoder=x"], "in place of"),
        (["denoise.cache=x"], "cache"),
        (["denoise.val_every_n_steps=2"], "val_every_n_steps"),
        (["eval.generate=false"], "headline"),
        (["eval.headline=ranked", "eval.rank=false"], "headline"),
        (["data.max_options=27"], "max_options"),
        (["trainer.val_every_n_steps=2"], r"finetune\.val_every_n_steps"),
    ):
        with pytest.raises(UserError, match=said):
            config(*words)
