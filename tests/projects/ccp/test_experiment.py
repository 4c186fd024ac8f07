"""Runs, export, tasks and configs as the commands drive them: items 1, 4, 12, 16, 17, 18."""

import json

import pytest
import torch

from common.config import UserError, config_names
from common.engine.check import inspect
from common.engine.comparison.spec import read_comparisons
from common.engine.run import train
from common.engine.sweeps.schema import read_sweep
from common.engine.trained import evaluate
from common.engine.workspace import Workspace
from projects.ccp import baselines, build, tasks
from projects.ccp.calibration import load_calibration
from projects.ccp.data import encode_language, requirements
from projects.ccp.evaluate import bitext, neighbour_lists, xor_retrieve
from projects.ccp.stages import loaded_module
from projects.ccp.towers import recipe_of
from tests.projects.ccp.conftest import config, module_of, tuned_module

QUIET = [
    "eval.beir=[]",
    "eval.held_out_queries=0",
    "eval.neighbour_queries=0",
    "eval.pseudo_bitext=0",
]


@pytest.fixture
def full_run(smoke_runs):
    """Folder of the finished smoke run."""
    return smoke_runs("ccp")


def test_items_16_and_18_one_evaluation_has_all_stages_and_the_monitors(full_run):
    """Checklist 16, 18: both directions, each step of the calibration, separation; logged in
    training.
    """
    actual = json.loads((full_run / "metrics.json").read_text())
    for stage in ("raw", "shifted", "scaled"):
        for side in ("forward", "backward"):
            assert 0 <= actual[f"bitext_en-permuted_{stage}_{side}"] <= 1
        both = [actual[f"bitext_en-permuted_{stage}_{side}"] for side in ("forward", "backward")]
        assert actual[f"bitext_average_{stage}"] == pytest.approx(sum(both) / 2)
    gain = actual["bitext_average_scaled"] - actual["bitext_average_raw"]
    assert actual["bitext_en-permuted_gain"] == pytest.approx(gain)
    assert actual["untrained_neighbour_hit_at_10"] > 0
    names = (full_run / "metrics.csv").read_text()
    for name in (
        "train/accuracy",
        "train/within_variance",
        "train/language_distance",
        "train/mlm",
        "train/batch_accuracy",
        "val/batch_accuracy",
    ):
        assert f",{name}," in names
    assert (full_run / "items/neighbour_hit_at_10.json").is_file()


def test_item_16_a_run_is_evaluated_with_the_rotation_that_the_command_asks_for(full_run):
    """Checklist 16: the run's own settings, and what is typed on top of them, as the card says."""
    words = [f"runs_dir={full_run.parents[2]}", "eval.rotation_steps=1", "eval.untrained=false"]
    _, actual = evaluate("ccp", "smoke", words, "full", None)
    assert 0 <= actual["bitext_en-permuted_rotated_accuracy"] <= 1
    assert "bitext_average_rotated" not in json.loads((full_run / "metrics.json").read_text())


def test_item_16_pairs_with_english_and_without(tmp_path):
    """Checklist 16: files of Tatoeba's layout; means over pairs with English and without."""
    for pair in ("deu-eng", "deu-fra"):
        for language in pair.split("-"):
            lines = "".join(f"{language} the people {i} of the world\n" for i in range(4))
            (tmp_path / f"tatoeba.{pair}.{language}").write_text(lines)
    for name in ("de", "fr", "en"):
        row = {"sentences": [f"{name} all of them {i}" for i in range(6)]}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    cfg = config(
        f"data.root={tmp_path}",
        "eval.pseudo_bitext=0",
        "eval.bitext={de-en: deu-eng, de-fr: deu-fra}",
        "eval.monolingual={de: de.jsonl, fr: fr.jsonl, en: en.jsonl}",
        "eval.rotation_steps=1",
    )
    towers = recipe_of(cfg).build().eval()
    actual = bitext(cfg, towers, None)
    for stage in ("raw", "shifted", "scaled", "rotated"):
        assert actual[f"bitext_english_{stage}"] == actual[f"bitext_de-en_{stage}_accuracy"]
        assert actual[f"bitext_other_{stage}"] == actual[f"bitext_de-fr_{stage}_accuracy"]
    (tmp_path / "tatoeba.deu-fra.fra").write_text("x\n")
    with pytest.raises(UserError, match="equally many lines"):
        bitext(cfg, towers, None)


