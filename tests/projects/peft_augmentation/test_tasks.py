"""Reports of several runs, predictions, resume, configs, comparison."""

import json
import os

import pytest
import torch

from common.config import UserError, config_names
from common.engine.comparison.spec import read_comparison
from common.engine.trained import run_task
from common.engine.workspace import Workspace
from projects.peft_augmentation import build, tasks
from projects.peft_augmentation.table import Cell, Row, differences, grid, rows_of
from tests.figures import unrendered
from tests.placed import passes_within_evaluated
from tests.projects.peft_augmentation.conftest import config, module_of


def task(folder, name, *words):
    with unrendered():
        run_task("peft_augmentation", "smoke", [f"runs_dir={folder}", *words], name)


def newest(folder, name):
    return max(folder.rglob(name), key=lambda path: path.stat().st_mtime)


def test_one_command_sets_tunings_side_by_side(runs):
    """Checklist 14: silhouette and levels of alteration, P-tuning and full fine-tuning, on original
    and
    altered test copies."""
    task(runs, "analyse", "analyse.points=20", "eval.alterations=[0.1,0.5]")
    lines = newest(runs, "analysis.md").read_text().splitlines()
    assert lines[0] == "| test copy | measure | 1 prefix | 2 full |"
    measures = {tuple(cell.strip() for cell in line.split("|")[1:3]) for line in lines[2:]}
    names = ("accuracy", "silhouette", "separation_ratio")
    assert measures == {(copy, name) for copy in ("as written", "0.1", "0.5") for name in names}
    assert newest(runs, "tsne_altered_0.5.png").exists()
    with pytest.raises(UserError, match="alterations"):
        task(runs, "analyse", "eval.alterations=[]")


def test_the_newest_pair_is_of_trained_runs_of_the_config(tmp_path):
    """After `make compare` baselines and the linear probe stood in the place of runs, or broke the
    task.
    """
    folder = tmp_path / "peft_augmentation/mini"
    made = [
        ("b", "prefix", 5),
        ("full", "full", 5),
        ("a", "prefix", 5),
        ("probe", "prefix", 0),
        ("words", "full", 5),
        ("evaluated", None, 0),
        ("../smoke/full", "full", 5),
    ]
    for age, (name, kind, length) in enumerate(made):
        run = folder / name
        run.mkdir(parents=True)
        record = {"project": "x", "config": "smoke", "overrides": [], "started": "now"}
        baseline = {"baseline": "words"} if name == "words" else {}
        (run / "meta.json").write_text(json.dumps(record | baseline))
        (run / "metrics.json").write_text("{}")
        os.utime(run / "metrics.json", (age, age))
        if kind is not None:
            (run / "config.yaml").write_text(f"tuning: {{kind: {kind}, prefix_length: {length}}}")
    assert tasks.newest_pair(folder) == [str(folder / "a"), str(folder / "full")]


def test_the_grid_marks_what_augmentation_costs_and_the_contrast_is_read_against_it(runs):
    """Checklists 17 and 18: cells below those without augmentation, mean gains per encoder and
    task,
    and DA + CL against DA."""
    rows = []
    for encoder, gains in (("small", (0.1, -0.3)), ("large", (-0.2, -0.1))):
        for task_name, gain in zip(("easy, n=100", "hard, n=100"), gains, strict=True):
            for seed in (1, 2):
                base = 0.5 + 0.01 * seed
                none = Cell("P-tuning", "none", False, encoder, task_name)
                eda = none._replace(augment="eda")
                rows.append(Row(none, seed, base))
                rows.append(Row(eda, seed, base + gain))
                rows.append(Row(eda._replace(contrast=True), seed, base + gain + 0.04))
    text = grid(rows)
    (small,) = [x for x in text.splitlines() if x.startswith("| P-tuning | eda | no | small")]
    assert small == "| P-tuning | eda | no | small | 0.6150 ± 0.0071 | 0.2150 ± 0.0071 (lower) |"
    actual = differences(rows)
    assert (
        "| eda - none | P-tuning | small | hard, n=100 | -0.3000 (lower) | 0.0000 | 0 of 2 |"
        in actual
    )
    assert (
        "| eda + contrast - eda | P-tuning | large | easy, n=100 | +0.0400 | 0.0000 | 2 of 2 |"
        in actual
    )
    assert "encoder large: -0.1500" in actual
    assert "task easy, n=100: -0.0500" in actual
    task(runs, "table", "table.metrics=[accuracy,accuracy_altered_0.3,silhouette_altered_0.3]")
    told = newest(runs, "table.md").read_text()
    assert told.count("eda + contrast - eda | P-tuning") == 3
    with pytest.raises(UserError, match="no finished run has nothing"):
        task(runs, "table", "table.metrics=[nothing]")


