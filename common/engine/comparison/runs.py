"""One arm with one seed, or one baseline: where it runs, how it is started, what it left."""

import fcntl
import hashlib
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from common.config import ROOT, ExperimentConfig, UserError, load, nearest, to_yaml
from common.engine import workspace as ws
from common.engine.comparison.dependencies import code_hash, file_hashes, forget
from common.engine.comparison.schema import Comparison
from common.engine.lifecycle.find import finished_stages
from common.evaluation.resampling import Scores
from common.registry import config_class

COMMAND = (sys.executable, "-m", "common.cli")
BASELINES = "baselines"  # module of a project whose functions `baselines:` names
GRACE = 10.0  # seconds between asking a process to end and killing it


class PlannedRun:
    """An arm with a seed, or a baseline, of a comparison.

    Args:
        project: slug.
        spec: the comparison.
        name: of an arm or baseline.
        seed: the run's.
        overrides: of every run, from the command line.

    Raises:
        UserError: the config with the arm's overrides doesn't load, or an override is of a setting
            that compare.yaml sets.
    """

    root = ROOT  # folder of its code

    def __init__(
        self, project: str, spec: Comparison, name: str, seed: int, overrides: Sequence[str] = ()
    ) -> None:
        self.project, self.base, self.arm, self.seed = project, spec.base, name, seed
        self.spec, self.common_overrides = spec, tuple(overrides)
        self.is_baseline = name in spec.baselines
        own = spec.shared if self.is_baseline else spec.arms[name]
        refuse_beaten(overrides, [*own, "seed"], f"compare.yaml sets it for '{name}'")
        words = [f"{key}={json.dumps(value)}" for key, value in own.items()]
        self.overrides = [*overrides, *words, f"seed={seed}"]
        cfg = self.config()
        self.config_hash = self._config_hash(cfg)
        self.folder = ws.run_folder(cfg, project, spec.base)
        self.alone = cfg.trainer.devices == 1 and cfg.trainer.num_nodes == 1
        self.quiet = cfg.tracking.wandb == "auto"
        self.tags = [*cfg.tracking.tags, f"arm:{name}"]
        self.code = self._code()
        self.run_id = f"{self.stem}-{self.code}"
        self.path = self.folder / self.run_id

    def config(self) -> ExperimentConfig:
        """Its config."""
        return load(config_class(self.project), self.project, self.base, self.overrides)

    def _config_hash(self, cfg: ExperimentConfig | None = None) -> str:
        return hashlib.sha256(to_yaml(cfg or self.config()).encode()).hexdigest()[:8]

    def _code(self) -> str:
        return code_hash(self.project, *([BASELINES] if self.is_baseline else []))

    @property
    def stem(self) -> str:
        """Run id without the hash of the code."""
        what = f"baseline-{self.arm}" if self.is_baseline else self.arm
        return f"compare-{what}-seed{self.seed}-{self.config_hash}"

    @property
    def done(self) -> bool:
        """Whether it has its metrics."""
        return (self.path / "metrics.json").exists()

    def with_seed(self, seed: int) -> "PlannedRun":
        """The same arm with another seed."""
        return PlannedRun(self.project, self.spec, self.arm, seed, self.common_overrides)

    def command(self) -> list[str]:
        """Words of its process."""
        verb = "eval" if self.is_baseline else "train"
        words = [*COMMAND, verb, self.project, self.base, *self.overrides, f"run_id={self.run_id}"]
        # `make runs WHERE=arm=...` reads the tags, whether or not the run is tracked
        words.append(f"tracking.tags={json.dumps(self.tags)}")
        if self.quiet:
            words.append("tracking.wandb=disabled")
        if self.is_baseline:
            return [*words, "--baseline", self.arm]
        if (self.path / "meta.json").exists():
            words.append(f"resume={self.run_id}")
        return words

    def start(self, threads: int, lowest_priority: bool = False) -> "Started | None":
        """Start its process with that many threads; None while another process works on it.

        Args:
            threads: of the process.
            lowest_priority: of the process.

        Raises:
            UserError: code or config is no longer that which its folder is named by.
        """
        if is_held(
            self.path
        ):  # asked again and again; code and config are looked at once it is free
            return None
        self.check_unchanged()
        process = start_process(self.path, self.command(), threads, self.root)
        if process is None:
            return None
        if lowest_priority:
            os.setpriority(os.PRIO_PROCESS, process.pid, 19)
        return Started(self, process)

    def check_unchanged(self) -> None:
        """Refuse code or a config that is no longer that which its folder is named by."""
        forget()
        if self._code() != self.code:
            raise UserError("the code has changed since the comparison began; start it again")
        if self._config_hash() != self.config_hash:
            raise UserError("the config has changed since the comparison began; start it again")

    def metrics(self) -> dict[str, float]:
        """Its metrics.json."""
        return ws.read_json(self.path / "metrics.json")  # type: ignore[no-any-return]

    def value(self, metric: str) -> float:
        """One of its metrics.

        Raises:
            UserError: it has no such metric.
        """
        return metric_of(self.path, metric)

    def meta(self) -> dict[str, Any]:
        """Its meta.json."""
        return ws.read_json(self.path / "meta.json")  # type: ignore[no-any-return]

    def stage_steps(self) -> dict[str, int]:
        """Steps of its finished stages, in the order in which they ended.

        No stage of another run's weights.
        """
        ended = finished_stages(self.path / "checkpoints")
        found = {stage.name: sorted(stage.glob("step-*.ckpt")) for stage in ended}
        return {s: int(p[-1].stem.removeprefix("step-")) for s, p in found.items() if p}

    def items(self, metric: str) -> list[Any] | None:
        """Items per test set: values, or predictions with gold values; None if it saved none."""
        path = self.path / "items" / f"{metric}.json"
        if not path.exists():
            return None
        found = ws.read_json(path)
        if not isinstance(found, dict) or "mean_of" not in found:
            return [found]
        sets: list[Any] = []
        for name in found["mean_of"]:
            own = self.items(name)
            if own is None:
                return None
            sets += own
        return sets


