"""The tasks of `make run`: selection, submission, table, labels of own texts."""

import json
import shutil

import numpy as np
import pytest
import yaml

from common.config import UserError, load
from common.data.text.labelled.glue_tasks import GLUE
from common.engine.workspace import Workspace
from projects.vega import select as selection
from projects.vega import tasks as vega_tasks
from projects.vega.config import Config
from projects.vega.glue.metrics import TASKS, glue_average
from projects.vega.select import Combination, chosen, combinations, grid
from projects.vega.table import ablation, rows_of
from projects.vega.tasks import runs_of
from tests.projects.vega.conftest import FAST, PLAIN, config, finished_run, official, run_of, task


@pytest.mark.slow
def test_one_command_writes_all_files(tmp_path):
    """Checklist 13: nine tasks, ten files (AX is told to be missing), absent tasks are named or
    trained.
    """
    root = official(tmp_path / "data")
    words = [
        "data.source=official",
        f"data.root={root}",
        "trainer.max_steps=1",
        "data.batch_size=2",
        *PLAIN,
        *FAST,
    ]
    with pytest.raises(UserError, match="no finished run of cola, sst2"):
        task(tmp_path, "submit", *words)
    # a run for each kind of task; tasks of the same kind get a copy
    kinds = {"cola": ["sst2"], "mrpc": ["qqp", "qnli", "rte", "wnli"], "mnli": [], "stsb": []}
    for name, others in kinds.items():
        run = run_of(tmp_path, f"run_id={name}", f"data.task={name}", *words)
        for other in others:
            copy = run.with_name(other)
            shutil.copytree(run, copy)
            for file in ("config.yaml", "meta.json"):
                (copy / file).write_text((copy / file).read_text().replace(name, other))
    task(tmp_path, "submit", *words)
    folder = tmp_path / "vega/smoke/task-submit/submission-test"
    files = {path.name for path in folder.iterdir()}
    assert files == {
        "CoLA.tsv",
        "SST-2.tsv",
        "MRPC.tsv",
        "STS-B.tsv",
        "QQP.tsv",
        "MNLI-m.tsv",
        "MNLI-mm.tsv",
        "QNLI.tsv",
        "RTE.tsv",
        "WNLI.tsv",
    }
    rte = (folder / "RTE.tsv").read_text().splitlines()
    assert rte[0] == "index\tprediction"
    assert rte[1].split("\t")[1] in GLUE["rte"].labels
    task(tmp_path, "submit", *words, "submit.parts=dev")
    told = json.loads((folder.with_name("submission-dev") / "scores.json").read_text())
    own = told["vega-like"]
    assert own["average"] == pytest.approx(
        glue_average({k: v for k, v in own.items() if k != "average"})
    )
    task(tmp_path, "table")
    text = (tmp_path / "vega/smoke/task-table/table.md").read_text()
    assert "| vega-like |" in text
    with pytest.raises(UserError, match="no GLUE task 'sst'"):
        task(tmp_path, "submit", *words, "submit.runs={sst: x}")


def test_submissions_take_runs_that_were_adapted_to_test_inputs(tmp_path):
    """Checklist 13, 14: of runs with rounds those of the submitted part; seeds of one strategy are
    averaged, other strategies are not."""
    on = "transductive.enabled=true"
    finished_run(tmp_path, "vanilla-0", "seed=0", *PLAIN, age=9)
    finished_run(tmp_path, "test-0", "seed=0", on, "transductive.part=test", age=8)
    finished_run(
        tmp_path, "test-1-slow", "seed=1", on, "transductive.part=test", "optim.lr=1e-5", age=7
    )
    finished_run(
        tmp_path, "test-1", "seed=1", on, "transductive.part=test", "eval.part=test", age=6
    )
    finished_run(tmp_path, "test-2", "seed=2", on, "transductive.part=test", age=5)
    finished_run(tmp_path, "dev-0", "seed=0", on, age=1)

    def chosen_runs(*words):
        cfg = config(f"runs_dir={tmp_path}", *words)
        return [
            path.rsplit("/", 1)[1]
            for path in runs_of(cfg, Workspace(tmp_path, "vega", "smoke"), "sst2")
        ]

    assert chosen_runs() == ["test-2"]
    assert chosen_runs("submit.average=true") == ["test-0", "test-2"]
    assert chosen_runs("submit.parts=dev") == ["dev-0"]
    with pytest.raises(UserError, match=r"transductive\.part=test"):
        task(tmp_path, "submit")


