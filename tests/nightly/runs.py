"""Real runs in processes of their own, killed at random and continued."""

import contextlib
import csv
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil

from common import cli
from common.engine.workspace import read_json
from tests.forked import forked, print_to
from tests.interrupted import final_state
from tests.power import Disk

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
        command = [sys.executable, "-m", "common.cli", *self.words]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, start_new_session=True, env=dict(os.environ)
            )

    @property
    def words(self) -> list[str]:
        """Those of the command line that begins the run, or continues it."""
        place = f"resume={self.name}" if self.is_begun else f"run_id={self.name}"
        own = [f"runs_dir={self.folder}", *QUIET, *self.overrides, place]
        return ["train", self.project, "smoke", *own]

    @property
    def log(self) -> Path:
        """What it printed, of all its processes."""
        return self.folder / f"{self.project}-{self.name}.log"

    def kill(self) -> None:
        """SIGKILL to the run and all that it has started."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def ends(self) -> int:
        """Wait; the exit code."""
        assert self.process is not None
        return self.process.wait(GRACE)

    def works_for(self, seconds: float, from_settings: bool) -> bool:
        """Begin and wait for CPU seconds, counted from its settings on if asked; whether it still
        runs.
        """
        self.start()
        start = self.works_until(lambda _: self.is_begun) if from_settings else 0.0
        self.works_until(lambda spent: spent >= start + seconds)
        return self.process is not None and self.process.poll() is None

    def works_until(self, stop: Callable[[float], bool]) -> float:
        """Wait until `stop` of its CPU seconds, or until it ends; its CPU seconds then."""
        assert self.process is not None
        watched, spent = psutil.Process(self.process.pid), 0.0
        while self.process.poll() is None:
            with contextlib.suppress(psutil.Error):
                times = watched.cpu_times()
                spent = times.user + times.system
            if stop(spent):
                break
            time.sleep(0.01)
        return spent

    def reached(self) -> str:
        """How far it has come: "import", "ended", or the newest stage and whether that is
        finished."""
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
        """What must be equal: metrics, rows of the log without times, last weights of each
        stage."""
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


class Forked(Run):
    """A run in forks of this process, which spend their time in training and not in imports."""

    child: BaseProcess | None = None

    @property
    def disk(self) -> Disk:
        """What a loss of power would leave of it."""
        return Disk(self.path, self.folder / f"{self.project}-{self.name}.disk")

    def start(self) -> None:
        """Begin, or go on from what there is."""
        self.child = forked(_command, tuple(self.words), self.log, self.disk)

    def kill(self) -> None:
        """SIGKILL to the run and all that it has started."""
        assert self.child is not None
        with contextlib.suppress(ProcessLookupError):  # not yet the leader of its group
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.kill()
        self.child.join()

    @property
    def lives(self) -> bool:
        """Whether its process runs."""
        return self.child is not None and self.child.is_alive()

    def ends(self) -> int:
        """Wait; the exit code."""
        assert self.child is not None
        self.child.join()
        assert self.child.exitcode is not None
        return self.child.exitcode

    @property
    def position(self) -> tuple[str, int]:
        """Stage and step of the last row that it has logged."""
        try:
            with (self.path / "metrics.csv").open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 500))
                stage, step = file.read().decode().split("\n")[-2].split(",")[:2]
            return stage, int(step)
        except (OSError, IndexError, ValueError):
            return "", 0


def _command(words: tuple[str, ...], log: Path, disk: Disk) -> None:
    os.setsid()
    os.fsync = disk.fsync
    print_to(log, log, "a")
    sys.exit(cli.main(words))


def whole(project: str, folder: Path) -> tuple[dict[str, object], float, float]:
    """Result of a run that nobody disturbs, its CPU seconds when its settings are written, and in
    all.
    """
    run = Run(project, folder, "whole")
    run.start()
    begun = run.works_until(lambda _: run.is_begun)
    spent = run.works_until(lambda _: False)
    assert run.ends() == 0, (folder / f"{project}-whole.log").read_text()[-2000:]
    return run.result(), begun, spent


def killed_once(
    project: str, folder: Path, number: int, begun: float, spent: float
) -> tuple[dict[str, object], str]:
    """Result of a run that is killed once, then goes on to its end, and how far it was by then.

    Args:
        project: slug.
        folder: of all runs.
        number: of the kill. One of four comes at any time of the run's life, the others, since a
            smoke run mostly imports, at any time after its settings are written; time is CPU time,
            which a busy machine does not stretch.
        begun: CPU seconds of an undisturbed run until its settings are written.
        spent: its CPU seconds in all.
    """
    draw = random.Random(number)
    after = draw.uniform(0.0, spent if number % 4 == 0 else spent - begun)
    run = Run(project, folder, f"k{number}")
    while not run.works_for(after, from_settings=number % 4 != 0):
        # it took less time than the undisturbed one and has ended: another, killed earlier
        run, after = Run(project, folder, f"{run.name}x"), 0.8 * after
    run.kill()
    where = run.reached()
    run.start()
    assert run.ends() == 0, (folder / f"{project}-{run.name}.log").read_text()[-2000:]
    return run.result(), where
