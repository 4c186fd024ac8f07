"""Sweeps: the schema, trials that go on after a kill, failures, tables; runs are one-line programs."""

import json
import os
import sys
import time

import pytest
import yaml

from common.config import UserError
from common.engine.comparison import processes, schedule
from common.engine.comparison.schema import from_mapping
from common.engine.sweeps import schema as schema_module
from common.engine.sweeps import sweep as sweep_module
from common.engine.sweeps.results import axes_of, write_results
from common.engine.sweeps.schema import Sweep, arms_of, read_sweep
from common.engine.sweeps.sweep import (
    Trial,
    points_of,
    run_trials,
    trials_of,
)
from common.registry import list_projects
from tests.forked import forked

GOOD = {"metric": "score", "base": "smoke", "space": {"optim.lr": [0.001, 0.01, 0.1]}}
ARMS = {"a": {"optim.momentum": 0.1}, "b": {"optim.momentum": 0.2}}
# the score is highest at 0.01 for the arm "a" and at 0.1 for "b"
FINISH = (
    "lr = float([w for w in words if w.startswith('optim.lr')][0].split('=')[1]);"
    "best = 0.1 if 'optim.momentum=0.2' in words else 0.01; import math;"
    "json.dump({'score': 1 - abs(math.log10(lr / best))}, open('metrics.json', 'w'))"
)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(schedule, "POLL", 0.02)
    monkeypatch.setattr(processes, "GRACE", 1.0)


@pytest.fixture(autouse=True)
def code(monkeypatch):
    """`code(text)` is the identity of the code from then on."""

    def use(text):
        monkeypatch.setattr(sweep_module, "code_identity", lambda: text)

    use("code")
    return use


@pytest.fixture
def program(monkeypatch):
    """`program(code)` is what each trial's process does in its folder, with `words`."""

    def use(code):
        def command(self):
            start = (
                f"import json, os, sys, time; os.chdir({str(self.path)!r}); words ="
                f" {list(self.command_words)!r};"
            )
            return [sys.executable, "-c", start + code]

        monkeypatch.setattr(Trial, "command", command)

    return use


def planned(folder, arms=("a", "b"), **changes):
    sweep = from_mapping("sweep.yaml", Sweep, {**GOOD, "arms": list(arms), **changes})
    words = [f"runs_dir={folder}"]
    return sweep, [
        t for arm in arms for t in trials_of("dcl", sweep.of(arm), arm, ARMS[arm], words)
    ]


def run(trials, metric="score", jobs=1):
    lines = []
    run_trials(trials, metric, jobs, "sweep", lines.append)
    return lines


def written(folder, sweep, trials):
    text = write_results("dcl", sweep, points_of(trials, sweep.metric), folder / "sweep")
    return text, json.loads((folder / "sweep/sweep.json").read_text())


@pytest.mark.slow
def test_every_arm_gets_the_same_grid_and_the_best_of_each_is_named(tmp_path, program):
    program(FINISH)
    sweep, trials = planned(tmp_path)
    assert len(run(trials, jobs=2)) == 6
    text, actual = written(tmp_path, sweep, trials)
    assert actual["best"]["a"] == {"value": 1.0, "settings": {"optim.lr": 0.01}}
    assert actual["best"]["b"] == {"value": 1.0, "settings": {"optim.lr": 0.1}}
    tried = [t["settings"]["optim.lr"] for t in actual["trials"] if t["arm"] == "a"]
    assert tried == [0.001, 0.01, 0.1]
    assert "best of b: 1.0000 with `optim.lr=0.1`; at the end of what was tried: optim.lr" in text
    assert "best of a: 1.0000 with `optim.lr=0.01`\n" in text
    assert (tmp_path / "sweep/slices.png").stat().st_size > 1000
    assert run(planned(tmp_path)[1]) == []  # nothing is run twice


def test_a_grid_is_widened_without_running_its_finished_points_again(tmp_path, program):
    program(FINISH)
    run(planned(tmp_path, arms=("a",))[1])
    wider = {"space": {"optim.lr": [0.001, 0.01, 0.1, 1.0]}}
    sweep, trials = planned(tmp_path, arms=("a",), **wider)
    (line,) = run(trials)
    assert "with optim.lr=1.0" in line
    _, actual = written(tmp_path, sweep, trials)
    assert len(actual["trials"]) == 4
    assert actual["best"]["a"]["settings"] == {"optim.lr": 0.01}