def test_baselines_and_evaluations_are_neither_rows_nor_sent(tmp_path):
    """Checklist 14, 17: a baseline has the settings and the seed of an arm, an evaluation has
    none."""
    arm = finished_run(tmp_path, "arm", "seed=3", *PLAIN, age=9, dev_score=0.7)
    low = finished_run(tmp_path, "compare-baseline-majority", "seed=3", *PLAIN, dev_score=0.1)
    (low / "meta.json").write_text('{"baseline": "majority"}')
    other = tmp_path / "vega/smoke/eval-1"
    other.mkdir()
    (other / "metrics.json").write_text('{"dev_score": 0.2}')
    task(tmp_path, "table")
    text = (tmp_path / "vega/smoke/task-table/table.md").read_text()
    assert "| smoke dev: random | 70.0 (1) |" in text
    workspace = Workspace(tmp_path, "vega", "smoke")
    assert runs_of(config(f"runs_dir={tmp_path}"), workspace, "sst2") == [str(arm)]
    with pytest.raises(UserError, match="majority is not a trained run: leave it out"):
        task(tmp_path, "table", f"table.runs=[{arm},{low}]")


def test_submissions_take_what_was_chosen_and_say_what_they_send(tmp_path, monkeypatch):
    """Checklist 13, 14: runs of the selection are not sent; of a chosen task runs of its
    combination.
    """
    sift = [*PLAIN[1:], "sift.enabled=true"]
    expected = finished_run(tmp_path, "sift-0", "seed=0", *sift, age=9)
    newest = finished_run(tmp_path, "plain-0", "seed=0", *PLAIN, age=8)
    finished_run(tmp_path, "select-sst2-start+sift-0-abc", "seed=0", *sift, age=1)
    cfg, workspace = config(f"runs_dir={tmp_path}"), Workspace(tmp_path, "vega", "smoke")
    assert runs_of(cfg, workspace, "sst2") == [str(newest)]
    own = {"chosen": "start+sift", "settings": Combination("start", ("sift",)).settings("random")}
    file = tmp_path / "vega/smoke/task-select/selection.json"
    file.parent.mkdir()
    file.write_text(json.dumps({"tasks": {"sst2": own}}))
    assert runs_of(cfg, workspace, "sst2") == [str(expected)]
    assert not runs_of(config(f"runs_dir={tmp_path}", "data.task=rte"), workspace, "rte")
    asked = {}

    def fake(project, name, words):
        made = load(Config, project, name, words)
        asked[made.data.task] = [made.sift.enabled, made.self_calibration.enabled]
        return tmp_path

    monkeypatch.setattr(vega_tasks, "train", fake)
    monkeypatch.setattr(vega_tasks, "_write_task", lambda *given: {})
    task(tmp_path, "submit", "submit.train=true")
    assert "sst2" not in asked
    notes = (tmp_path / "vega/smoke/task-submit/notes.txt").read_text()
    assert f"sst2: {expected}\n" in notes
    assert f"rte: {tmp_path}\n" in notes
    shutil.rmtree(expected)
    with pytest.raises(UserError, match=r"sst2 \(start\+sift, chosen by select\)"):
        task(tmp_path, "submit")
    task(tmp_path, "submit", "submit.train=true")
    assert (asked["sst2"], asked["rte"]) == ([True, False], [True, True])


def test_logits_are_averaged_over_all_runs(tmp_path, monkeypatch):
    """Recipe: the mean of the logits, in which a run can be outvoted."""
    logits = {"a": [3.0, 0.0], "b": [0.0, 2.0], "c": [0.0, 2.0]}
    monkeypatch.setattr(vega_tasks, "_module_of", lambda cfg, workspace, build, run, name: run)
    monkeypatch.setattr(
        vega_tasks, "logits_of", lambda cfg, run, texts: np.array([logits[run]] * len(texts))
    )
    for runs, answer in (("a", "0"), ("ab", "0"), ("abc", "1"), ("cba", "1")):
        vega_tasks._write_task(config(), Workspace(tmp_path), None, "sst2", list(runs), tmp_path)
        assert (tmp_path / "SST-2.tsv").read_text().splitlines()[1] == f"0\t{answer}", runs