def test_item_17_zero_shot_and_supervised_are_the_same_stage(full_run):
    """Checklist 17: pre-training, then questions; the three paper configs differ in their files."""
    assert [p.name for p in sorted((full_run / "checkpoints").iterdir())] == [
        "finetune",
        "pretrain",
    ]
    nq, target, xor = (config(name=f"paper_{n}") for n in ("nq", "mrtydi", "xor"))
    for cfg in (nq, target, xor):
        assert (cfg.finetune.temperature, cfg.finetune.num_negatives) == (1.0, 1)
        assert not cfg.method.pretrain
        assert (cfg.eval.bitext, cfg.data.languages) == ({}, {})  # of the pre-training alone
        assert cfg.finetune.steps % cfg.finetune.dev_every_n_steps == 0  # the last weights too
    assert target.model.pretrained == "runs/ccp/paper_nq/release/export"
    assert xor.finetune.file == "xor/dpr_train_data.json"  # as XOR QA offers it
    named = {r.name: r.hint for r in requirements(xor)}
    assert "DPR's layout" in named["data: questions"]
    assert len(nq.eval.beir) == 11
    assert len(nq.eval.xor) == 7
    with pytest.raises(UserError, match="nothing would be trained"):
        config("method.pretrain=false", "finetune.steps=0")
    with pytest.raises(UserError, match="simulated language"):
        config("model.pretrained=bundled:text-encoder", "model.config=null")


def test_item_17_xor_sets_are_asked_by_language(tmp_path):
    """Checklist 17: one collection, questions of each language, macro average; no answer is in a
    title.
    """
    folder = tmp_path / "xor"
    folder.mkdir()
    rows = [
        {"_id": f"d{i}", "title": "nine", "text": f"number {word}"}
        for i, word in enumerate(["one", "two"])
    ]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    for language, answers in (("ar", ["one"]), ("te", ["nine"])):
        asked = [
            {"question": "which", "answers": answers},
            {"question": "is it", "answers": ["yes"]},
        ]
        (folder / f"questions.{language}.jsonl").write_text(
            "".join(json.dumps(r) + "\n" for r in asked)
        )
    cfg = config(f"data.root={tmp_path}", 'eval.xor=["xor@ar","xor@te"]')
    actual = xor_retrieve(cfg, recipe_of(cfg).build().eval(), None)
    assert (actual["xor_ar_r_at_2kt"], actual["xor_te_r_at_2kt"]) == (1.0, 0.0)
    assert actual["xor_r_at_5kt"] == 0.5


def test_item_17_xor_passages_are_never_taken_for_the_question(tmp_path):
    """Checklist 17: ids of Wikipedia's passages are numbers; blank answers and sets of yes and no
    alone.
    """
    folder = tmp_path / "xor"
    folder.mkdir()
    (folder / "corpus.jsonl").write_text('{"_id": "0", "title": "", "text": "number one"}\n')
    asked = {"ar": [["one"]], "bn": [["yes"], [" "]], "te": "one"}
    for language, every in asked.items():
        rows = (
            [{"question": "which", "answers": answers} for answers in every]
            if language != "te"
            else [{"question": "which", "answers": every}]
        )
        (folder / f"questions.{language}.jsonl").write_text(
            "".join(json.dumps(r) + "\n" for r in rows)
        )
    cfg = config(f"data.root={tmp_path}", 'eval.xor=["xor@ar","xor@bn"]')
    towers = recipe_of(cfg).build().eval()
    actual = xor_retrieve(cfg, towers, None)
    assert actual == {
        "xor_ar_r_at_2kt": 1.0,
        "xor_ar_r_at_5kt": 1.0,
        "xor_r_at_2kt": 1.0,
        "xor_r_at_5kt": 1.0,
    }
    with pytest.raises(UserError, match="row 1: 'answers' has to be a list"):
        xor_retrieve(config(f"data.root={tmp_path}", 'eval.xor=["xor@te"]'), towers, None)


