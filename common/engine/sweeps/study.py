"""Optuna's studies in one SQLite file: they propose settings and record what the runs gave.

The sweep only starts processes and reads what they write; training itself knows nothing of it.
Several commands may work on the same sweep: a trial belongs to whoever holds the lock of its log.
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from common.config import UserError
from common.engine.comparison.processes import POLL, told_to_end, why_failed
from common.engine.comparison.runs import metric_of, refuse_ignored
from common.engine.sweeps.schema import Prune, Sweep, words_of
from common.engine.sweeps.trials import TrialRun
from common.engine.tracking import read_metrics
from common.engine.workspace import code_hash

log = logging.getLogger(__name__)
STORAGE, LOCK = "study.db", "study.lock"
COUNTED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)


class ArmStudy:
    """The study of one arm.

    Args:
        project: slug.
        sweep: what is varied.
        arm: name, empty if there is only one.
        overrides: of the arm.
        words: overrides from the command line.
        folder: of the sweep; holds the database, one for all arms.
        runs: folder of the base config's runs.
        config: the base config with all overrides.

    With other code, another config, other overrides, space or metric a new study starts; a point
    of a grid whose run is finished is taken over, so that a grid can be widened.
    """

    def __init__(
        self,
        project: str,
        sweep: Sweep,
        arm: str,
        overrides: Mapping[str, Any],
        words: Sequence[str],
        folder: Path,
        runs: Path,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self.project, self.sweep, self.arm, self.runs = project, sweep, arm, runs
        taken = [*sweep.shared, *overrides, *sweep.space, "seed"]
        refuse_ignored(words, taken, "sweep.yaml, or the arm, sets it for every trial")
        self.words = [*words, *words_of(sweep.shared), *words_of(overrides), f"seed={sweep.seed}"]
        self.settings = [sorted(self.words), config, code_hash(project)]
        space = {key: asdict(axis) for key, axis in sweep.space.items()}
        self.key = digest([self.settings, space, sweep.metric, sweep.direction])
        self.target = len(sweep.grid()) if sweep.sampler == "grid" else sweep.trials
        with _alone(folder):  # of two commands that begin at once, one makes tables and points
            self.study = open_study(folder, f"{arm or sweep.base}-{self.key}", sweep)
            self._enqueue_grid()

    def _enqueue_grid(self) -> None:
        """Ask for the points of a grid that are not waiting, running or finished."""
        if self.sweep.sampler != "grid":
            return
        states = (TrialState.WAITING, *COUNTED)
        points = [_point(t) for t in self.study.get_trials(deepcopy=False, states=states)]
        for point in self.sweep.grid():  # a failed point is tried again
            if point not in points:
                self.study.enqueue_trial(point)

    def interrupted(self) -> list[optuna.trial.Trial]:
        """Trials that were begun and have no result."""
        running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return [optuna.trial.Trial(self.study, t._trial_id) for t in running]

    def ask(self) -> optuna.trial.Trial | None:
        """The next trial with its settings; None if there are enough."""
        if self.sweep.sampler == "grid":  # what has failed is tried again by the next command
            if not self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
                return None
        elif len(self.study.get_trials(deepcopy=False, states=COUNTED)) >= self.target:
            return None
        trial = self.study.ask()
        # other points than a command that began at the same time draws, or this one before it was
        # continued
        self.study.sampler = sampler(self.sweep, trial.number)
        for key, axis in self.sweep.space.items():
            if axis.values:
                trial.suggest_categorical(key, axis.values)
            elif axis.whole:
                trial.suggest_int(key, int(axis.bounds[0]), int(axis.bounds[1]), log=axis.log)
            else:
                trial.suggest_float(key, *axis.bounds, log=axis.log)
        return trial

    def run_of(self, trial: optuna.trial.Trial) -> TrialRun:
        """The run of a trial, named by its settings or its number.

        A failed one's name is never used again.
        """
        if self.sweep.sampler == "grid":
            parts = [digest([self.settings, trial.params])]
            failed = self.study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
            tries = sum(t.params == trial.params and t.number < trial.number for t in failed)
            parts += [str(tries)] if tries else []
        else:
            parts = [self.key, f"{trial.number:03d}"]
        name = "-".join(["sweep", *([self.arm] if self.arm else []), *parts])
        words = [*self.words, *words_of(trial.params)]
        return TrialRun(self.project, self.sweep.base, words, self.runs / name)


def digest(parts: Any) -> str:
    """Eight hexadecimal digits of settings."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let no other command work on the folder's database as long as this lasts."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a") as file:
        with contextlib.suppress(OSError):  # a file system without flock
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _point(trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
    """Settings of a trial, or those that it is to have."""
    return trial.params or dict(trial.system_attrs.get("fixed_params", {}))


def open_study(folder: Path, name: str, sweep: Sweep) -> optuna.Study:
    """The study of a name, new or continued."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    prune = sweep.prune
    return optuna.create_study(
        storage=f"sqlite:///{(folder / STORAGE).resolve()}",
        study_name=name,
        direction="maximize" if sweep.direction == "max" else "minimize",
        pruner=optuna.pruners.MedianPruner(prune.trials, prune.steps) if prune else None,
        load_if_exists=True,
        sampler=sampler(sweep, 0),
    )


def sampler(sweep: Sweep, number: int) -> optuna.samplers.BaseSampler:
    """What draws the settings of a trial; the points of a grid are enqueued."""
    kinds = optuna.samplers
    return (kinds.TPESampler if sweep.sampler == "tpe" else kinds.RandomSampler)(
        seed=sweep.seed + number
    )


def work(studies: Sequence[ArmStudy], jobs: int, threads: int) -> Iterator[str]:
    """Run all trials of all arms, as many at a time as asked for; yields a line for each that ends.

    Raises:
        UserError: three trials in a row have failed.
        SystemExit: this process was told to end; its trials are ended and continue next time.
    """
    running: list[tuple[ArmStudy, optuna.trial.Trial, TrialRun]] = []
    waiting = [(study, trial) for study in studies for trial in study.interrupted()]
    failures: list[str] = []
    with told_to_end() as told:
        try:
            while True:
                while len(running) < jobs and (chosen := _next(waiting, studies)):
                    run = chosen[0].run_of(chosen[1])
                    if run.done or run.start(threads):
                        running.append((*chosen, run))
                if not running:
                    return
                time.sleep(POLL)
                if told.is_set():
                    raise SystemExit(128 + 15)
                for entry in list(running):
                    line = _look(*entry)
                    if line is None:
                        continue
                    running.remove(entry)
                    failures = [*failures, line] if "failed" in line else []
                    if len(failures) == 3:
                        raise UserError("three trials in a row failed:\n" + "\n".join(failures))
                    yield line
        finally:
            for _, _, run in running:
                run.stop()


def _next(
    waiting: list[tuple[ArmStudy, optuna.trial.Trial]], studies: Sequence[ArmStudy]
) -> tuple[ArmStudy, optuna.trial.Trial] | None:
    """What was interrupted, else a new trial of the arm that has the fewest."""
    if waiting:
        return waiting.pop(0)
    for study in sorted(studies, key=lambda s: len(s.study.get_trials(deepcopy=False))):
        if (trial := study.ask()) is not None:
            return study, trial
    return None


def _look(study: ArmStudy, trial: optuna.trial.Trial, run: TrialRun) -> str | None:
    """Tell the study what a run gave; None while it continues."""
    name, shown = (
        run.path.name,
        ", ".join(
            f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in trial.params.items()
        ),
    )
    ended = run.ended()  # before its curve is read, which is whole then: others are judged by it
    if study.sweep.prune:
        _report(study.sweep.prune, trial, run)
    if run.done and ended:
        try:
            value = metric_of(run.path, study.sweep.metric)
        except UserError as error:
            study.study.tell(trial, state=TrialState.FAIL)
            run.stop()
            return f"{name} failed with {shown}: {error}"
        study.study.tell(trial, value, skip_if_finished=True)  # a second sweep may have told it
        run.stop()
        return f"{name}: {study.sweep.metric} {value:.4f} with {shown}"
    if ended:
        study.study.tell(trial, state=TrialState.FAIL)
        run.stop()
        return f"{name} failed with {shown}: {why_failed(run.path)}"
    if study.sweep.prune and trial.should_prune():
        run.stop()
        study.study.tell(trial, state=TrialState.PRUNED)
        return f"{name}: ended early with {shown}"
    return None


def _report(prune: Prune, trial: optuna.trial.Trial, run: TrialRun) -> None:
    path = run.path / "metrics.csv"
    curves = read_metrics(path) if path.exists() else {}
    reported = trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values
    for name, points in curves.items():
        for step, value in points if name.endswith(prune.metric) else ():
            if step not in reported:
                trial.report(value, step)
