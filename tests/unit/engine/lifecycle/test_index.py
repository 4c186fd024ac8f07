"""The list of runs, differences between two, and what is offered for removal."""

import os

import pytest
from rich.console import Console

from common.cli import main
from common.config import UserError
from common.engine import verbs
from common.engine.lifecycle import index, lock
from common.engine.workspace import write_json


@pytest.fixture
def make(tmp_path):
    def make(run, minute=0, value=None, project="vacancysbert", **meta):
        path = tmp_path / project / "mini" / run
        (path / "checkpoints/fit").mkdir(parents=True)
        if meta.pop("begun", True):
            (path / "checkpoints/fit/step-1.ckpt").write_bytes(b"")
        write_json(
            path / "meta.json",
            {
                "project": project,
                "config": "mini",
                "seed": 0,
                "num_steps": 9,
                "overrides": [f"run_id={run}"],
                "state": "finished",
                "started": f"2026-01-01T10:{minute:02d}:00",
                **meta,
            },
        )
        if value is not None:
            write_json(path / "metrics.json", {"titles_recall_at_10": value, "other": 1.0})
        return path

    return make


def test_runs_are_listed_in_their_order_with_state_and_primary_metric(make, tmp_path):
    make("b", 2, 0.5, resolved={"tracking": {"tags": ["arm:trained"]}})
    make("a", 1, state="running")
    make("c", 3, project="gone", state="failed")
    actual = index.entries(tmp_path)
    assert [(e.run, e.state, e.value, e.arm) for e in actual] == [
        ("a", "stopped", None, ""),
        ("b", "finished", 0.5, "trained"),
        ("c", "failed", None, ""),
    ]
    assert actual[1].metric == "titles_recall_at_10"
    assert [e.run for e in index.entries(tmp_path, "gone")] == ["c"]


def test_conditions(make, tmp_path):
    for number in range(4):
        make(str(number), number, 0.1 * number, seed=number)
    actual = index.entries(tmp_path)
    for where, expected in {
        "": "0123",
        "seed>=2": "23",
        "seed>=1, value<0.25": "12",
        "state!=finished": "",
        "run=3": "3",
    }.items():
        assert "".join(e.run for e in index.select(actual, where)) == expected, where
    for where, words in {
        "sed=1": "did you mean 'seed'",
        "seed": "field=value",
        "seed>x": "number",
        "metric>=0.4": "metric is text",
        "state=stoppd": "no state 'stoppd'; did you mean 'stopped'",
    }.items():
        with pytest.raises(UserError, match=words):
            index.select(actual, where)


def test_differences_are_settings_and_metrics(make, tmp_path):
    left = make("a", value=0.5, resolved={"optim": {"lr": 1.0, "name": "sgd"}}, commit="x")
    right = make(
        "b", value=0.6, resolved={"optim": {"lr": 2.0, "name": "sgd"}, "new": 1}, commit="x"
    )
    assert index.differences(index.find(tmp_path, "a"), index.find(tmp_path, str(right))) == [
        ("optim.lr", 1.0, 2.0),
        ("metrics.titles_recall_at_10", 0.5, 0.6),
        ("new", None, 1),
    ]
    assert index.differences(left, left) == []
    with pytest.raises(UserError, match="no run 'aa'"):
        index.find(tmp_path, "aa")
    with pytest.raises(UserError, match=r"no meta\.json"):
        index.differences(left, tmp_path)


def offered(folder):
    return {e.run: why for e, why in index.removable(index.entries(folder))}


def test_superseded_runs_and_ones_without_a_step_are_offered_and_nothing_else(make, tmp_path):
    make("old", 1)
    make("broken", 1, state="failed")
    make("new", 2)
    make("seed", 3, seed=1)
    make("other", 4, overrides=["optim.lr=1", "run_id=other"])
    make("failed", 5, state="failed")  # after its first step: resume=failed continues with it
    make("nothing", 5, state="failed", begun=False)
    make("empty", 6, state="created", begun=False)
    make("stopped", 7, state="running")
    assert offered(tmp_path) == {
        "old": "superseded",
        "broken": "superseded",
        "nothing": "made no step",
        "empty": "made no step",
    }