def test_item_1_the_export_is_the_state_of_the_first_token(tmp_path):
    """Checklist 1: no head, bank or prediction head in the folder; equal vectors after reload."""
    cfg = config("finetune.steps=0")
    experiment, module = build(cfg), module_of().eval()
    experiment.export(module, tmp_path)
    again = experiment.load_export(tmp_path)
    assert (again.head, again.bank, again.mlm_head) == (None, None, None)
    before, after = (experiment.embed(m) for m in (module, again))
    assert torch.equal(before["documents"], after["documents"])
    from safetensors import safe_open

    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert not [k for k in file.keys() if "head" in k or "bank" in k or "norm_list" in k]  # noqa: SIM118
    text = ["A small cat sleeps."]
    encoder = again.encoder.passage
    with torch.no_grad():
        states = encoder.tower.model(**encoder.tokenize(text)).last_hidden_state
    torch.testing.assert_close(recipe_of(cfg).documents(again.encoder, text), states[:, 0])


def test_an_export_is_evaluated_as_the_run_was(tmp_path):
    """Checklist 16: unit vectors are calibrated before and after, so the figures are the same."""
    cfg = config("finetune.steps=0", "model.normalize=true", "model.pooling=avg")
    experiment, module = build(cfg), module_of("model.normalize=true", "model.pooling=avg").eval()
    experiment.export(module, tmp_path)
    before, after = (
        bitext(cfg, m.encoder, None) for m in (module, experiment.load_export(tmp_path))
    )
    assert before == after
    vectors = encode_language(module.encoder, ["the people"], "en", cfg.eval)
    assert float(vectors.norm()) == pytest.approx(1.0)
    other = build(config("finetune.steps=0", "model.pooling=avg")).load_export(tmp_path)
    assert not other.encoder.passage.normalize


def test_two_towers_are_exported_reloaded_and_trained_on(tmp_path, monkeypatch):
    """Questions and passages differ, before and after; the supervised stage begins with both."""
    cfg, module = config(), tuned_module().eval()
    with torch.no_grad():
        module.encoder.question.tower.model.embeddings.word_embeddings.weight.mul_(2)
    experiment = build(cfg)
    experiment.export(module, tmp_path / "export")
    before, after = (
        experiment.embed(m) for m in (module, experiment.load_export(tmp_path / "export"))
    )
    for side in ("queries", "documents"):
        assert torch.equal(before[side], after[side])
    assert not torch.allclose(before["queries"], before["documents"])
    words = ["method.pretrain=false", f"model.pretrained={tmp_path}/export", "model.config=null"]
    towers = recipe_of(config(*words)).build().eval()
    assert torch.equal(
        recipe_of(cfg).queries(towers, ["a"]), recipe_of(cfg).queries(module.encoder, ["a"])
    )
    monkeypatch.setenv("HOME", str(tmp_path))
    again = recipe_of(config(*words, "model.pretrained=~/export")).build()
    assert again.own_question is not None
    with pytest.raises(UserError, match="has two towers"):
        loaded_module(config(*words, "finetune.share_towers=true"), towers)


