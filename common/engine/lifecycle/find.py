"""Runs by name: ``latest``, a run id, or a folder.

``latest`` is one of the runs that somebody started: not a baseline, and no run of a comparison or a
sweep, which go on by themselves and may be of an arm that the method is compared with.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from common.config import ExperimentConfig, UserError, nearest
from common.engine.lifecycle.run import Run
from common.engine.workspace import run_folder

MOST = 8  # runs that a message names
# begin the names of runs that a comparison, its check by an earlier code, or a sweep starts
EARLIER = "earlier-"
OWNED = ("compare-", EARLIER, "sweep-")


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
    """A run to go on with; ``latest`` is the last one that was started and is not finished.

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
    hint = "name one of them by resume=<run id>"
    return _latest(base, project, config, _last_start, "nothing to resume", hint)


def _end(run: Run) -> str | None:
    """When a run finished; None while it has not."""
    time: str | None = run.meta.get("finished")
    return time


def _last_start(run: Run) -> str | None:
    """When a run was started or continued last; None for one that has nothing to go on with."""
    if run.state == "finished" or not run.begun:
        return None
    meta = run.meta
    time: str = meta["resumed"][-1]["time"] if meta.get("resumed") else meta["started"]
    return time


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
    when: Callable[[Run], str | None],
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
    own = (r for r in runs if "baseline" not in r.meta and not r.path.name.startswith(OWNED))
    times = {run: time for run in own if (time := when(run)) is not None}
    if not times:
        raise UserError(
            f"{missing} of {project}/{config} under {base}, which holds {_listed(runs)}: {hint}"
        )
    return max(times, key=lambda run: times[run])


def _runs(base: Path, project: str, config: str) -> list[Run]:
    return [Run(path.parent, project, config) for path in sorted(base.glob("*/meta.json"))]


def _listed(runs: Sequence[Run]) -> str:
    newest = sorted(runs, key=lambda run: run.meta["started"])[-MOST:]
    words = [
        f"{run.path.name} ({run.state}{'' if run.begun else ' before its first step'})"
        for run in newest
    ]
    return ", ".join([*words, "..."] if len(runs) > MOST else words)
