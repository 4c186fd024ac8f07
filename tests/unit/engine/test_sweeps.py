"""Sweeps: the schema, trials that go on after a kill, pruning, failures, tables; runs are one-line
programs.
"""

import json
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from optuna.trial import TrialState

from common.config import UserError
from common.engine.comparison import processes
from common.engine.comparison.schema import from_mapping
from common.engine.sweeps import schema as schema_module
from common.engine.sweeps import study as study_module
from common.engine.sweeps.results import at_the_edge, axes_of, wandb_sweep, write_results
from common.engine.sweeps.schema import Axis, Prune, Sweep, arms_of, read_sweep
from common.engine.sweeps.study import ArmStudy, work
from common.engine.sweeps.sweep import run_sweep, write_wandb_sweep
from common.engine.sweeps.trials import TrialRun
from common.registry import list_projects
from tests.forked import forked

GOOD = {"metric": "score", "space": {"optim.lr": {"values": [0.001, 0.01, 0.1]}}, "sampler": "grid"}
# the score is highest at 0.01 for the arm "a" and at 0.1 for "b"
FINISH = (
    "lr = float([w for w in words if w.startswith('optim.lr')][0].split('=')[1]);"
    "best = 0.1 if 'arm=\"b\"' in words else 0.01; import math;"
    "json.dump({'score': 1 - abs(math.log10(lr / best))}, open('metrics.json', 'w'))"
)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(study_module, "POLL", 0.02)
    monkeypatch.setattr(processes, "GRACE", 1.0)


@pytest.fixture
def program(monkeypatch):
    """`program(code)` is what each trial's process does in its folder, with `words`."""

    def use(code):
        def command(self):
            start = (
                f"import json, os, sys, time; os.chdir({str(self.path)!r}); words ="
                f" {list(self.words)!r};"
            )
            return [sys.executable, "-c", start + code]

        monkeypatch.setattr(TrialRun, "command", command)

    return use


def studies(folder, arms=("a", "b"), **changes):
    sweep = from_mapping("sweep.yaml", Sweep, {**GOOD, "arms": list(arms), **changes})
    return sweep, [
        ArmStudy("dcl", sweep.of(arm), arm, {"arm": arm}, [], folder / "sweep", folder)
        for arm in arms
    ]


@pytest.mark.slow
def test_every_arm_gets_the_same_grid_and_the_best_of_each_is_named(tmp_path, program):
    program(FINISH)
    sweep, both = studies(tmp_path)
    lines = list(work(both, jobs=2, threads=1))
    assert len(lines) == 6
    text = write_results("dcl", sweep, both, tmp_path / "sweep")
    actual = json.loads((tmp_path / "sweep/sweep.json").read_text())
    assert actual["best"]["a"] == {"value": 1.0, "settings": {"optim.lr": 0.01}}
    assert actual["best"]["b"] == {"value": 1.0, "settings": {"optim.lr": 0.1}}
    assert sorted(t["settings"]["optim.lr"] for t in actual["trials"] if t["arm"] == "a") == [
        0.001,
        0.01,
        0.1,
    ]
    assert "best of b: 1.0000 with `optim.lr=0.1`; at the end of what was tried: optim.lr" in text
    assert "best of a: 1.0000 with `optim.lr=0.01`\n" in text
    assert (tmp_path / "sweep/slices.png").stat().st_size > 1000
    _, again = studies(tmp_path)
    assert list(work(again, jobs=1, threads=1)) == []  # nothing is run twice


def test_a_grid_is_widened_without_running_its_finished_points_again(tmp_path, program):
    program(FINISH)
    _, (one,) = studies(tmp_path, arms=("a",))
    list(work([one], jobs=1, threads=1))
    wider = {"space": {"optim.lr": {"values": [0.001, 0.01, 0.1, 1.0]}}}
    program(FINISH.replace("import math;", "import math; assert lr == 1.0, lr;"))
    sweep, (more,) = studies(tmp_path, arms=("a",), **wider)
    assert len(list(work([more], jobs=1, threads=1))) == 4
    write_results("dcl", sweep, [more], tmp_path / "sweep")
    actual = json.loads((tmp_path / "sweep/sweep.json").read_text())
    assert len(actual["trials"]) == 4
    assert actual["best"]["a"]["settings"] == {"optim.lr": 0.01}