@pytest.mark.slow
def test_training_brings_neighbours_together():
    """Thirty steps on made-up documents: their first words tell; pairs of changing documents do
    not.
    """
    from tests.projects.ccp.conftest import training_set

    def accuracy(moved):
        words = [
            "method.mlm_weight=0",
            "method.norm_momentum=0.5",
            "method.bank_size=32",
            "model.pooling=avg",
        ]
        module, data = module_of(*words), training_set(*words)
        optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
        seen = []
        for step in range(30):
            batch = data[[(8 * (step % 2) + i, step // 2) for i in range(8)]]
            if moved:
                batch["inputs"] = {
                    k: torch.cat([v[:8], v[8:].roll(1 + step % 7, 0)])
                    for k, v in batch["inputs"].items()
                }
            optimizer.zero_grad()
            terms = module.losses(batch)
            terms["loss"].backward()
            optimizer.step()
            module.after_optimizer_step()
            seen.append(float(terms["accuracy"]))
        return sum(seen[-10:]) / 10

    assert accuracy(False) > 0.4 > 0.2 > accuracy(True)


@pytest.mark.slow
def test_split_writes_documents_that_training_reads(full_run, tmp_path):
    """Lines and running text; blocks of consecutive sentences; nothing to split is said."""
    (tmp_path / "a.txt").write_text("".join(f"the people {i}\n" for i in range(70)) + "\nalone\n")
    (tmp_path / "b.txt").write_text("It is so. We know. Why not? They do.\n" * 9)
    for name, layout in (("a", "lines"), ("b", "text")):
        words = [
            f"split.input={tmp_path}/{name}.txt",
            f"split.output={tmp_path}/{name}.jsonl",
            f"split.layout={layout}",
        ]
        build(config(*words)).tasks["split"](Workspace(tmp_path / "task"))
    sizes = [len(json.loads(line)["sentences"]) for line in (tmp_path / "a.jsonl").open()]
    assert sizes == [32, 32, 6]
    assert len((tmp_path / "b.jsonl").read_text().splitlines()) == 9
    (tmp_path / "c.txt").write_text("alone\n")
    with pytest.raises(UserError, match="no document of two"):
        build(config(f"split.input={tmp_path}/c.txt")).tasks["split"](Workspace(tmp_path / "task"))
    (tmp_path / "d.txt").write_bytes("Gr\u00fc\u00dfe.\nJa.\n".encode("latin-1"))
    with pytest.raises(UserError, match="UTF-8"):
        build(config(f"split.input={tmp_path}/d.txt")).tasks["split"](Workspace(tmp_path / "task"))
    assert not [*(tmp_path / "task").rglob("*.tmp")]
    words = [
        f"runs_dir={tmp_path}",
        f"data.root={tmp_path}",
        "data.source=files",
        "data.languages={a: a.jsonl, b: b.jsonl}",
        "finetune.steps=0",
        "trainer.max_steps=2",
        "trainer.val_every_n_steps=null",
        "data.batch_size=3",
        "method.mlm_weight=0",
        *QUIET,
    ]
    assert train("ccp", "smoke", words)


def test_split_holds_one_file_at_a_time(tmp_path, monkeypatch):
    """The text of a language was joined in memory before its first byte was written."""
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text("It is so.\nWe know.\n" * 2000)
    output, sizes, read = tmp_path / "all.jsonl", [], tasks.text_lines

    def lines(file):
        (partial,) = tmp_path.glob(".all.jsonl.*.tmp")
        sizes.append(partial.stat().st_size)
        return read(file)

    monkeypatch.setattr(tasks, "text_lines", lines)
    words = [f"split.input={tmp_path}", f"split.output={output}"]
    build(config(*words)).tasks["split"](Workspace(tmp_path / "task"))
    assert sizes[0] == 0
    assert sizes[1] > 0
    assert len(output.read_text().splitlines()) == 250


def test_split_says_how_many_documents_have_one_sentence(tmp_path, capsys):
    """Text whose lines are single sentences once vanished behind a small, plausible number."""
    (tmp_path / "a.txt").write_text("It is so. We know.\n\n" + "One alone.\n" * 5)
    words = [
        f"split.input={tmp_path}/a.txt",
        f"split.output={tmp_path}/a.jsonl",
        "split.layout=text",
    ]
    build(config(*words)).tasks["split"](Workspace(tmp_path / "task"))
    assert "1 documents; 5 of one sentence are left out" in capsys.readouterr().out
    (tmp_path / "a.txt").write_text("It is so. We know.\n")
    build(config(*words)).tasks["split"](Workspace(tmp_path / "task"))
    assert "left out" not in capsys.readouterr().out


def test_calibrate_writes_what_the_card_loads(full_run, tmp_path):
    """Mean and deviation of the exported encoder's vectors of a language."""
    (tmp_path / "de.txt").write_text("".join(f"people of {i}\n" for i in range(5)))
    words = [
        f"runs_dir={full_run.parents[2]}",
        "calibrate.run=full",
        f"calibrate.input={{de: {tmp_path}/de.txt}}",
        f"calibrate.output={tmp_path}/c.safetensors",
    ]
    build(config(*words)).tasks["calibrate"](Workspace(tmp_path / "task", "ccp", "smoke"))
    assert load_calibration(tmp_path / "c.safetensors")["de"].mean.shape == (32,)
    with pytest.raises(UserError, match="calibrate.input"):
        build(config()).tasks["calibrate"](Workspace(tmp_path / "task", "ccp", "smoke"))


def test_calibrate_reads_all_files_before_it_encodes(tmp_path, monkeypatch):
    """The last language's file was looked at after the others had been encoded."""
    (tmp_path / "de.txt").write_text("people\nhouses\n")
    (tmp_path / "fr.txt").write_text("people\n \n")  # a blank line is no text
    monkeypatch.setattr(tasks, "trained_module", lambda *_: pytest.fail("loaded first"))
    files = f"calibrate.input={{de: {tmp_path}/de.txt, fr: {tmp_path}/fr.txt}}"
    with pytest.raises(UserError, match=r"calibrate\.input\.fr: .* two or more"):
        build(config(files)).tasks["calibrate"](Workspace(tmp_path / "task", "ccp", "smoke"))


def test_baselines_score_what_the_method_is_scored_on(tmp_path):
    """Equal names and items; made-up documents share words."""
    actual = {}
    for name in baselines.__all__:
        actual[name] = getattr(baselines, name)(config(), Workspace(tmp_path / name))
        items = json.loads((tmp_path / name / "items/neighbour_hit_at_10.json").read_text())
        assert sum(items) / 20 == actual[name]["neighbour_hit_at_10"]
    assert actual["tfidf"]["neighbour_hit_at_10"] == 1.0
    plain = actual["untrained"]["neighbour_hit_at_10"]
    assert (
        actual["untrained"]["neighbour_hit_at_10_scaled"]
        != plain
        != actual["whitened"]["neighbour_hit_at_10"]
    )
    assert neighbour_lists([["a", "b"], ["c"]], 2) == [{1}, {0}, set()]
    with pytest.raises(UserError, match=r"it needs eval\.neighbour_queries"):
        baselines.tfidf(config("eval.neighbour_queries=0"), Workspace(tmp_path))


def test_paper_configs_hold_the_published_recipe():
    cfg, nq = config(name="paper"), config(name="paper_nq")
    assert (cfg.method.temperature, cfg.data.window) == (0.1, 5)
    assert cfg.method.bank_size == 4096 * cfg.data.num_languages
    assert (
        cfg.method.bank_size // cfg.data.num_languages
        >= 2 * cfg.data.batch_size * cfg.trainer.devices
    )
    assert (cfg.model.length_groups, cfg.model.grad_checkpointing) == (8, True)  # fits its devices
    assert not nq.eval.untrained
    assert len(cfg.eval.bitext) == 36
    assert len(cfg.data.languages) == 108
    judged = {language for pair in cfg.eval.bitext for language in pair.split("-")}
    assert judged <= {*cfg.data.languages}
    assert cfg.data.heldout_documents == cfg.data.batch_size * cfg.trainer.devices
    assert (cfg.optim.lr, cfg.optim.betas, cfg.optim.eps, cfg.optim.warmup_steps) == (
        4e-5,
        (0.9, 0.98),
        1e-6,
        10000,
    )
    assert cfg.data.batch_size * cfg.trainer.devices == 2048
    assert cfg.model.pooling == "cls_before_pooler"
    assert (nq.finetune.batch_size * nq.trainer.devices, nq.finetune.lr, nq.seed) == (48, 1e-5, 42)
    assert nq.trainer.gradient_clip_val == 2.0
    assert not config(name="paper_shared_bank").method.language_bank
    assert config(name="paper_plain_norm").method.norm == "plain"
    assert len([name for name in config_names("ccp") if name.startswith("paper")]) == 7


@pytest.mark.parametrize("name", ["paper", "paper_nq"])
def test_check_builds_the_model_and_names_what_is_missing(name, tmp_path):
    rows = inspect("ccp", name, [f"data.root={tmp_path}"])
    assert rows["negatives per query"] == ("8,190" if name == "paper" else "95")
    named = [key for key, value in rows.items() if "MISSING" in value and "(evaluation)" in key]
    expected = (
        "data: de-en eng (evaluation)" if name == "paper" else "data: xor@ar questions (evaluation)"
    )
    assert expected in named
    assert any("MISSING" in value for value in rows.values())


def test_sweep_and_comparison_have_the_same_arms():
    """So that one sweep gives all arms of the comparison the same rates, the default one inside."""
    sweep, mini, comparison = read_sweep("ccp"), config(name="mini"), read_comparisons("ccp")[0]
    rates = sweep.space["optim.lr"]
    assert len(rates) >= 3
    assert mini.model.dropout in sweep.space["model.dropout"]
    assert min(rates) < mini.optim.lr < max(rates)
    assert sweep.arms == comparison.default_arms
    assert sweep.shared["eval.part"] == "dev"
    assert sweep.seed not in comparison.seeds
