"""A loss of power: what was not synced is gone, and the run continues from its last checkpoint."""

import os
from pathlib import Path

import pytest

from common import cli
from common.engine.lifecycle.run import Run
from tests.interrupted import assert_killed, final_state, same
from tests.power import Disk
from tests.toy.command import use_toy

WORDS = ["tracking.wandb=disabled", "trainer.checkpoint_every_n_steps=2", "trainer.max_steps=6"]


def command(folder: Path, verb: str, *words: str) -> int:
    with pytest.MonkeyPatch.context() as monkeypatch:
        use_toy(monkeypatch)
        return cli.main([verb, "toy", "smoke", f"runs_dir={folder}", *words])


def train(folder: Path, *words: str) -> int:
    return command(folder, "train", *WORDS, *words)


def power_fails(folder: Path, at: int) -> None:
    """Train until a file was synced `at` times; every file is then as it was when last synced."""
    os.fsync = Disk(folder, folder.with_name("disk"), at).fsync
    train(folder, "run_id=r")


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """That of a whole run, its evaluation and its export."""
    folder = tmp_path_factory.mktemp("whole")
    disk = Disk(folder / "runs", folder / "disk")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(os, "fsync", disk.fsync)
        assert train(disk.folder, "run_id=r") == 0
        assert command(disk.folder, "eval", "--run", "r") == 0
        assert command(disk.folder, "export", "--run", "r") == 0
    return disk


@pytest.fixture(scope="module")
def whole(disk):
    return disk.folder / "toy/smoke/r"


def test_metrics_evaluations_and_exports_survive(disk, whole):
    assert (whole / "export").is_dir()
    assert len(list(whole.rglob("metrics.json"))) == 2
    assert disk.lost() == set()


def test_what_is_not_synced_is_lost(disk, whole):
    (whole / "notes.txt").write_text("not synced")
    assert disk.lost() == {"notes.txt"}
    (whole / "notes.txt").unlink()


def rows(run):
    lines = (run / "metrics.csv").read_text().splitlines()
    return [line for line in lines if ",sys/" not in line]


@pytest.mark.parametrize("at", [14, 23, 34])
def test_what_was_saved_and_logged_survives(tmp_path, whole, at):
    folder = tmp_path / "runs"
    assert_killed(power_fails, folder, at)
    run = folder / "toy/smoke/r"
    assert Run(run, "toy", "smoke").has_steps
    assert train(folder, "resume=latest") == 0
    assert rows(run) == rows(whole)
    for stage in ("stage0", "stage1"):
        assert same(final_state(run, stage), final_state(whole, stage))
