"""Real runs in processes of their own, killed at random and continued."""

import csv
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from common.engine.workspace import read_json
from tests.interrupted import final_state

QUIET = ("tracking.wandb=disabled", "trainer.checkpoint_every_n_steps=2")
GRACE = 600.0  # seconds after which a run that does not end counts as hanging


class Run:
    """One run of a smoke config under a name of its own.

    Args:
        project: slug.
        folder: of all runs.
        name: of this one.
        overrides: further ones.
    """

    def __init__(self, project: str, folder: Path, name: str, *overrides: str) -> None:
        self.project, self.folder, self.name, self.overrides = project, folder, name, overrides
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def path(self) -> Path:
        """Its folder."""
        return self.folder / self.project / "smoke" / self.name

    @property
    def is_begun(self) -> bool:
        """Whether its settings are written, which makes a folder a run that can be resumed."""
        return (self.path / "meta.json").exists()

    @property
    def is_done(self) -> bool:
        """Whether its metrics are written."""
        return (self.path / "metrics.json").exists()

    def start(self) -> None:
        """Begin, or go on from what there is."""
        words = [f"runs_dir={self.folder}", *QUIET, *self.overrides]
        words.append(f"resume={self.name}" if self.is_begun else f"run_id={self.name}")
        command = [sys.executable, "-m", "common.cli", "train", self.project, "smoke", *words]
        with (self.folder / f"{self.project}-{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, start_new_session=True, env=dict(os.environ)
            )

    def kill(self) -> None:
        """SIGKILL to the run and all that it has started."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def ends(self) -> int:
        """Wait; the exit code."""
        assert self.process is not None
        return self.process.wait(GRACE)

    def waits_until_begun(self) -> None:
        """Return when its settings are written, or when it has ended."""
        assert self.process is not None
        while not self.is_begun and self.process.poll() is None:
            time.sleep(0.01)

    def reached(self) -> str:
        """How far it has come: "import", "ended", or the newest stage and whether that is finished."""
        if not self.is_begun:
            return "import"
        if self.is_done:
            return "ended"
        stages = [p for p in self.path.glob("checkpoints/*") if p.is_dir()]
        if not stages:
            return "set-up"
        newest = max(stages, key=lambda p: p.stat().st_mtime_ns)
        return f"{newest.name} {'done' if (newest / 'finished.json').exists() else 'begun'}"

    def result(self) -> dict[str, object]:
        """What must be equal: metrics, rows of the log without times, last weights of each stage."""
        with (self.path / "metrics.csv").open(newline="", encoding="utf-8") as file:
            rows = [
                (row["stage"], row["step"], row["name"], row["value"])
                for row in csv.DictReader(file)
                if "sys/" not in row["name"]
            ]
        stages = sorted(p.name for p in (self.path / "checkpoints").iterdir() if p.is_dir())
        return {
            "metrics": read_json(self.path / "metrics.json"),
            "rows": rows,
            "states": {stage: final_state(self.path, stage) for stage in stages},
        }


def whole(project: str, folder: Path) -> tuple[dict[str, object], float, float]:
    """Result of a run that nobody disturbs, its seconds and those after its settings were written."""
    run, start = Run(project, folder, "whole"), time.monotonic()
    run.start()
    run.waits_until_begun()
    begun = time.monotonic()
    assert run.ends() == 0, (folder / f"{project}-whole.log").read_text()[-2000:]
    end = time.monotonic()
    return run.result(), end - start, end - begun


def killed_once(
    project: str, folder: Path, number: int, seconds: float, busy: float
) -> tuple[dict[str, object], str]:
    """Result of a run that is killed once, then goes on to its end, and how far it was by then.

    Args:
        project: slug.
        folder: of all runs.
        number: of the kill. Even ones come at any time of the run's life, odd ones, since a smoke run
            mostly imports, at any time after its settings are written.
        seconds: of an undisturbed run.
        busy: seconds of it after its settings are written.
    """
    run, draw = Run(project, folder, f"k{number}"), random.Random(number)
    run.start()
    if number % 2:
        run.waits_until_begun()
    time.sleep(draw.uniform(0.0, 1.05 * (busy if number % 2 else seconds)))
    run.kill()
    where = run.reached()
    run.start()
    assert run.ends() == 0, (folder / f"{project}-{run.name}.log").read_text()[-2000:]
    return run.result(), where