def test_an_arm_has_settings_of_its_own_beside_those_of_all(tmp_path, program):
    program(FINISH)
    own = {"a": {"optim.warmup_steps": [1, 2]}}
    sweep, trials = planned(tmp_path, own=own)
    assert [t.arm for t in trials] == ["a"] * 6 + ["b"] * 3
    run(trials, jobs=2)
    text, actual = written(tmp_path, sweep, trials)
    keys = {
        arm: {tuple(t["settings"]) for t in actual["trials"] if t["arm"] == arm} for arm in "ab"
    }
    assert keys == {"a": {("optim.lr", "optim.warmup_steps")}, "b": {("optim.lr",)}}
    assert "| arm | optim.lr | optim.warmup_steps | score |" in text
    assert "| b | 0.1 |  | 1.0000 |" in text
    assert "optim.warmup_steps (widen it)" in text  # of a; 1 and 2 are both ends
    with pytest.raises(ValueError, match="own names c"):
        Sweep(metric="m", space={"k": [1, 2]}, arms=["a"], own={"c": {}})


def test_a_setting_of_several_arms_has_the_values_of_all():
    own = {"a": {"k": [1, 2]}, "b": {"k": [2, 3]}}
    axes = axes_of(Sweep(metric="m", space={"lr": [0.1]}, arms=["a", "b"], own=own))
    assert axes == {"lr": [0.1], "k": [1, 2, 3]}


@pytest.mark.parametrize("change", [{"shared": {"optim.eps": 1e-3}}, {"seed": 101}, "code"])
def test_other_settings_or_code_do_not_take_over_what_was_measured(tmp_path, code, change):
    first = planned(tmp_path, arms=("a",))[1]
    if change == "code":
        code("changed")
    other = planned(tmp_path, arms=("a",), **({} if change == "code" else change))[1]
    assert not {t.path for t in first} & {t.path for t in other}
    code("code")
    assert first == planned(tmp_path, arms=("a",), metric="loss")[1]  # read from the same runs


def test_a_failed_point_is_tried_again_in_a_folder_of_its_own(tmp_path, program):
    program(
        "record = {k: [] for k in ('project', 'config', 'overrides', 'started')};"
        "json.dump({**record, 'state': 'failed'}, open('meta.json', 'w'));"
        "sys.exit('broken') if 'optim.lr=0.01' in words else None;" + FINISH
    )
    lines = run(planned(tmp_path, arms=("a",))[1])
    assert sum("failed" in line and "broken" in line for line in lines) == 1
    program(FINISH)
    (line,) = run([t for t in planned(tmp_path, arms=("a",))[1] if t.settings["optim.lr"] == 0.01])
    assert "score 1.0000 with optim.lr=0.01" in line
    assert any(path.name.endswith("-1") for path in tmp_path.glob("dcl/smoke/sweep-a-*"))


def test_a_trial_that_was_killed_goes_on_and_one_that_runs_is_left_alone(tmp_path, program):
    program("open('begun', 'w'); time.sleep(60)")
    (trial, *_) = planned(tmp_path, arms=("a",))[1]
    process = trial.start(1)
    while not (trial.path / "begun").exists():
        time.sleep(0.02)
    assert trial.start(1) is None  # somebody works on it
    process.ask_to_end()
    process.end()
    program("assert os.path.exists('begun');" + FINISH)
    assert len(run([trial])) == 1


def test_a_resumed_run_is_told_to_go_on(tmp_path):
    trial = Trial("a", {}, ["dcl", "mini", "seed=100"], tmp_path / "sweep-000")
    assert "resume=sweep-000" not in trial.command()
    trial.path.mkdir()
    (trial.path / "meta.json").write_text("{}")
    assert trial.command()[-3:] == ["seed=100", "run_id=sweep-000", "resume=sweep-000"]


