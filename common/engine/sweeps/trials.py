"""A trial: a run with settings that the sampler chose, in a process of its own."""

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from common.config import ROOT, UserError, nearest
from common.engine.comparison.runs import GRACE, last_line
from common.engine.workspace import read_json


@dataclass
class TrialRun:
    """The run of a trial.

    Attributes:
        project: slug.
        base: config.
        words: overrides.
        path: its folder, whose name is its run id.
    """

    project: str
    base: str
    words: Sequence[str]
    path: Path
    process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)
    log: IO[bytes] | None = field(default=None, repr=False)

    @property
    def done(self) -> bool:
        """Whether it has its metrics."""
        return (self.path / "metrics.json").exists()

    def command(self) -> list[str]:
        """Words of its process; what was interrupted goes on."""
        words = [sys.executable, "-m", "common.cli", "train", self.project, self.base, *self.words]
        resumed = [f"resume={self.path.name}"] if (self.path / "meta.json").exists() else []
        return [*words, f"run_id={self.path.name}", *resumed]

    def start(self, threads: int) -> bool:
        """Start its process; False while another process works on it."""
        self.path.mkdir(parents=True, exist_ok=True)
        log = (self.path / "log.txt").open("ab")
        try:  # inherited by the process, so it outlives whoever started it
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            log.close()
            return False
        env = {"OMP_WAIT_POLICY": "passive", **os.environ, "OMP_NUM_THREADS": str(threads)}
        self.log, self.process = log, subprocess.Popen(
            self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            env=env, cwd=ROOT, start_new_session=True,
        )  # fmt: skip
        return True

    def ended(self) -> bool:
        """Whether its process has ended, well or not."""
        return self.process is None or self.process.poll() is not None

    def stop(self) -> None:
        """Ask it and the processes that it started to end; kill what doesn't."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(GRACE)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        if self.log is not None:
            self.log.close()

    def value(self, metric: str) -> float:
        """One of its metrics.

        Raises:
            UserError: it has no such metric.
        """
        metrics: dict[str, Any] = read_json(self.path / "metrics.json")
        if metric not in metrics:
            raise UserError(f"{self.path.name}: no metric '{metric}'{nearest(metric, metrics)}")
        return float(metrics[metric])

    def failure(self) -> str:
        """Why it has no metrics."""
        return f"{self.path.name}: {last_line(self.path / 'log.txt')}; see {self.path / 'log.txt'}"