class RunProcess:
    """The process of a run, which holds the lock of its log."""

    def __init__(self, popen: "subprocess.Popen[bytes]", log: IO[bytes]) -> None:
        self.popen, self.log, self.pid = popen, log, popen.pid

    def ended(self) -> int | None:
        """Its exit code; None while it runs."""
        code = self.popen.poll()
        if code is not None:
            self.log.close()
        return code

    def ask_to_end(self) -> None:
        """Ask it and the processes that it started to end."""
        if self.popen.poll() is None:
            os.killpg(self.popen.pid, signal.SIGTERM)

    def end(self) -> None:
        """Wait until it has ended, and kill what doesn't."""
        try:
            self.popen.wait(GRACE)
        except subprocess.TimeoutExpired:
            os.killpg(self.popen.pid, signal.SIGKILL)
            self.popen.wait()
        self.log.close()


def start_process(
    folder: Path,
    command: Sequence[str],
    threads: int,
    root: Path = ROOT,
) -> RunProcess | None:
    """Start the process of a run, its output in the folder's ``log.txt``.

    Args:
        folder: of the run, made if missing.
        command: words.
        threads: of the process.
        root: folder of the code; where it is another than this, the process works there.

    Returns:
        None while another process works in the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    environment = process_environment(threads, root)
    cwd = None if root == ROOT else root
    log = (folder / "log.txt").open("ab")
    try:  # the process inherits the lock with its output, so it outlives whoever started it
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        log.close()
        return None
    except OSError:  # a file system without flock, where two commands are not told from each other
        pass
    popen = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env=environment,
        cwd=cwd,
    )
    return RunProcess(popen, log)


def is_held(folder: Path) -> bool:
    """Whether the process of a run that `start_process` has started is at work in a folder."""
    try:
        with (folder / "log.txt").open("rb") as log:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # not begun, or a file system without flock
        return False
    return False


def process_environment(threads: int, root: Path = ROOT) -> dict[str, str]:
    """Environment of a process with that many threads, which finds the code in a folder.

    Relative folders, such as runs/, are those of whoever starts it, so it finds its code by the
    path.
    """
    path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {
        "OMP_WAIT_POLICY": "passive",
        **os.environ,
        "PYTHONPATH": path,
        "OMP_NUM_THREADS": str(threads),
    }


class Started:
    """A run whose process has been started."""

    def __init__(self, run: PlannedRun, process: RunProcess) -> None:
        self.run, self.process = run, process

    def finished(self) -> bool:
        """Whether it has ended well.

        Raises:
            UserError: it has failed; the message has the last line of its log.
        """
        code = self.process.ended()
        if code is None:
            return False
        if code or not self.run.done:
            raise UserError(f"{self.run.run_id} failed: {why_failed(self.run.path)}")
        return True


def baseline_files(project: str, spec: Comparison) -> dict[str, str]:
    """Files, with their hashes, that the baselines of a comparison reach beyond those of its runs."""
    if not spec.baselines:
        return {}
    runs = file_hashes(project)
    return {f: h for f, h in file_hashes(project, BASELINES).items() if runs.get(f) != h}


def refuse_beaten(overrides: Sequence[str], taken: Iterable[str], why: str) -> None:
    """Refuse overrides that a later word would beat without telling.

    Args:
        overrides: from the command line.
        taken: settings that are set after them.
        why: ends the message.

    Raises:
        UserError: names the first of them.
    """
    names = set(taken)
    for word in overrides:
        if word.split("=", 1)[0] in names:
            raise UserError(f"'{word}' would change nothing: {why}")


def code_of(plan: Sequence[PlannedRun]) -> dict[str, Any]:
    """Commit of the first of finished runs, and whether any of them had local changes."""
    found = [run.meta() for run in plan]
    return {"commit": found[0]["commit"], "dirty": any(meta["dirty"] for meta in found)}


def metric_of(folder: Path, metric: str) -> float:
    """One of a run's metrics.

    Raises:
        UserError: it has no such metric, or it is undefined there.
    """
    metrics: dict[str, float | None] = ws.read_json(folder / "metrics.json")
    if metric not in metrics:
        raise UserError(f"{folder.name}: no metric '{metric}'{nearest(metric, metrics)}")
    value = metrics[metric]
    if value is None:  # not a number, or infinite
        raise UserError(f"{folder.name}: '{metric}' is undefined; see {folder / 'log.txt'}")
    return value


def why_failed(folder: Path) -> str:
    """The last line of a run's log, and where it lies."""
    return f"{last_line(folder / 'log.txt')}; see {folder / 'log.txt'}"


def last_line(path: Path) -> str:
    """Last line of a log that isn't empty."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "it wrote nothing")


def scores(runs: Sequence[PlannedRun], metric: str) -> list[Scores] | None:
    """Scores of an arm's runs on each test set; None where a run saved no items."""
    saved = []
    for run in runs:
        if (own := run.items(metric)) is None:
            return None
        rows = (row for one in own for row in (one.values() if isinstance(one, dict) else [one]))
        if any(v is None or not math.isfinite(v) for row in rows for v in row):
            raise UserError(
                f"{run.run_id}: an item of '{metric}' is undefined: {run.path / 'items'}"
            )
        saved.append(own)
    found = []
    for sets in zip(*saved, strict=True):
        if all(isinstance(x, dict) for x in sets):
            if any(x["gold"] != sets[0]["gold"] for x in sets):
                return None
            values = [x["predicted"] for x in sets]
            gold = np.asarray(sets[0]["gold"], dtype=np.float64)
        else:
            values, gold = list(sets), None
        if len({len(row) for row in values}) != 1:
            return None
        found.append(Scores(np.asarray(values, dtype=np.float64), gold))
    return found
