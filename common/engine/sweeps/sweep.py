"""`make sweep`: a run for each point of the grid, in a process of its own; then tables and plots."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.config import UserError, load, to_dict
from common.engine.comparison.processes import COMMAND, RunProcess, start_process
from common.engine.comparison.runs import metric_of, refuse_ignored
from common.engine.comparison.schedule import run_each
from common.engine.lifecycle.run import read_meta
from common.engine.progress import track
from common.engine.provenance import code_identity
from common.engine.sweeps.results import Point, write_results
from common.engine.sweeps.schema import Sweep, arms_of, read_sweep, words_of
from common.engine.workspace import run_folder
from common.registry import config_class

MOST_FAILURES = 3  # in a row, after which a sweep ends


@dataclass(frozen=True)
class Trial:
    """A point of an arm's grid, and the run that measures it.

    Attributes:
        arm: name, empty if there is only one.
        settings: the point.
        command_words: of the run's command, without its name.
        path: folder of the run; its name follows from all settings and the code.
    """

    arm: str
    settings: Mapping[str, Any]
    command_words: Sequence[str]
    path: Path

    @property
    def done(self) -> bool:
        """Whether the run has its metrics."""
        return (self.path / "metrics.json").exists()

    def command(self) -> list[str]:
        """Words of its process; what was interrupted goes on."""
        resumed = [f"resume={self.path.name}"] if (self.path / "meta.json").exists() else []
        return [*COMMAND, "train", *self.command_words, f"run_id={self.path.name}", *resumed]

    def start(self, threads: int) -> RunProcess | None:
        """Start its process; None while another command's process works on it."""
        return start_process(self.path, self.command(), threads)


def trials_of(
    project: str,
    sweep: Sweep,
    arm: str,
    overrides: Mapping[str, Any],
    words: Sequence[str],
) -> list[Trial]:
    """The trials of one arm, in the order of the grid.

    With other code, another config or other overrides they are new runs.

    Args:
        project: slug.
        sweep: of `Sweep.of` this arm.
        arm: name.
        overrides: of the arm.
        words: overrides from the command line.

    Raises:
        UserError: a word that the sweep or the arm would replace.
    """
    taken = [*sweep.shared, *overrides, *sweep.space, "seed"]
    refuse_ignored(words, taken, "sweep.yaml, or the arm, sets it for every trial")
    every = [*words, *words_of(sweep.shared), *words_of(overrides), f"seed={sweep.seed}"]
    cfg = load(config_class(project), project, sweep.base, every)
    runs = run_folder(cfg, project, sweep.base)
    settings = [sorted(every), to_dict(cfg), code_identity()]
    trials = []
    for point in sweep.grid():
        text = json.dumps([settings, point], sort_keys=True, default=str)
        key = hashlib.sha256(text.encode()).hexdigest()[:8]
        name = "-".join(["sweep", *([arm] if arm else []), key])
        all_words = [project, sweep.base, *every, *words_of(point)]
        trials.append(Trial(arm, point, all_words, _not_failed(runs / name)))
    return trials


def _not_failed(path: Path) -> Path:
    """The first of the names ``<path>``, ``<path>-1``, ... whose run has not failed."""
    folder, tries = path, 0
    while (folder / "meta.json").is_file() and read_meta(folder).get("state") == "failed":
        tries += 1
        folder = path.with_name(f"{path.name}-{tries}")
    return folder


def run_sweep(
    project: str,
    words: Sequence[str],
    arms: Sequence[str],
    jobs: int,
    say: Callable[[str], object],
) -> tuple[Path, str]:
    """Run what is missing of a grid.

    Args:
        project: slug.
        words: overrides of every trial.
        arms: names in compare.yaml; none: those of sweep.yaml.
        jobs: trials at the same time; the cores are divided between them.
        say: is given a line for every trial that ends.

    Returns:
        The sweep's folder, ``<runs>/<project>/<base>/sweep``; the Markdown that was written there.

    Raises:
        UserError: three trials in a row have failed.
    """
    sweep = read_sweep(project, words)
    if not any(word.startswith("tracking.wandb=") for word in words):
        words = [*words, "tracking.wandb=disabled"]
    trials = [
        trial
        for arm, overrides in arms_of(project, sweep, arms).items()
        for trial in trials_of(project, sweep.of(arm), arm, overrides, words)
    ]
    run_trials(trials, sweep.metric, jobs, f"sweep of {project}", say)
    folder = trials[0].path.parent / "sweep"
    return folder, write_results(project, sweep, points_of(trials, sweep.metric), folder)


def run_trials(
    trials: Sequence[Trial], metric: str, jobs: int, title: str, say: Callable[[str], object]
) -> None:
    """Run the trials that have no metrics yet.

    Raises:
        UserError: three in a row have failed.
    """
    missing = [trial for trial in trials if not trial.done]
    failures: list[str] = []
    with closing(run_each(missing, jobs)) as ended:
        for trial, failure in track(ended, title, len(missing)):
            name, settings = trial.path.name, " ".join(words_of(trial.settings))
            try:
                if failure is not None:
                    raise UserError(failure)
                line = f"{name}: {metric} {metric_of(trial.path, metric):.4f} with {settings}"
                failures.clear()
            except UserError as error:
                line = f"{name} failed with {settings}: {error}"
                failures.append(line)
            if len(failures) == MOST_FAILURES:
                raise UserError("three trials in a row failed:\n" + "\n".join(failures))
            say(line)


def points_of(trials: Sequence[Trial], metric: str) -> dict[str, list[Point]]:
    """What was measured, by arm; without trials that failed or whose metric is undefined."""
    points: dict[str, list[Point]] = {trial.arm: [] for trial in trials}
    for trial in trials:
        if trial.done:
            try:
                points[trial.arm].append(Point(trial.settings, metric_of(trial.path, metric)))
            except UserError:  # it was reported when the trial ended
                continue
    return points