def test_an_arm_has_settings_of_its_own_beside_those_of_all(tmp_path, program):
    program(FINISH)
    own = {"a": {"method.k": {"values": [1, 2]}}}
    sweep, both = studies(tmp_path, arms=("a", "b"), own=own)
    assert [s.target for s in both] == [6, 3]
    assert len(list(work(both, jobs=2, threads=1))) == 9
    text = write_results("dcl", sweep, both, tmp_path / "sweep")
    actual = json.loads((tmp_path / "sweep/sweep.json").read_text())
    assert {tuple(t["settings"]) for t in actual["trials"] if t["arm"] == "a"} == {
        ("optim.lr", "method.k")
    }
    assert {tuple(t["settings"]) for t in actual["trials"] if t["arm"] == "b"} == {("optim.lr",)}
    assert "| arm | optim.lr | method.k | score |" in text
    assert "| b | 0.1 |  | 1.0000 |" in text
    assert "method.k (widen it)" in text  # of a; 1 and 2 are both ends
    with pytest.raises(ValueError, match="own names c"):
        Sweep(metric="m", space={"k": Axis([1, 2])}, arms=["a"], own={"c": {}})


def test_a_setting_of_several_arms_has_the_values_of_all():
    own = {"a": {"k": Axis([1, 2])}, "b": {"k": Axis([2, 3]), "w": Axis(low=0.0, high=1.0)}}
    axes = axes_of(Sweep(metric="m", space={"lr": Axis([0.1])}, arms=["a", "b"], own=own))
    assert {key: axis.values for key, axis in axes.items()} == {
        "lr": [0.1],
        "k": [1, 2, 3],
        "w": [],
    }


@pytest.mark.parametrize(
    "change", [{"shared": {"eval.part": "dev"}}, {"seed": 101}, {"config": {"steps": 9}}]
)
def test_other_settings_do_not_take_over_what_was_found_with_the_first(tmp_path, program, change):
    program(FINISH)
    _, (one,) = studies(tmp_path, arms=("a",))
    list(work([one], jobs=1, threads=1))
    config = change.get("config")
    sweep = from_mapping(
        "sweep.yaml", Sweep, GOOD | {k: v for k, v in change.items() if k != "config"}
    )
    other = ArmStudy("dcl", sweep, "a", {"arm": "a"}, [], tmp_path / "sweep", tmp_path, config)
    assert other.ask() is not None
    assert not other.run_of(other.interrupted()[0]).done


@pytest.mark.slow
def test_another_metric_of_finished_runs_is_read_and_not_the_first_one_s_value(tmp_path, program):
    program(FINISH.replace("{'score': 1", "{'loss': 7.0, 'score': 1"))
    _, (one,) = studies(tmp_path, arms=("a",))
    list(work([one], jobs=1, threads=1))
    _, (other,) = studies(tmp_path, arms=("a",), metric="loss", direction="min")
    assert all("loss 7.0000" in line for line in work([other], jobs=1, threads=1))
    assert len(list(tmp_path.glob("sweep-a-*"))) == 3  # nothing is run again


def test_a_failed_point_of_a_grid_is_tried_again_in_a_folder_of_its_own(tmp_path, program):
    program(
        "lr = [w for w in words if w.startswith('optim.lr')][0]; sys.exit('broken') if"
        " lr.endswith('=0.01') else None;" + FINISH
    )
    _, (one,) = studies(tmp_path, arms=("a",))
    lines = list(work([one], jobs=1, threads=1))
    assert sum("failed" in line for line in lines) == 1
    program(FINISH)
    _, (again,) = studies(tmp_path, arms=("a",))
    (line,) = work([again], jobs=1, threads=1)
    assert "score 1.0000 with optim.lr=0.01" in line
    assert len(list(tmp_path.glob("sweep-a-*"))) == 4


def test_a_killed_sweep_goes_on_with_the_trial_that_was_running(tmp_path, program):
    program(
        "import sys; sys.exit(0) if os.path.exists('begun') else open('begun', 'w'); time.sleep(60)"
    )
    _, (one,) = studies(tmp_path, arms=("a",))
    run = one.run_of(one.ask())
    assert run.start(1)
    while not (run.path / "begun").exists():
        time.sleep(0.02)
    _, (other,) = studies(tmp_path, arms=("a",))
    (trial,) = other.interrupted()
    assert other.run_of(trial).path == run.path
    assert not other.run_of(trial).start(1)  # somebody works on it
    run.stop()
    program(FINISH)
    _, (third,) = studies(tmp_path, arms=("a",))
    assert len(list(work([third], jobs=1, threads=1))) == 3
    assert len(third.study.get_trials()) == 3


def test_a_resumed_run_is_told_to_go_on(tmp_path):
    run = TrialRun("dcl", "mini", ["seed=100"], tmp_path / "sweep-000")
    assert "resume=sweep-000" not in run.command()
    run.path.mkdir()
    (run.path / "meta.json").write_text("{}")
    assert run.command()[-2:] == ["run_id=sweep-000", "resume=sweep-000"]


def test_three_failures_in_a_row_end_the_sweep_with_their_logs(tmp_path, program):
    program("sys.exit('no such file: words.txt')")
    _, both = studies(tmp_path)
    with pytest.raises(UserError, match="no such file: words.txt"):
        list(work(both, jobs=1, threads=1))
    states = [t.state for study in both for t in study.study.get_trials()]
    assert states.count(TrialState.FAIL) == 3


