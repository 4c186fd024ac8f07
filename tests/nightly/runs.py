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
    def is_done(self) -> bool:
        """Whether its metrics are written."""
        return (self.path / "metrics.json").exists()

    def start(self) -> None:
        """Begin, or go on from what there is."""
        words = [f"runs_dir={self.folder}", *QUIET, *self.overrides]
        # meta.json is the first thing that makes a folder a run which can be resumed
        known = (self.path / "meta.json").exists()
        words.append(f"resume={self.name}" if known else f"run_id={self.name}")
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


def whole(project: str, folder: Path) -> tuple[dict[str, object], float]:
    """Result and seconds of a run that nobody disturbs."""
    run, start = Run(project, folder, "whole"), time.monotonic()
    run.start()
    assert run.ends() == 0, (folder / f"{project}-whole.log").read_text()[-2000:]
    return run.result(), time.monotonic() - start


def killed_once(project: str, folder: Path, name: str, after: float) -> dict[str, object]:
    """Result of a run that is killed after some seconds, then goes on to its end."""
    run = Run(project, folder, name)
    run.start()
    time.sleep(after)
    run.kill()
    run.start()
    assert run.ends() == 0, (folder / f"{project}-{name}.log").read_text()[-2000:]
    return run.result()


def moment(seed: int, seconds: float) -> float:
    """A random time of a run's life, its import and its last writing included."""
    return random.Random(seed).uniform(0.0, 1.05 * seconds)
