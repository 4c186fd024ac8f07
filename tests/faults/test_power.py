"""A loss of power: what was not synced is gone, and the run continues from its last checkpoint."""

import os
import shutil
from pathlib import Path

import pytest

from common import cli
from common.engine.lifecycle.run import Run
from tests.interrupted import assert_killed, die, final_state, same
from tests.toy.command import use_toy

WORDS = ["tracking.wandb=disabled", "trainer.checkpoint_every_n_steps=2", "trainer.max_steps=6"]


def train(folder: Path, *words: str) -> int:
    with pytest.MonkeyPatch.context() as monkeypatch:
        use_toy(monkeypatch)
        return cli.main(["train", "toy", "smoke", f"runs_dir={folder}", *WORDS, *words])


def power_fails(folder: Path, at: int) -> None:
    """Train until a file was synced `at` times; every file is then as it was when last synced."""
    disk = folder.with_name("disk")  # content of every inode at its last sync
    disk.mkdir()
    sync, calls = os.fsync, []

    def synced(handle: int) -> None:
        sync(handle)
        place = Path(f"/proc/self/fd/{handle}")
        if place.is_file():
            shutil.copyfile(place, disk / str(place.stat().st_ino))
        calls.append(handle)
        if len(calls) == at:
            for path in [p for p in folder.rglob("*") if p.is_file()]:
                kept = disk / str(path.stat().st_ino)
                path.write_bytes(kept.read_bytes() if kept.exists() else b"")
            die()

    os.fsync = synced
    train(folder, "run_id=r")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    assert train(folder, "run_id=r") == 0
    return folder / "toy/smoke/r"


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