def test_a_metric_that_no_run_has_is_named(tmp_path, program):
    program("json.dump({'scores': 1.0}, open('metrics.json', 'w'))")
    _, both = studies(tmp_path)
    with pytest.raises(UserError, match="no metric 'score'; did you mean 'scores'"):
        list(work(both, jobs=1, threads=1))


def test_a_curve_below_the_median_is_ended_early(tmp_path, program):
    program(
        "lr = float([w for w in words if w.startswith('optim.lr')][0].split('=')[1]); first = lr =="
        " 0.001;open('metrics.csv', 'w').write(f'stage,step,name,value\\ntrain,9,val/s,{1.0 if"
        " first else 0.0}\\n');time.sleep(0 if first else 60); json.dump({'score': 1.0},"
        " open('metrics.json', 'w'))"
    )
    prune = {"metric": "val/s", "trials": 1}
    _, (one,) = studies(tmp_path, arms=("a",), prune=prune)
    lines = list(work([one], jobs=1, threads=1))
    assert "score 1.0000" in lines[0]
    assert all("ended early" in line for line in lines[1:])
    assert [t.state for t in one.study.get_trials()].count(TrialState.PRUNED) == 2


def test_the_curve_of_a_trial_that_ends_between_two_looks_is_read(tmp_path):
    _, (one,) = studies(tmp_path, arms=("a",), prune={"metric": "val/s", "trials": 1})

    class EndsNow:
        path, done = tmp_path, True

        def ended(self):
            (tmp_path / "metrics.csv").write_text("stage,step,name,value\ntrain,9,val/s,1.0\n")
            (tmp_path / "metrics.json").write_text('{"score": 1.0}')
            return True

        def stop(self):
            pass

    assert "score 1.0000" in study_module._look(one, one.ask(), EndsNow())
    assert one.study.get_trials()[0].intermediate_values == {9: 1.0}


def test_a_continued_study_draws_new_points(tmp_path, program):
    program(FINISH)
    space = {"space": {"optim.lr": {"low": 1e-4, "high": 1.0, "log": True}}, "sampler": "random"}
    for trials in (2, 4):
        _, (one,) = studies(tmp_path, arms=("a",), trials=trials, **space)
        list(work([one], jobs=1, threads=1))
    assert len({t.params["optim.lr"] for t in one.study.get_trials()}) == 4


def test_two_commands_draw_different_points(tmp_path):
    space = {"space": {"optim.lr": {"low": 1e-4, "high": 1.0, "log": True}}, "trials": 8}
    for kind in ("random", "tpe"):
        opened = [
            studies(tmp_path / kind, arms=("a",), sampler=kind, **space)[1][0] for _ in range(2)
        ]
        drawn = [one.ask().params["optim.lr"] for _ in range(3) for one in opened]
        assert len(set(drawn)) == 6


def test_other_code_begins_a_study_anew(tmp_path, monkeypatch):
    _, (one,) = studies(tmp_path, arms=("a",))
    monkeypatch.setattr(study_module, "code_hash", lambda _: "01d")
    _, (other,) = studies(tmp_path, arms=("a",))
    assert one.key != other.key
    assert one.run_of(one.ask()).path != other.run_of(other.ask()).path


def test_commands_that_begin_at_once_share_one_database_and_its_points(tmp_path):
    """Without the lock, the second finds tables half made, and each of them asks for the whole
    grid.
    """
    gate = threading.Barrier(4)

    def begin(_):
        gate.wait()
        return studies(tmp_path, arms=("a",))[1][0]

    with ThreadPoolExecutor(4) as pool:
        opened = list(pool.map(begin, range(4)))
    assert [len(one.study.get_trials()) for one in opened] == [3] * 4


def _sweep_of_sleepers(folder):
    sleeper = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    TrialRun.command = lambda self: [sys.executable, "-c", sleeper]
    sweep = from_mapping("sweep.yaml", Sweep, GOOD)
    list(work([ArmStudy("dcl", sweep, "a", {}, [], folder / "sweep", folder)], 1, 1))