def test_submissions_train_what_is_missing_with_the_user_s_settings(tmp_path, monkeypatch):
    """Checklist 13: the rate of the command line, test inputs for the rounds, no classes for
    scores.
    """
    asked = {}

    def fake(project, name, words):
        cfg = load(Config, project, name, words)
        asked[cfg.data.task] = cfg
        return tmp_path

    monkeypatch.setattr(vega_tasks, "train", fake)
    monkeypatch.setattr(vega_tasks, "_write_task", lambda *given: {})
    task(
        tmp_path,
        "submit",
        "submit.train=true",
        "optim.lr=3e-4",
        "data.limit=5",
        "model.config.vocab_size=280",
    )
    assert asked.keys() == set(TASKS)
    for name, cfg in asked.items():
        assert (cfg.optim.lr, cfg.data.limit, cfg.model.config["vocab_size"]) == (3e-4, 5, 280)
        assert cfg.transductive.part == "test"
        assert cfg.self_calibration.enabled == (name != "stsb")
    with pytest.raises(UserError, match=r"data\.source=official"):
        task(tmp_path, "submit", "data.source=file", "data.train_file=x.tsv", "data.dev_file=y.tsv")


def test_rows_of_the_table_hold_runs_that_can_be_compared(tmp_path):
    """Checklist 14, 17: config, part, noise and limit name a row; other settings split it."""
    runs = [
        finished_run(tmp_path, "a", "seed=0", *PLAIN, dev_score=0.5),
        finished_run(tmp_path, "b", "seed=1", *PLAIN, dev_score=0.7),
        finished_run(tmp_path, "c", "seed=0", *PLAIN, "eval.part=test", test_score=0.9),
        finished_run(tmp_path, "d", "seed=0", *PLAIN, "data.noise=0.3", dev_score=0.1),
        finished_run(
            tmp_path, "e", "seed=0", *PLAIN, "data.task=rte", "optim.lr=1e-5", dev_score=0.6
        ),
        finished_run(tmp_path, "f", "seed=0", *PLAIN, "eval.part=test"),  # without labels
    ]
    scores = rows_of(runs, Workspace(tmp_path, "vega", "smoke"))
    assert scores["smoke dev: random"] == {"sst2": {0: 50.0, 1: 70.0}, "rte": {0: 60.0}}
    assert scores["smoke test: random"] == {"sst2": {0: 90.0}}
    assert scores["smoke dev: random, noise 0.3"] == {"sst2": {0: 10.0}}
    assert "f is left out" in (tmp_path / "notes.txt").read_text()
    assert "| smoke dev: random | 60.0 (2) |" in ablation(scores)
    runs.append(finished_run(tmp_path, "g", "seed=0", *PLAIN, "optim.lr=1e-5", dev_score=0.8))
    split = rows_of(runs, Workspace(tmp_path, "vega", "smoke"))
    own = {
        name: row["sst2"] for name, row in split.items() if name.startswith("smoke dev: random #")
    }
    assert sorted(map(dict, own.values()), key=len) == [{0: 80.0}, {0: 50.0, 1: 70.0}]


def test_own_texts_are_classified(plain_run, tmp_path):
    """Inference: one text per line."""
    folder, lines = plain_run.parents[2], tmp_path / "texts.txt"
    lines.write_text("the cat and the dog\nrain again\n")
    task(folder, "classify", f"classify.input={lines}", "classify.run=plain")
    rows = [
        line.split("\t")
        for line in (folder / "vega/smoke/task-classify/predictions.tsv").read_text().splitlines()
    ]
    assert [row[2] for row in rows] == ["the cat and the dog", "rain again"]
    assert all(row[0] in ("0", "1") and 0.5 <= float(row[1]) <= 1 for row in rows)
    with pytest.raises(UserError, match=r"classify\.input"):
        task(folder, "classify", "classify.run=plain")


