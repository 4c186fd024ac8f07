"""Runs, resume, exports, fine-tuning of the four tasks, tasks of `make run`, configs."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer

from common.config import UserError, config_names, load
from common.encoders.text.tower import quiet
from common.engine.comparison.spec import default_arms, read_comparison
from common.engine.sweeps.schema import read_sweep, words_of
from common.engine.trained import run_task
from common.engine.workspace import Workspace
from projects.space2 import build, folder, tasks
from projects.space2 import load as load_model
from projects.space2.config import Config
from projects.space2.data import training_data
from projects.space2.dialogs.tasks import Example, read_examples, span_example
from projects.space2.dialogs.trees import VIEWS
from projects.space2.dialogs.turns import Turn
from projects.space2.evaluate import held_out, score_similarity
from projects.space2.exported import as_bert, bert_inputs
from projects.space2.finetune import task_batches, task_loss
from projects.space2.heads import GATES, TaskHead
from projects.space2.rows import state_labels, task_row, word_row
from projects.space2.scoring import answers, track
from projects.space2.stages import stages
from tests.figures import unrendered
from tests.placed import passes_within_evaluated
from tests.projects.space2.conftest import (
    STILL,
    batch_of,
    config,
    finetune_of,
    module_of,
    network_of,
    run_of,
)

ARMS = {
    "self": ["method.learning=self"],
    "super": ["method.learning=super"],
    "semi": ["method.learning=semi"],
    "hard": ["method.learning=super", "method.score=hard"],
    "combined": ["method.learning=super", "method.score=combined"],
}


def test_all_arms_run_from_one_config_group():
    """Checklist 15: each with its batches, all with different losses."""
    actual = {}
    for name, words in ARMS.items():
        module = module_of(*words, *STILL)
        batch = batch_of(module, *words, *STILL)
        expected = {"self": {"unlabelled"}, "semi": {"labelled", "unlabelled"}}.get(
            name, {"labelled"}
        )
        assert set(batch) == expected
        actual[name] = module.losses(batch)["loss"]
        actual[name].backward()
        unused = [n for n, p in module.named_parameters() if p.requires_grad and p.grad is None]
        assert not unused, (name, unused)
    assert len({round(x.item(), 5) for x in actual.values()}) == len(ARMS)


def test_a_run_reports_trees_neighbours_and_few_shot_classes(run):
    metrics = json.loads((run / "metrics.json").read_text())
    expected = {
        "turn_spearman",
        "tree_spearman",
        "tree_spearman_related",
        "neighbour_score",
        "turn_spearman_sentence",
    }
    assert expected <= metrics.keys()
    assert {f"view_spearman_{v}" for v in ("D", "I", "DISV")} <= metrics.keys()
    assert len(json.loads((run / "items/turn_spearman.json").read_text())) > 10
    assert list(run.glob("**/gallery.json"))


def test_scores_of_similarities_by_hand(tmp_path):
    """A similarity that is the tree score itself is perfect, its opposite the reverse."""
    from projects.space2.dialogs.trees import combined_matrix

    held = held_out(config("eval.turns=20"))
    tree = combined_matrix(held.frames)
    good, bad = (score_similarity(held, m, None) for m in (tree, -tree))
    assert good["turn_spearman"] == pytest.approx(1.0)
    assert bad["tree_spearman"] == pytest.approx(-1.0)
    assert good["neighbour_score"] > bad["neighbour_score"]


# -- exports -------------------------------------------------------------------------------------


def test_an_export_opens_in_transformers_with_equal_outputs(run, tmp_path):
    """A plain BERT: dialogues by shifted positions and token types, requests by its own
    tokenizer."""
    module = module_of().eval()
    network = module.network
    with torch.no_grad():  # no table may be near nothing
        for table in (
            network.encoder.embeddings.role_embeddings,
            network.encoder.embeddings.turn_embeddings,
        ):
            torch.nn.init.normal_(table.weight, std=0.5)
    folder.export(config(), module, tmp_path)
    held = held_out(config("eval.turns=6"))
    inputs = network.texts.pad(network.texts.encode(held.dialogs, held.places))
    states = network.encoder(**inputs)
    mask = torch.cat([torch.ones(len(states), 1), inputs["attention_mask"]], 1).bool()
    with quiet():
        model, tokenizer = (
            AutoModel.from_pretrained(tmp_path),
            AutoTokenizer.from_pretrained(tmp_path),
        )
    own = bert_inputs(dict(inputs), network.encoder.cls_id, 17)
    with torch.no_grad():
        torch.testing.assert_close(
            model(**own).last_hidden_state[mask], states[mask], atol=2e-5, rtol=1e-4
        )
        texts = ["a cheap hotel in the north", "the bank"]
        actual = model(**tokenizer(texts, return_tensors="pt", padding=True)).last_hidden_state[
            :, 0
        ]
    again = load_model(tmp_path)
    torch.testing.assert_close(again.encode(texts), actual, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(again.encode(texts), network.encode(network.texts.texts(texts)))
    assert as_bert(network.encoder).config.type_vocab_size == 32
    assert not [p for p in tmp_path.iterdir() if p.suffix in (".bin", ".pt", ".ckpt")]
    tensors = load_file(tmp_path / "model.safetensors")
    lost = next(k for k in tensors if k.endswith("layer.0.intermediate.dense.weight"))
    save_file(
        {k: v for k, v in tensors.items() if k != lost},
        tmp_path / "model.safetensors",
        {"format": "pt"},
    )
    with pytest.raises(
        UserError, match=f"1 tensors such as .*{lost} are missing"
    ):  # they were drawn at random
        load_model(tmp_path)
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "dialog.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match="damaged"):
        load_model(tmp_path)


def test_views_are_unit_vectors(run, tmp_path):
    module = module_of().eval()
    folder.export(config(), module, tmp_path)
    model = load_model(tmp_path)
    views = model.views(["a hotel", [Turn(False, "which area?"), Turn(True, "the north")]])
    assert len(views) == 10
    torch.testing.assert_close(views["D"].norm(dim=1), torch.ones(2))
    both = model.similarity(["a hotel"], ["a hotel", "fish"])
    assert both[0, 0] == pytest.approx(1.0, abs=1e-5)
    with pytest.raises(UserError, match="view must be"):
        model.similarity(["a"], ["b"], view="X")
    with pytest.raises(UserError, match="no head"):
        model.classify(["a"])
    with pytest.raises(ValueError, match="nothing to read"):
        model.encode([])


def test_what_was_not_trained_is_not_scored_and_not_exported(tmp_path):
    """Arm view_I: its own sub-space is scored, and an export names it; a fine-tuned BERT has
    none."""
    words = ["method.views=[I]", "method.learning=super", "eval.turns=20", "eval.act_turns=20"]
    module, cfg = module_of(*words).eval(), config(*words)
    first = build(cfg).evaluate(module, Workspace(tmp_path / "w"))
    assert {k for k in first if k.startswith("view_spearman")} == {"view_spearman_I"}
    assert "view_neighbour_I_chance" in first
    with torch.no_grad():  # other sub-spaces
        keep = module.network.projection.weight[8:16].clone()
        module.network.projection.weight.normal_()
        module.network.projection.weight[8:16] = keep
    again = build(cfg).evaluate(module, Workspace(tmp_path / "w"))
    assert again == first
    folder.export(cfg, module, tmp_path / "i")
    model = load_model(tmp_path / "i")
    assert list(model.views(["a hotel"])) == ["I"]
    assert model.similarity(["a"], ["b"]) == model.similarity(["a"], ["b"], view="I")
    with pytest.raises(UserError, match="which were trained"):
        model.similarity(["a"], ["b"], view="D")
    folder.export(config("train=finetune"), finetune_of(), tmp_path / "f")
    with pytest.raises(UserError, match="no sub-space"):
        load_model(tmp_path / "f").similarity(["a"], ["b"])


def test_an_export_as_start_keeps_to_the_options(tmp_path):
    """Lengths beyond its tables and other sub-spaces are refused; attention is what was asked
    for."""
    folder.export(config(), module_of().eval(), tmp_path)
    start = [f"model.pretrained={tmp_path}", "model.config=null"]
    for words, said in (
        (["data.max_turns=20"], "data.max_turns"),
        (["data.max_length=200"], "data.max_length"),
        (["model.dim=16"], "model.dim=8"),
        (["model.shared=true"], "model.shared=False"),
    ):
        with pytest.raises(UserError, match=said):
            network_of(*start, *words)
    own = network_of(*start, "model.attention=eager", "method.views=[I]")
    assert own.encoder.backbone.config._attn_implementation == "eager"
    assert own.views == ("I",)
    assert (
        network_of(*start, "train=finetune", "model.dim=16").views == VIEWS
    )  # its projection is not read


def test_classify_answers_the_user_s_own_lines(run, tmp_path, capsys):
    """`make run TASK=classify`: by examples after pre-training, by the head after fine-tuning."""
    lines = "I want a hotel in the north\n\nI want a taxi in the south\n"
    (tmp_path / "in.txt").write_text(lines + "I want a taxi " * 30 + "\n")
    (tmp_path / "ex.csv").write_text(
        "text,label\nI want a hotel in the north,hotel\nI want a taxi in the south,taxi\n"
    )
    words = [f"runs_dir={run.parents[2]}", f"classify.input={tmp_path}/in.txt", "classify.run=a"]
    with unrendered():
        with pytest.raises(UserError, match="no head"):
            run_task("space2", "smoke", words, "classify")
        run_task("space2", "smoke", [*words, f"classify.examples={tmp_path}/ex.csv"], "classify")
        said = capsys.readouterr().out  # what long requests lose was not said
        assert "1 of 3 requests are cut to their last" in said
        with pytest.raises(UserError, match=r"classify\.input"):
            run_task("space2", "smoke", words[:1], "classify")
    actual = max(run.parents[2].rglob("predictions.tsv"), key=lambda p: p.stat().st_mtime)
    told = actual.read_text().splitlines()
    assert told[:2] == ["hotel\tI want a hotel in the north", "taxi\tI want a taxi in the south"]
    assert len(told) == 3
    tuned = finetune_of().eval()
    folder.export(config("train=finetune"), tuned, tmp_path / "export")
    names = load_model(tmp_path / "export").classify(["I want a hotel", "a taxi"])
    assert set(names) <= set(tuned.head.names)


@pytest.mark.parametrize(("kind", "bias"), [("slot", 1.0), ("top", 0.0)])
def test_predict_writes_slots_and_parses_of_own_requests(kind, bias, tmp_path, monkeypatch):
    """`make run TASK=predict`: what the evaluation scores, as words of the request."""
    module = finetune_of(f"task.kind={kind}").eval()
    module.head.tags.bias.data[module.head.tag_names.index("B-area")] += bias  # for some words
    monkeypatch.setattr("common.engine.trained.trained_module", lambda *_: (module, None))
    texts = ["I want a cheap hotel in the north", "a taxi  to the south"]
    (tmp_path / "in.txt").write_text(f"{texts[0]}\n\n{texts[1]}\n")
    cfg = config(f"predict.input={tmp_path}/in.txt", "trainer.accelerator=cpu")
    rows = tasks.predict(cfg, Workspace(tmp_path), None)
    assert [row["text"] for row in rows] == texts
    assert [
        json.loads(x) for x in (tmp_path / "predictions.jsonl").read_text().splitlines()
    ] == rows
    examples = [Example((Turn(True, t),), words=tuple(t.split())) for t in texts]
    for row, (intent, tags) in zip(
        rows, answers(module.network, module.head, examples, 8), strict=True
    ):
        words = row["text"].split()
        named = [w for w, tag in zip(words, tags, strict=True) if tag != "O"]
        assert " ".join(slot["value"] for slot in row["slots"]).split() == named
        assert row.get("intent", "") == intent
    assert any(row["slots"] for row in rows)
    folder.export(config("train=finetune", f"task.kind={kind}"), module, tmp_path / "export")
    again = load_model(tmp_path / "export").slots(texts)
    assert [[s._asdict() for s in own] for own in again] == [row["slots"] for row in rows]
    with pytest.raises(UserError, match=r"task\.kind=dst"):
        load_model(tmp_path / "export").states([[Turn(True, "a taxi")]])


def test_predict_tracks_the_states_of_own_dialogues(tmp_path, monkeypatch):
    """The system's annotated offers are read, the user's annotation is not."""
    module = finetune_of("task.kind=dst").eval()
    monkeypatch.setattr("common.engine.trained.trained_module", lambda *_: (module, None))
    place = module.head.slots[0]
    domain, slot = place.split("-")
    offer, said = (
        {domain: {"inform": {slot: [{"value": value}]}}} for value in ("the moon", "secret")
    )
    turns = [
        {"role": "user", "text": "a hotel", "label": said},
        {"role": "system", "text": "the moon is free", "label": offer},
        {"role": "user", "text": "fine"},
    ]
    (tmp_path / "in.json").write_text(json.dumps({"x": {"turns": turns}}))
    # every gate but that of the first slot is shut; that one takes what the system told
    gate = module.head.state.gate
    torch.nn.init.zeros_(gate.weight)
    bias = torch.nn.functional.one_hot(
        torch.tensor(
            [GATES.index("inform")] + [GATES.index("none")] * (module.head.state.num_slots - 1)
        ),
        len(GATES),
    )
    gate.bias.data = bias.float().flatten()
    cfg = config(f"predict.input={tmp_path}/in.json", "trainer.accelerator=cpu")
    rows = tasks.predict(cfg, Workspace(tmp_path), None)
    assert rows == [
        {"dialog": "x", "text": "a hotel", "state": {}},
        {"dialog": "x", "text": "fine", "state": {place: "the moon"}},
    ]
    monkeypatch.setattr("common.engine.trained.trained_module", lambda *_: (finetune_of(), None))
    with pytest.raises(UserError, match="fine-tuned for slots"):
        tasks.predict(cfg, Workspace(tmp_path), None)


@pytest.mark.parametrize("tuned", [False, True])
def test_classify_works_where_the_config_says(tuned, tmp_path, monkeypatch):
    """It stayed on the CPU beside a GPU; every pass lies within `evaluated`, and the head where its
    vectors are.
    """
    module = finetune_of() if tuned else module_of()
    seen = passes_within_evaluated(monkeypatch, tasks, lambda part: part.encoder)

    monkeypatch.setattr("common.engine.trained.trained_module", lambda *_: (module, None))
    (tmp_path / "in.txt").write_text("I want a hotel\nI want a taxi\n")
    (tmp_path / "ex.csv").write_text("text,label\na hotel,hotel\na taxi,taxi\n")
    words = [] if tuned else [f"classify.examples={tmp_path}/ex.csv"]
    cfg = config(f"classify.input={tmp_path}/in.txt", *words, "trainer.accelerator=auto")
    assert len(tasks.classify(cfg, Workspace(tmp_path), None)) == 2
    assert set(seen) == {(module.network, "auto")}


def test_examples_that_are_none_are_not_passed_over(tmp_path, monkeypatch):
    """A file with a header alone was as none at all: the head answered; an empty label was an
    intent.
    """
    monkeypatch.setattr("common.engine.trained.trained_module", lambda *_: (finetune_of(), None))
    (tmp_path / "in.txt").write_text("I want a hotel\n\nI want a taxi\n")
    words = [f"classify.input={tmp_path}/in.txt", f"classify.examples={tmp_path}/ex.csv"]
    for rows, told in (
        ("", "no row below its header"),
        ("a hotel,hotel\na taxi,\n", "row 2: no label"),
    ):
        (tmp_path / "ex.csv").write_text(f"text,label\n{rows}")
        with pytest.raises(UserError, match=told):
            tasks.classify(config(*words), Workspace(tmp_path), None)
    assert len(tasks.classify(config(words[0]), Workspace(tmp_path), None)) == 2
    assert "1 blank lines of" in (tmp_path / "notes.txt").read_text()


# -- fine-tuning ---------------------------------------------------------------------------------

METRIC = {
    "intent": "test_accuracy",
    "slot": "test_macro_f1",
    "top": "test_exact_match",
    "dst": "test_joint_goal_accuracy",
}


@pytest.mark.parametrize("kind", list(METRIC))
def test_every_task_has_a_head_a_loss_and_its_metric(kind, tmp_path):
    """Checklist 14: some steps raise the official metric; exported and reloaded it is the same."""
    words = ["train=finetune", f"task.kind={kind}", *STILL, "task.kl_weight=0", "task.mlm_weight=0"]
    cfg, module = config(*words), finetune_of(*words)
    data = task_batches(cfg, module).train_set
    rows = [[(i, 0) for i in range(len(data))][k::2] for k in range(2)]
    optimizer = torch.optim.Adam(module.parameters(), lr=5e-3)
    before = build(cfg).evaluate(module, Workspace(tmp_path))[METRIC[kind]]
    first = None
    for step in range(60 if kind == "dst" else 24):
        loss = module.losses(data[rows[step % 2]])["loss"]
        first = loss.item() if first is None else first
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.3 * first
    after = build(cfg).evaluate(module, Workspace(tmp_path))[METRIC[kind]]
    assert after > max(before, 0.5)
    folder.export(cfg, module.eval(), tmp_path / "export")
    again = folder.load(cfg, tmp_path / "export")
    assert build(cfg).evaluate(again, Workspace(tmp_path))[METRIC[kind]] == after
    want, actual = (folder.embed(cfg, m) for m in (module, again))
    assert all(torch.equal(want[name], actual[name]) for name in want)


def test_fine_tuning_adds_kl_and_masked_words():
    """Checklist 11: CE of both copies + 5 KL + 0.1 masked prediction; equal copies have no KL."""
    module = finetune_of(*STILL)
    batch = task_batches(config("train=finetune", *STILL), module).train_set[
        [(i, 0) for i in range(6)]
    ]
    actual = module.losses(batch)
    assert actual["kl"].abs() < 1e-6
    torch.testing.assert_close(
        actual["loss"], actual["ce"] + 0.1 * actual["mlm"], atol=1e-5, rtol=1e-5
    )
    seen = []
    module.network.encoder.register_forward_hook(lambda m, args, out: seen.append(len(out)))
    module.losses(batch)
    module.task.kl_weight = 0.0
    assert "kl" not in module.losses(batch)
    assert seen == [12, 6, 6, 6]  # two copies and the hidden words; without KL one copy
    noisy = finetune_of("model.dropout=0.3")
    actual = noisy.losses(batch)
    assert actual["kl"] > 0
    torch.testing.assert_close(
        actual["loss"], actual["ce"] + 5 * actual["kl"] + 0.1 * actual["mlm"]
    )
    noisy.only_words = True
    assert set(noisy.losses(batch)) == {"mlm", "loss"}
    logits = {"intent": torch.zeros(4, 2), "tags": torch.randn(4, 3, 5)}
    labels = {"intent": torch.tensor([0, 1]), "tags": torch.tensor([[1, -100, 2], [0, 3, -100]])}
    both = task_loss("top", logits, labels, 0.0)
    torch.testing.assert_close(both["loss"], both["ce"] + both["tags_ce"])


def test_tags_stand_at_first_pieces_of_words_that_are_left():
    """Checklist 14: slots are read at the first piece of a word; words that were cut count as O."""
    network = network_of("data.max_length=8")
    row, first = word_row(["hotel", "tuesday", "now"], network.texts)
    tokens = network.texts.tokenizer.convert_ids_to_tokens(row.ids.tolist())
    kept = [f for f in first if f >= 0]
    assert len(kept) < 3
    assert not any(tokens[f].startswith("##") for f in kept)
    head = TaskHead("slot", 32, tags=("B-day", "O"))
    example = Example((Turn(True, "x"),), words=("a", "b"), tags=("O", "B-day"))
    labels = task_row(example, network.texts, head).labels["tags"]
    assert labels.tolist() == [-100, 1, 0, -100]
    with pytest.raises(UserError, match="does not occur"):
        task_row(Example((), words=("a",), tags=("B-x",)), network.texts, head)


def test_restaurants_8k_is_read_as_dialoglue_reads_it():
    """Checklist 14: requested slot in front, every occurrence of a value's word, left-out start is
    0.
    """
    row = {
        "userInput": {"text": "six or six"},
        "context": {"requestedSlots": ["time"]},
        "labels": [{"slot": "time", "valueSpan": {"endIndex": 3}}],
    }
    actual = span_example(row)
    assert actual.words == ("time", "six", "or", "six")
    assert actual.tags == ("O", "B-time", "O", "B-time")
    for kind in ("slot", "top"):
        examples = read_examples(kind, "bundled", "dev")
        assert len(examples) > 600
        assert all(len(e.words) == len(e.tags) for e in examples)


def test_folders_of_dialoglue_are_read(tmp_path):
    """Checklist 14: the four layouts; a missing file names its source."""
    (tmp_path / "train.csv").write_text("text,category\nhi,greet\n")
    (tmp_path / "train.json").write_text(json.dumps([{"userInput": {"text": "six"}, "labels": []}]))
    (tmp_path / "train.txt").write_text("call:O mum:B-contact <=> IN:CALL\n")
    assert read_examples("intent", "folder", "train", folder=tmp_path)[0].intent == "greet"
    assert read_examples("slot", "folder", "train", folder=tmp_path)[0].tags == ("O",)
    (parsed,) = read_examples("top", "folder", "train", folder=tmp_path)
    assert (parsed.words, parsed.tags, parsed.intent) == (
        ("call", "mum"),
        ("O", "B-contact"),
        "IN:CALL",
    )
    with pytest.raises(UserError, match="dialoglue"):
        read_examples("dst", "folder", "train", folder=tmp_path)
    (tmp_path / "eval.txt").write_text("no arrow\n")
    with pytest.raises(UserError, match="TOP"):
        read_examples("top", "folder", "dev", folder=tmp_path)


def gates_of(**changes):
    texts = network_of().texts
    slots = ["hotel-area", "hotel-internet", "hotel-name", "taxi-area"]
    example = Example((Turn(True, "somewhere in the north please"),), **changes)
    row = texts.row(texts.utterances(example.turns), True)
    actual = state_labels(example, row, texts, slots)
    return {s: GATES[g] for s, g in zip(slots, actual["gate"], strict=True)}, actual, row, texts


def test_states_become_gates_spans_and_references():
    """Checklist 14: own words, yes and no, whatever, what the system told, another slot; nothing
    unchanged.
    """
    state = {
        "hotel-area": "north",
        "hotel-internet": "yes",
        "hotel-name": "the ritz",
        "taxi-area": "dontcare",
    }
    gates, actual, row, texts = gates_of(state=state, told={"hotel-name": "the ritz"})
    assert gates == {
        "hotel-area": "copy_value",
        "hotel-internet": "true",
        "hotel-name": "inform",
        "taxi-area": "dontcare",
    }
    start, end = actual["start"][0], actual["end"][0]
    assert texts.tokenizer.decode(row.ids[start : end + 1].tolist()).replace(" ##", "") == "north"
    assert (actual["start"][1:] == -100).all()
    gates, actual, *_ = gates_of(
        state={"hotel-area": "south", "taxi-area": "south"}, before={"hotel-area": "south"}
    )
    assert gates["hotel-area"] == "none"
    assert gates["taxi-area"] == "refer"
    assert actual["refer"][3] == 0
    assert (
        gates_of(state={"hotel-name": "hilton"})[0]["hotel-name"] == "none"
    )  # nowhere to point at


def test_states_are_carried_on_from_the_model_s_own():
    """Checklist 14: a wrong value stays wrong until a gate changes it."""
    module = finetune_of("task.kind=dst")
    examples = read_examples("dst", "synthetic", "test")[:4]
    states = track(module.network.eval(), module.head.eval(), examples)
    by_dialog = {}
    for example, state in zip(examples, states, strict=True):
        before = by_dialog.get(example.dialog, {})
        assert before.keys() <= state.keys()
        by_dialog[example.dialog] = state


@pytest.mark.slow
def test_masked_prediction_may_come_first(tmp_path):
    """`task.mlm_pre_epochs`: a stage of its own on the task's texts, then fine-tuning of a
    pre-trained export;
    with `trainer.val_every_n_steps` the best on the development part counts."""
    folder.export(config(), module_of().eval(), tmp_path / "pre")
    words = [
        "train=finetune",
        "task.mlm_pre_epochs=0.34",
        f"model.pretrained={tmp_path / 'pre'}",
        "model.config=null",
        "trainer.max_steps=2",
        "trainer.val_every_n_steps=1",
        "optim.warmup_steps=9",
    ]
    actual = run_of(tmp_path / "runs", "run_id=f", *words)
    assert sorted(p.name for p in (actual / "checkpoints").iterdir()) == ["finetune", "mlm"]
    assert 0 <= json.loads((actual / "metrics.json").read_text())["test_accuracy"] <= 1
    assert (actual / "checkpoints/finetune/best.ckpt").is_file()
    assert not (actual / "checkpoints/mlm/best.ckpt").exists()
    rows = (actual / "metrics.csv").read_text().splitlines()
    assert sum("val/score" in row for row in rows) == 2
    with pytest.raises(UserError, match="no validation"):
        config("trainer.val_every_n_steps=2")


def test_hidden_words_alone_are_trained_at_a_constant_rate():
    """As released; the warm-up of fine-tuning may be longer than the whole stage."""
    words = ["task.mlm_pre_epochs=1", "optim.schedule=linear", "optim.warmup_epochs=5"]
    first, second = (
        (s.module.optim.schedule, s.module.optim.warmup_epochs)
        for s in stages(config("train=finetune", *words))
    )
    assert first == ("constant", 0)
    assert second == ("linear", 5)


def test_dialogues_are_validated_as_a_whole(tmp_path):
    """States of the development part, which the ranks share by dialogue, score as in evaluation."""
    cfg = config("train=finetune", "task.kind=dst")
    module = finetune_of("task.kind=dst").eval()
    data = task_batches(cfg, module, validates=True)
    assert len(data.val_sets["dev"]) == len({e.dialog for part in module.dialogs for e in part}) > 1
    logged = {}
    module.log = lambda name, value: logged.update({name: value})
    for batch in data.val_dataloader()[0]:
        module.validation_step(batch, 0)
    with torch.no_grad():
        module.on_validation_epoch_end()
    dev = config("train=finetune", "task.kind=dst", "eval.part=dev")
    want = build(dev).evaluate(module, Workspace(tmp_path))
    assert logged == {"val/score": want["dev_joint_goal_accuracy"]}


# -- configs -------------------------------------------------------------------------------------


def test_configs_hold_the_paper_s_values():
    """The sheet's training table."""
    paper = load(Config, "space2", "paper")
    assert (paper.optim.lr, paper.trainer.max_epochs, paper.model.dropout) == (1e-5, 60, 0.2)
    assert (paper.data.batch_size * 8, paper.method.tau, paper.method.mlm_weight) == (
        128,
        0.07,
        0.1,
    )
    assert load(Config, "space2", "paper_adapt_intent").method.views == ["I"]
    for name in ("paper", "paper_adapt_slot", "paper_banking", "paper_hwu"):
        own = load(Config, "space2", name)
        assert (own.optim.weight_decay, own.optim.schedule, own.trainer.gradient_clip_val) == (
            0.0,
            "linear",
            5.0,
        )
        assert own.optim.warmup_epochs == own.trainer.max_epochs / 10
    dst = load(Config, "space2", "paper_multiwoz")
    assert (
        dst.data.batch_size,
        dst.optim.lr,
        dst.optim.eps,
        dst.optim.warmup_epochs,
        dst.trainer.max_epochs,
    ) == (48, 1e-4, 1e-6, 5, 50)
    assert (
        dst.task.mlm_pre_epochs,
        dst.task.mlm_weight,
        dst.task.delexicalize,
        dst.optim.weight_decay,
    ) == (3, 1, True, 0)
    assert load(Config, "space2", "paper_rest8k").trainer.val_every_n_steps
    for name, (dropout, seed) in {
        "banking": (0.25, 7),
        "clinc": (0.25, 30),
        "hwu": (0.3, 11),
    }.items():
        cfg = load(Config, "space2", f"paper_{name}")
        assert (cfg.model.dropout, cfg.seed, cfg.optim.lr, cfg.task.kl_weight) == (
            dropout,
            seed,
            1e-4,
            5.0,
        )
    assert len(config_names("space2")) >= 11
    with pytest.raises(UserError, match="once"):
        config("method.views=[D,D]")
    with pytest.raises(UserError, match="belong together"):
        config("task.source=folder")