def test_a_told_sweep_ends_its_trials(tmp_path):
    process = forked(_sweep_of_sleepers, tmp_path, daemon=True)
    while not (logs := [p for p in tmp_path.glob("sweep-a-*/log.txt") if p.read_text().strip()]):
        assert process.is_alive()
        time.sleep(0.05)
    (log,) = logs
    process.terminate()
    process.join(30)
    assert process.exitcode == 143
    with pytest.raises(ProcessLookupError):
        os.kill(int(log.read_text().split()[0]), 0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"space": {}}, "space is empty"),
        ({"metrics": 1}, "did you mean 'metric'"),
        ({"space": {"optim.lr": {"low": 0.1, "high": 0.01}}}, "low must be below high"),
        (
            {"space": {"optim.lr": {"low": 0.0, "high": 0.1, "log": True}}, "sampler": "tpe"},
            "low > 0",
        ),
        ({"space": {"optim.lr": {"low": 0.01, "high": 0.1}}}, "grid needs values"),
        ({"space": {"optim.lr": {"values": [1], "low": 0.1, "high": 1.0}}}, "either values"),
        ({"space": {"optim.rl": {"values": [0.1]}}}, "optim.rl"),
        ({"arms": ["dcl"], "own": {"dcl": {"optim.rl": {"values": [0.1]}}}}, "optim.rl"),
        ({"arms": ["dcl"], "own": {"dcl": {"optim.lr": {"low": 0.1, "high": 1}}}}, "grid needs"),
        ({"space": {"optim.lr": {"values": [-0.1]}}}, "optim.lr"),
        ({"sampler": "magic"}, "magic"),
        ({"trials": 0}, "trials must be"),
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


def test_edges_of_intervals_and_values_that_are_no_numbers():
    axes = {
        "a": Axis(low=1e-4, high=1.0, log=True),
        "b": Axis(["x", "y"]),
        "c": Axis(low=0, high=10),
    }
    sweep = Sweep(metric="m", space=axes)
    assert at_the_edge(sweep, {"a": 0.99, "b": "x", "c": 5}) == ["a"]
    assert at_the_edge(sweep, {"a": 1e-2, "b": "y", "c": 0.1}) == ["c"]


def test_the_same_sweep_for_weights_and_biases():
    axes = {
        "optim.lr": Axis(low=1e-4, high=1.0, log=True),
        "method.k": Axis(low=1, high=9, whole=True),
    }
    sweep = Sweep(
        metric="m", direction="min", space=axes, prune=Prune("val/m"), shared={"a.b": "x y"}
    )
    own = {"method.loss": "dclw"}  # an arm's, which come after what all share
    actual = yaml.safe_load(wandb_sweep("dcl", sweep, ["trainer.devices=2"], own))
    assert actual["method"] == "bayes"
    assert actual["metric"] == {"name": "test/m", "goal": "minimize"}  # as a run logs it
    assert actual["parameters"]["optim.lr"] == {
        "distribution": "log_uniform_values",
        "min": 1e-4,
        "max": 1.0,
    }
    assert actual["parameters"]["method.k"] == {"distribution": "int_uniform", "min": 1, "max": 9}
    assert actual["command"][:7] == ["${env}", "python", "-m", "common.cli", "train", "dcl", "mini"]
    assert "trainer.devices=2" in actual["command"]
    assert actual["command"].index('a.b="x y"') < actual["command"].index('method.loss="dclw"')
    assert actual["command"][-1] == "${args_no_hyphens}"
    assert actual["run_cap"] == 20


def test_the_weights_and_biases_sweep_has_a_file_for_each_arm(tmp_path):
    words = [f"runs_dir={tmp_path}"]
    paths = write_wandb_sweep("mclrec", words, ["ce", "full"], None)
    assert [p.name for p in paths] == ["wandb-sweep-ce.yaml", "wandb-sweep-full.yaml"]
    commands = [yaml.safe_load(p.read_text())["command"] for p in paths]
    assert "method.cl1_weight=0.0" in commands[0]
    assert "method.cl1_weight=0.0" not in commands[1]


def test_a_grid_takes_no_number_of_trials(tmp_path):
    with pytest.raises(UserError, match="as many trials as points"):
        run_sweep("mclrec", [f"runs_dir={tmp_path}"], ["ce"], 1, 2, print)


def test_settings_that_the_sweep_beats_are_refused():
    """They came first on the command line of a trial, so a later word won without a sign."""
    sweep = from_mapping("sweep.yaml", Sweep, {**GOOD, "shared": {"eval.part": "dev"}})
    for word in ("seed=7", "eval.part=test", "optim.lr=1.0", "arm=b"):
        with pytest.raises(UserError, match="would change nothing"):
            ArmStudy("dcl", sweep, "a", {"arm": "a"}, [word], Path("sweep"), Path())


def test_a_trial_whose_metric_is_undefined_has_failed_and_the_others_go_on(tmp_path, program):
    program(FINISH.replace("'score': 1 -", "'score': None if lr == 0.01 else 1 -"))
    sweep, (one,) = studies(tmp_path, arms=("a",))
    lines = list(work([one], jobs=1, threads=1))
    assert len(lines) == 3
    assert sum("failed" in line and "'score' is undefined" in line for line in lines) == 1
    write_results("dcl", sweep, [one], tmp_path / "sweep")
    assert len(json.loads((tmp_path / "sweep/sweep.json").read_text())["trials"]) >= 2