def test_strategies_are_chosen_on_development_data_by_the_median():
    """Checklist 14: sixteen combinations of two starts and three tricks; fewer tricks win ties."""
    names = [
        c.name
        for c in combinations(
            ["rtd", "rtd_cl"], ["sift", "self_calibration", "transductive"], False
        )
    ]
    assert len(set(names)) == 16
    assert {"rtd", "rtd_cl+sift+self_calibration+transductive"} <= set(names)
    assert len(list(combinations(["rtd"], ["sift", "self_calibration"], True))) == 2
    scores = {
        "sst2": {"rtd": [0.7, 0.9, 0.8], "rtd_cl": [0.99, 0.1, 0.2], "rtd+sift": [0.8, 0.8, 0.8]}
    }
    actual = chosen(scores)["sst2"]
    assert actual["chosen"] == "rtd"
    assert actual["medians"]["rtd_cl"] == 0.2
    assert "| rtd | **0.8000** |" in grid(scores)


def test_selection_trains_every_combination_and_reads_no_test_labels(tmp_path, monkeypatch):
    """Checklist 14: eval.part=dev in all runs whatever the config says; finished runs are kept."""
    asked = []

    def fake(project, name, words):
        if not len(asked) % 8:  # they are of one mind
            load(Config, project, name, words)
        given = {key: yaml.safe_load(value) for key, _, value in (w.partition("=") for w in words)}
        asked.append(given)
        folder = tmp_path / project / name / given["run_id"]
        folder.mkdir(parents=True)
        value = 0.9 if given["sift.enabled"] and given["model.pretrained"] == "b" else 0.5
        metrics = {"dev_score": value, "test_score": 1.0}
        if given["data.task"] == "mnli":  # matched and mismatched
            metrics["dev_mm_score"] = value - 0.2
        (folder / "metrics.json").write_text(json.dumps(metrics))

    monkeypatch.setattr(selection, "train", fake)
    words = [
        "eval.part=test",
        "select.starts={rtd: a, rtd_cl: b}",
        "select.tricks=[sift, transductive]",
        "select.seeds=[3, 4]",
        "optim.lr=3e-4",
        "data.limit=50",
        "transductive.threshold=0.6",
        "transductive.part=test",
    ]
    task(tmp_path, "select", *words)
    assert len(asked) == 2 * 4 * 2
    assert {given[f"{key}.part"] for given in asked for key in ("eval", "transductive")} == {"dev"}
    assert {given["self_calibration.enabled"] for given in asked} == {False}
    kept = {
        (float(given["optim.lr"]), given["data.limit"], given["transductive.threshold"])
        for given in asked
    }
    assert kept == {(3e-4, 50, 0.6)}
    actual = json.loads((tmp_path / "vega/smoke/task-select/selection.json").read_text())
    assert actual["tasks"]["sst2"]["chosen"] == "rtd_cl+sift"
    expected = {"model.pretrained": "b", "sift.enabled": True, "transductive.enabled": False}
    assert expected.items() <= actual["tasks"]["sst2"]["settings"].items()
    assert "test_score" not in json.dumps(actual)
    task(tmp_path, "select", *words)
    assert len(asked) == 16
    # other weights under the same name, or another rate: other runs
    few = [*words, "select.tricks=[sift]", "select.seeds=[3]"]
    task(tmp_path, "select", *few, "select.starts={rtd: a, rtd_cl: c}")
    assert len(asked) == 18
    task(tmp_path, "select", *few, "optim.lr=1e-3")
    assert len(asked) == 22
    task(tmp_path, "select", *few, "select.tasks=[mnli]")
    assert len(asked) == 26
    actual = json.loads((tmp_path / "vega/smoke/task-select/selection.json").read_text())
    assert actual["tasks"]["mnli"]["medians"]["rtd_cl+sift"] == pytest.approx(0.8)
    with pytest.raises(UserError, match="did you mean 'sst2'"):
        task(tmp_path, "select", "select.tasks=[sst]")
    own = ["data.source=file", "data.train_file=x.tsv", "data.dev_file=y.tsv", "select.seeds=[3]"]
    task(tmp_path, "select", *own, "select.tricks=[]")
    assert asked[-1]["data.train_file"] == "x.tsv"
    with pytest.raises(UserError, match="one task"):
        task(tmp_path, "select", *own, "select.tasks=[rte]")


def test_a_selection_on_bundled_sentences_is_of_sst2_alone(tmp_path, monkeypatch):
    """Checklist 14: said at once, not behind the runs of the tasks before it."""
    monkeypatch.setattr(selection, "train", lambda *given: pytest.fail("a run was trained"))
    with pytest.raises(UserError, match="sst2 alone is bundled: put GLUE's files"):
        task(tmp_path, "select", "data.source=bundled", "select.tasks=[sst2, rte]")