def test_three_failures_in_a_row_end_the_sweep_with_their_logs(tmp_path, program):
    program("sys.exit('no such file: words.txt')")
    trials = planned(tmp_path)[1]
    with pytest.raises(UserError, match="no such file: words.txt"):
        run(trials)
    assert sum(trial.path.exists() for trial in trials) == 3


def test_a_metric_that_no_run_has_is_named(tmp_path, program):
    program("json.dump({'scores': 1.0}, open('metrics.json', 'w'))")
    with pytest.raises(UserError, match="no metric 'score'; did you mean 'scores'"):
        run(planned(tmp_path)[1])


def _sweep_of_sleepers(folder):
    sleeper = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    Trial.command = lambda self: [sys.executable, "-c", sleeper]
    run(planned(folder, arms=("a",))[1])


def test_a_told_sweep_ends_its_trials(tmp_path):
    process = forked(_sweep_of_sleepers, tmp_path, daemon=True)
    logs = tmp_path.glob
    while not (shown := [p for p in logs("dcl/smoke/sweep-a-*/log.txt") if p.read_text().strip()]):
        assert process.is_alive()
        time.sleep(0.05)
    process.terminate()
    process.join(30)
    assert process.exitcode == 143
    with pytest.raises(ProcessLookupError):
        os.kill(int(shown[0].read_text().split()[0]), 0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"space": {}}, "space is empty"),
        ({"metrics": 1}, "did you mean 'metric'"),
        ({"space": {"optim.lr": []}}, "list the values to try"),
        ({"space": {"optim.lr": 0.1}}, "list the values to try"),
        ({"space": {"optim.lr": {"values": [0.1]}}}, r"such as optim.lr: \[1"),
        ({"space": {"optim.rl": [0.1]}}, "optim.rl"),
        ({"arms": ["dcl"], "own": {"dcl": {"optim.rl": [0.1]}}}, "optim.rl"),
        ({"space": {"optim.lr": [-0.1]}}, "optim.lr"),
        ({"sampler": "bayes"}, "unknown key 'sampler'"),
    ],
)
def test_what_the_file_says_wrong_is_named(tmp_path, monkeypatch, change, said):
    (tmp_path / "dcl").mkdir()
    (tmp_path / "dcl/sweep.yaml").write_text(yaml.safe_dump({**GOOD, **change}))
    monkeypatch.setattr(schema_module, "CONFIG_DIR", tmp_path)
    with pytest.raises(UserError, match=said):
        read_sweep("dcl")


@pytest.mark.slow
def test_a_sweep_file_fits_its_project_and_its_comparison():
    actual = [p for p in list_projects() if (schema_module.CONFIG_DIR / p / "sweep.yaml").exists()]
    assert actual
    for project in actual:
        sweep = read_sweep(project)
        assert arms_of(project, sweep, [])
        from common.engine.comparison.spec import read_comparison

        assert sweep.seed not in read_comparison(project).seeds, project


def test_a_missing_file_and_an_unknown_arm_are_named(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no arm 'ful'; did you mean 'full'"):
        arms_of("mclrec", read_sweep("mclrec"), ["ful"])
    monkeypatch.setattr(schema_module, "CONFIG_DIR", tmp_path)  # where no project has one
    with pytest.raises(UserError, match=r"docs/sweeps\.md"):
        read_sweep("mclrec")


def test_settings_that_the_sweep_beats_are_refused():
    """They came first on the command line of a trial, so a later word won without a sign."""
    sweep = from_mapping("sweep.yaml", Sweep, {**GOOD, "shared": {"optim.eps": 1e-3}})
    for word in ("seed=7", "optim.eps=1", "optim.lr=1.0", "optim.momentum=0.5"):
        with pytest.raises(UserError, match="would change nothing"):
            trials_of("dcl", sweep, "a", ARMS["a"], [word])


def test_a_trial_whose_metric_is_undefined_has_failed_and_the_others_go_on(tmp_path, program):
    program(FINISH.replace("'score': 1 -", "'score': None if lr == 0.01 else 1 -"))
    sweep, trials = planned(tmp_path, arms=("a",))
    lines = run(trials)
    assert len(lines) == 3
    assert sum("failed" in line and "'score' is undefined" in line for line in lines) == 1
    assert len(written(tmp_path, sweep, trials)[1]["trials"]) == 2