def test_the_comparison_is_ready():
    """Arms differ in the method and the searched rate, which is self's own; the pilots' seed is no
    verdict's.
    """
    spec, sweep = read_comparison("space2"), read_sweep("space2")
    arms = {a: load(Config, "space2", spec.base, words_of(own)) for a, own in spec.arms.items()}
    assert {cfg.trainer.max_steps for cfg in arms.values()} == {300}
    rates = {name: cfg.optim.lr for name, cfg in arms.items()}
    assert rates == {"self": 1e-4, "hard": 1e-3, "tree": 1e-3, "tree_self": 1e-3, "view_I": 1e-3}
    whole = arms["tree_self"]
    for name, cfg in arms.items():
        optim = replace(whole.optim, lr=rates[name])
        assert cfg == replace(whole, method=cfg.method, optim=optim), name
    assert sweep.arms == default_arms(spec) == ["self", "hard", "tree", "tree_self"]
    tried = sweep.space["optim.lr"]
    assert all(min(tried) < rates[name] < max(tried) for name in sweep.arms)
    assert sweep.seed == 100
    assert sweep.seed not in spec.seeds
    assert sweep.shared["eval.part"] == "dev" != whole.eval.part


def test_lengths_beyond_the_weights_are_refused():
    with pytest.raises(UserError, match=r"data\.max_length"):
        network_of("data.max_length=200")
    with pytest.raises(UserError, match="BERT"):
        network_of(
            "model.config={model_type: roberta, vocab_size: 300, hidden_size: 32,"
            " num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32}"
        )
    assert len(training_data(config(), network_of().texts).train_set) > 0
