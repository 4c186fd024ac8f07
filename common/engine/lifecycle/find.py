"""Runs by name: ``latest``, a run id, or a folder; the finished runs of a project.

``latest`` is one of the runs that somebody started: not a baseline, and no run of a comparison or a
sweep, which resume by themselves and may be of an arm that the method is compared with.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from common.config import ExperimentConfig, UserError, nearest
from common.engine.lifecycle.run import Run, intact, order_of, read_meta
from common.engine.workspace import read_json, run_folder

Place = tuple[int, str]  # number in the order of runs; time, for those without one
MOST = 8  # runs that a message lists
OWNED = ("compare-", "sweep-")  # how the names of runs start that a comparison or a sweep started


def find_finished(cfg: ExperimentConfig, project: str, config: str, which: str) -> Run:
    """A trained run; ``latest`` is the one that finished last.

    Raises:
        UserError: none of that name.
    """
    base = run_folder(cfg, project, config)
    if which != "latest":
        return _named(base, project, config, which)
    hint = f"make train PROJECT={project} CONFIG={config}"
    return _latest(base, project, config, _end, "no finished run", hint)


def find_unfinished(cfg: ExperimentConfig, project: str, config: str, which: str) -> Run:
    """A run to resume; ``latest`` is the last one that was started and is not finished.

    A run that made no step counts as not started; it can be named by its id.

    Raises:
        UserError: none of that name.
    """
    base = run_folder(cfg, project, config)
    if which != "latest":
        run = _named(base, project, config, which)
        if "baseline" in run.meta:
            raise UserError(f"{run.path.name} is a baseline: there is nothing to train in it")
        return run
    hint = "give one of them by resume=<run id>"
    return _latest(base, project, config, _last_start, "nothing to resume", hint)


def _end(run: Run) -> Place | None:
    """When a run finished; None while it has not."""
    meta = run.meta
    return (order_of(meta, "finished"), meta["finished"]) if "finished" in meta else None


def _last_start(run: Run) -> Place | None:
    """When a run was started or resumed last; None for one that has nothing to resume."""
    if run.state == "finished" or not run.has_steps:
        return None
    return _start(run.meta)


def _start(meta: Mapping[str, Any]) -> Place:
    time = meta["resumed"][-1]["time"] if meta.get("resumed") else meta["started"]
    return order_of(meta, "started"), time


def _named(base: Path, project: str, config: str, which: str) -> Run:
    for path in (base / which, Path(which)):
        if (path / "meta.json").is_file():
            return Run(path, project, config)
    names = [run.path.name for run in _runs(base, project, config)]
    raise UserError(f"no run '{which}' of {project}/{config} under {base}{nearest(which, names)}")


def _latest(
    base: Path,
    project: str,
    config: str,
    when: Callable[[Run], Place | None],
    missing: str,
    hint: str,
) -> Run:
    """The run of the largest `when` among those that have one."""
    runs = _runs(base, project, config)
    if not runs:
        raise UserError(
            f"no run of {project}/{config} under {base} yet: "
            f"make train PROJECT={project} CONFIG={config}"
        )
    typed = (r for r in runs if "baseline" not in r.meta and not r.path.name.startswith(OWNED))
    times = {run: time for run in typed if (time := when(run)) is not None}
    if not times:
        raise UserError(
            f"{missing} of {project}/{config} under {base}, which holds {_listed(runs)}: {hint}"
        )
    return max(times, key=lambda run: times[run])


def _runs(base: Path, project: str, config: str) -> list[Run]:
    folders = intact(path.parent for path in sorted(base.glob("*/meta.json")))
    return [Run(folder, project, config) for folder in folders]


def _listed(runs: Sequence[Run]) -> str:
    newest = sorted(runs, key=lambda run: _start(run.meta))[-MOST:]
    words = [
        f"{run.path.name} ({run.state}{'' if run.has_steps else ' before its first step'})"
        for run in newest
    ]
    return ", ".join([*words, "..."] if len(runs) > MOST else words)


def finished_runs(names: Sequence[str], runs_dir: str | Path, project: str) -> list[Path]:
    """The folders with these names, or all finished runs of a project.

    Args:
        names: folders; none: all trained ones, not baselines and evaluations of other weights.
        runs_dir: such as ``runs``.
        project: slug.
    """
    if names:
        return [Path(name) for name in names]
    folders = (path.parent for path in (Path(runs_dir) / project).glob("*/*/metrics.json"))
    return sorted(folder for folder in folders if is_trained(folder))


def is_trained(folder: Path) -> bool:
    """Whether a folder with metrics is that of a trained run.

    Evaluations leave no settings behind; a baseline has those of an arm, whose place it would take.
    """
    if not (folder / "config.yaml").is_file():
        return False
    if not (folder / "meta.json").is_file():
        return True
    return bool(intact([folder])) and "baseline" not in read_meta(folder)


def run_settings(run: Path) -> Mapping[str, Any]:
    """The resolved config of a run.

    Raises:
        UserError: not a run.
    """
    try:
        settings: Mapping[str, Any] = yaml.safe_load((run / "config.yaml").read_text("utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"{run} is not a run: {error}") from error
    return settings


def run_metrics(run: Path) -> Mapping[str, float]:
    """The metrics of a finished run.

    Raises:
        UserError: it is not finished.
    """
    try:
        metrics: Mapping[str, float] = read_json(run / "metrics.json")
    except OSError as error:
        raise UserError(f"{run} is not a finished run: {error}") from error
    return metrics


def finished_stages(folder: Path) -> list[Path]:
    """Folders of a run's finished stages, in the order of their numbers.

    Args:
        folder: ``checkpoints`` of the run.
    """
    marks = folder.glob("*/finished.json")
    return [path.parent for path in sorted(marks, key=lambda path: read_json(path)["stage"])]