@pytest.mark.parametrize(("order", "old"), [({"started": 3}, "a"), ("damaged", "b"), (None, "b")])
def test_the_order_of_runs_does_not_depend_on_the_clock(make, tmp_path, order, old):
    """It was set back between the two: the later run has the earlier time."""
    make("a", 9, order={"started": 2} if old == "a" else order)
    make("b", 1, order=order)
    assert offered(tmp_path) == {old: "superseded"}


def test_runs_of_other_settings_supersede_nothing(make, tmp_path):
    """Equal words on the command line over a config file that was edited between."""
    make("a", 1, resolved={"optim": {"lr": 0.1}, "tracking": {"tags": ["x"]}})
    make("b", 2, resolved={"optim": {"lr": 0.2}})
    assert offered(tmp_path) == {}
    make("c", 3, resolved={"optim": {"lr": 0.1}, "tracking": {"tags": []}})
    assert offered(tmp_path) == {"a": "superseded"}


def test_baselines_and_arms_of_equal_settings_are_kept(make, tmp_path):
    """Baselines of a comparison, and an arm without overrides, have one config and one seed."""
    for minute, name in enumerate(("chance", "untrained")):
        make(
            f"compare-baseline-{name}-seed3-c0de",
            minute,
            resolved={"x": 1},
            baseline=name,
            begun=False,
        )
    make("compare-method-seed3-c0ffee00-c0de", 2, resolved={"x": 1})
    make("compare-other-seed3-c0ffee00-c0de", 3, resolved={"x": 1})
    assert offered(tmp_path) == {}
    make("compare-method-seed3-c0ffee00-beef", 4, resolved={"x": 1})  # of other code
    assert offered(tmp_path) == {"compare-method-seed3-c0ffee00-c0de": "superseded"}


def test_a_run_that_is_written_is_not_removed(make, tmp_path):
    path = make("a")
    lock.acquire(path)
    with pytest.raises(UserError, match="being written"):
        index.remove(index.entries(tmp_path))
    assert path.exists()
    lock.release(path)
    index.remove(index.entries(tmp_path))
    assert not path.exists()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "5", "\0" * 90, "[" * 100_000, "\xff"])
def test_a_damaged_record_is_reported_and_hides_no_other_run(make, tmp_path, capsys, content):
    """Cut off by a loss of power, overwritten, of another program."""
    make("a")
    path = make("b") / "meta.json"
    path.write_text(content, encoding="latin-1")
    assert [e.run for e in index.entries(tmp_path)] == ["a"]
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"{path}" in said
    assert f"restore it from a copy, or delete {path.parent}" in said
    with pytest.raises(UserError, match="restore it from a copy"):
        index.differences(tmp_path / "vacancysbert/mini/a", path.parent)


def test_a_condition_chooses_among_what_is_of_no_use(make, tmp_path, monkeypatch):
    monkeypatch.setattr(verbs, "console", Console(highlight=False, markup=False))
    old, other = make("old", 1), make("other", 1, begun=False, state="failed")
    make("new", 2)
    verbs.prune(None, "run=other", True, tmp_path)
    assert old.exists()
    assert not other.exists()


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["runs"], 0, "1 runs"),
        (["runs", "--where", "state=failed"], 0, "0 runs"),
        (["diff", "a"], 2, "give two runs"),
        (["prune", "x", "y"], 2, "takes one project"),
        (["prune"], 0, "0 runs would go"),
        (["prune", "--where", "sed=1"], 2, "did you mean 'seed'"),
        (["runs", "runs_dir=elsewhere"], 2, "there is no folder"),
        (["runs", "seed=3"], 2, "no setting but runs_dir"),
    ],
)
def test_verbs(make, tmp_path, monkeypatch, capsys, words, code, text):
    os.renames(make("a", value=0.5).parents[1], tmp_path / "runs" / "vacancysbert")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(verbs, "console", Console(highlight=False))
    assert main(words) == code
    assert text in "".join(capsys.readouterr())
