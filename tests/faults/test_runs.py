"""What happens to runs, replayed on four projects through the command line: damage, other settings,
a second writer, signals.
"""

import json
import os
import shutil
import signal

import pytest

from common import cli
from common.engine import checkpoint as ckpt
from common.engine import run as engine
from tests.figures import unrendered
from tests.interrupted import assert_killed, die, final_state, flip, same
from tests.unit.engine.lifecycle.test_lock import locked_by

pytestmark = pytest.mark.slow

PROJECTS = ["laclip", "simcse", "coconut", "trend"]
QUIET = [
    "tracking.wandb=disabled",
    "trainer.checkpoint_every_n_steps=2",
    "trainer.keep_checkpoints=9",
    "optim.lr=2e-3",
]
SAVES = 2  # the kill comes when this one is written


def train(project, folder, *words):
    return cli.main(["train", project, "smoke", f"runs_dir={folder}", *words])


def train_and_die(project, folder, before=False):
    """`before`: the checkpoint is not written any more, what was logged up to it is."""
    save, saves = ckpt.RunCheckpoint.save, []

    def save_and_die(self, trainer, module):
        saves.append(trainer.global_step)
        if before and len(saves) == SAVES:
            die()
        path = save(self, trainer, module)
        if len(saves) == SAVES:
            die()
        return path

    ckpt.RunCheckpoint.save = save_and_die
    train(project, folder, "run_id=r", *QUIET)


def results(run):
    """Metrics of a run that has ended, rows of its log without times, and the last state of each
    stage.
    """
    stages = sorted(p.name for p in (run / "checkpoints").iterdir())
    metrics = json.loads((run / "metrics.json").read_text())
    rows = [row for row in (run / "metrics.csv").read_text().splitlines() if ",sys/" not in row]
    return (metrics, rows), {stage: final_state(run, stage) for stage in stages}


@pytest.fixture(scope="module", params=PROJECTS)
def runs(request, tmp_path_factory):
    """Project, results of a whole run, folder in which the run `r` was killed."""
    folder = tmp_path_factory.mktemp(request.param)
    with unrendered():
        assert train(request.param, folder / "whole", "run_id=whole", *QUIET) == 0
    assert_killed(train_and_die, request.param, folder / "killed")
    whole = folder / f"whole/{request.param}/smoke/whole"
    return request.param, whole, folder / "killed"


@pytest.fixture
def killed(runs, tmp_path):
    """Project, results to be reached, runs_dir and folder of a copy of the killed run."""
    project, whole, folder = runs
    shutil.copytree(folder, tmp_path / "runs")
    with unrendered():
        yield project, results(whole), tmp_path / "runs", tmp_path / f"runs/{project}/smoke/r"


def checkpoints(run):
    return sorted((run / "checkpoints").glob("*/step-*.ckpt"), key=lambda p: p.stat().st_mtime_ns)


def assert_equal(run, wanted):
    metrics, states = results(run)
    assert metrics == wanted[0]
    assert same(states, wanted[1])


def test_a_flipped_bit_is_named_and_an_older_checkpoint_taken(killed, capsys):
    """Resumed without a word of its settings, the run is the one that was begun."""
    project, expected, folder, run = killed
    newest = checkpoints(run)[-1]
    flip(newest)
    assert train(project, folder, "resume=latest") == 0
    assert f"{newest.name} does not match its checksum" in capsys.readouterr().out
    assert_equal(run, expected)


def test_what_was_logged_past_the_last_checkpoint_is_not_logged_twice(runs, tmp_path):
    """Losses and validations."""
    project, whole, _ = runs
    assert_killed(train_and_die, project, tmp_path, True)
    with unrendered():
        assert train(project, tmp_path, "resume=latest") == 0
    assert_equal(tmp_path / f"{project}/smoke/r", results(whole))


def test_all_damaged_is_refused_and_nothing_begins_anew(killed, capsys):
    project, _, folder, run = killed
    actual = checkpoints(run)
    for path in actual:
        flip(path)
    rows = (run / "metrics.csv").read_bytes()
    for _ in range(2):  # nor does the first refusal make the second one start anew
        assert train(project, folder, "resume=r") == 2
        (said,) = capsys.readouterr().err.strip().splitlines()
        assert "is intact" in said
        assert all(path.name in said for path in actual)
    assert checkpoints(run) == actual
    assert (run / "metrics.csv").read_bytes() == rows


def test_other_settings_are_refused_by_name_and_what_may_change_is_recorded(killed, capsys):
    project, expected, folder, run = killed
    before = (run / "meta.json").read_bytes()
    assert train(project, folder, "resume=r", "optim.lr=0.5", "seed=7") == 2
    (said,) = capsys.readouterr().err.strip().splitlines()
    assert "optim.lr" in said
    assert "seed" in said
    assert (run / "meta.json").read_bytes() == before
    assert train(project, folder, "resume=r", "trainer.keep_checkpoints=5") == 0
    assert "trainer.keep_checkpoints" in (run / "meta.json").read_text()
    assert_equal(run, expected)


def test_a_second_writer_is_refused(killed, capsys):
    project, _, folder, run = killed
    locked_by(run, os.getppid())
    assert train(project, folder, "resume=r") == 2
    assert f"is being written by process {os.getppid()}" in capsys.readouterr().err


def test_a_signal_in_the_evaluation_ends_with_its_code_and_eval_leaves_the_metrics_alone(
    killed, monkeypatch
):
    project, expected, folder, run = killed
    plain = engine.evaluate_module

    def interrupted(*args):
        os.kill(os.getpid(), signal.SIGTERM)
        return plain(*args)

    monkeypatch.setattr(engine, "evaluate_module", interrupted)
    with pytest.raises(SystemExit) as stop:
        train(project, folder, "resume=r")
    assert stop.value.code == 143
    assert not (run / "metrics.json").exists()
    monkeypatch.setattr(engine, "evaluate_module", plain)
    assert train(project, folder, "resume=latest") == 0
    assert_equal(run, expected)
    before = (run / "metrics.json").read_bytes()
    assert cli.main(["eval", project, "smoke", f"runs_dir={folder}", "--run", "r"]) == 0
    assert (run / "metrics.json").read_bytes() == before
    assert len(list(run.glob("eval-*/metrics.json"))) == 1