def test_runs_that_differ_in_another_setting_keep_their_own_rows():
    """Two prefix lengths with one seed had one key: the second run replaced the first."""

    def run(length, kind, score, seed=1):
        return {
            "data": {"task": "sst2", "examples": 100},
            "model": {"pretrained": "bert"},
            "tuning": {"kind": "prefix", "prefix_length": length},
            "augment": {"kind": kind},
            "contrast": {"weight": 0.0},
            "seed": seed,
        }, score

    runs = [run(4, "none", 0.5), run(20, "none", 0.7), run(4, "eda", 0.6), run(20, "eda", 0.65)]
    text = grid(rows_of(runs))
    assert "| P-tuning, tuning.prefix_length=4 | none | no | bert | 0.5000 |" in text
    assert "| P-tuning, tuning.prefix_length=20 | none | no | bert | 0.7000 |" in text
    assert "| P-tuning, tuning.prefix_length=20 | eda | no | bert | 0.6500 (lower) |" in text
    gains = differences(rows_of(runs))
    assert (
        "| eda - none | P-tuning, tuning.prefix_length=4 | bert | sst2, n=100 | +0.1000 |" in gains
    )
    # one length without augmentation: both others are compared with it
    assert differences(rows_of(runs[1:])).count("| eda - none |") == 2
    # seeds alone are averaged
    assert "| P-tuning | none | no | bert | 0.6000" in grid(
        rows_of([run(4, "none", 0.5), run(4, "none", 0.7, seed=2)])
    )


def test_own_texts_are_classified(runs, tmp_path):
    """Inference: one text per line."""
    lines = tmp_path / "texts.txt"
    lines.write_text("the cat and the dog\nrain again\n")
    task(runs, "predict", f"predict.input={lines}", "predict.run=prefix")
    rows = [line.split("\t") for line in newest(runs, "predictions.tsv").read_text().splitlines()]
    assert [row[1] for row in rows] == ["the cat and the dog", "rain again"]
    assert {row[0] for row in rows} <= {"animals", "weather", "money"}
    with pytest.raises(UserError, match=r"predict\.input"):
        task(runs, "predict", "predict.run=prefix")


def test_predict_works_where_the_config_says(tmp_path, monkeypatch):
    """It stayed on the CPU beside a GPU; every pass lies within `evaluated`."""
    module = module_of()
    seen = passes_within_evaluated(monkeypatch, tasks)

    monkeypatch.setattr("common.engine.trained.trained_module", lambda *_: (module, None))
    lines = tmp_path / "texts.txt"
    lines.write_text("the cat\n")
    cfg = config(f"predict.input={lines}", "trainer.accelerator=auto")
    assert len(tasks.predict(cfg, Workspace(tmp_path), None)) == 1
    assert seen == [(module.classifier, "auto")]


def test_predict_says_how_many_rows_are_cut(runs, tmp_path, capsys):
    """Texts beyond model.max_length lost their ends without a word."""
    lines = tmp_path / "texts.txt"
    lines.write_text(f"the cat\n{'the dog and ' * 40}\n")
    task(runs, "predict", f"predict.input={lines}", "predict.run=prefix")
    assert "1 of 2 rows are cut to 48 pieces" in capsys.readouterr().out


def test_the_development_set_of_the_paper_follows_n():
    """It stayed at 200 for every n, and CB, with 250 examples, could not be run at all."""
    for n in (100, 1000):
        cfg = config(f"data.examples={n}", "data.task=cb", name="paper_lora_bert_base")
        assert cfg.data.dev_examples == n
    assert config("data.dev_examples=50", name="paper").data.dev_examples == 50
    assert {"f1", "macro_f1"} <= set(cfg.table.metrics)


def test_configs_of_the_paper():
    """Checklist 17: two sizes of both encoders in three tunings; values of the released scripts."""
    names = {
        f"paper_{tuning}_{encoder}"
        for tuning in ("ft", "lora", "ptuning")
        for encoder in ("bert_base", "bert_large", "roberta_base", "roberta_large")
    }
    assert names <= set(config_names("peft_augmentation"))
    for name in sorted(names):
        cfg = config(name=name)
        # RoBERTa's weights have no pooler
        assert cfg.model.pooling == ("new_pooler" if "roberta" in name else "pooler")
        assert cfg.data.dev_examples == cfg.data.examples
    bert, roberta = (
        config(name="paper_ptuning_bert_large"),
        config(name="paper_ptuning_roberta_large"),
    )
    assert (bert.optim.lr, bert.tuning.prefix_length, bert.trainer.max_epochs) == (1e-2, 20, 60)
    assert (roberta.optim.lr, roberta.tuning.prefix_length, roberta.trainer.max_epochs) == (
        5e-3,
        128,
        100,
    )
    with torch.device("meta"):
        module = build(config("data.root=null", name="paper_ptuning_bert_large")).plan().module()
    assert module.classifier.prefix.encoder.embedding.weight.numel() == 983_040


def test_comparison_is_read():
    read_comparison("peft_augmentation")
