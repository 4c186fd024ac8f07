"""The runs under a folder: filtered lists, differences of two, removal of unneeded ones."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args

from common.config import UserError, nearest
from common.engine.comparison.spec import read_comparison
from common.engine.lifecycle.find import OWNED
from common.engine.lifecycle.lock import held
from common.engine.lifecycle.run import Run, State, intact, order_of, read_meta
from common.engine.lifecycle.settings import leaves
from common.engine.workspace import read_json

SIGNS: dict[str, Callable[[Any, Any], bool]] = {
    "!=": lambda a, b: a != b,
    ">=": lambda a, b: a >= b,
    "<=": lambda a, b: a <= b,
    "=": lambda a, b: a == b,
    ">": lambda a, b: a > b,
    "<": lambda a, b: a < b,
}


@dataclass(frozen=True)
class Entry:
    """A run as the list shows it.

    Attributes:
        project: slug.
        config: name.
        run: id.
        state: created (no step yet), running, finished, failed, or stopped.
        begun: whether it has made a step.
        seed: of the run.
        steps: planned optimiser steps.
        seconds: wall time so far; None before the first checkpoint.
        started: local time, ISO 8601.
        metric: name of the primary metric; empty without a comparison or a result.
        value: of it; None while there is none.
        arm: of a comparison's run; else empty.
        path: its folder.
    """

    project: str
    config: str
    run: str
    state: str
    begun: bool
    seed: int | None
    steps: int | None
    seconds: float | None
    started: str
    metric: str
    value: float | None
    arm: str
    path: Path


def entries(runs_dir: Path, project: str | None = None) -> list[Entry]:
    """All runs under a folder, the latest last.

    Args:
        runs_dir: such as ``runs``.
        project: slug; None for all.
    """
    paths = sorted(runs_dir.glob(f"{project or '*'}/*/*/meta.json"))
    folders = intact(path.parent for path in paths)
    primary: dict[str, str] = {}
    return sorted((_entry(folder, primary) for folder in folders), key=lambda entry: entry.started)


def select(runs: Sequence[Entry], where: str) -> list[Entry]:
    """Entries that fulfil all conditions.

    Args:
        runs: all of them.
        where: conditions with commas between, such as ``state=failed, seed>=3``.

    Raises:
        UserError: a condition that names no field or has no comparison.
    """
    kept = list(runs)
    for condition in filter(None, (part.strip() for part in where.split(","))):
        sign = next((s for s in SIGNS if s in condition), None)
        if sign is None:
            raise UserError(f"WHERE={condition}: write field=value, with = != < <= > or >=")
        name, operand = (side.strip() for side in condition.split(sign, 1))
        names = [f.name for f in fields(Entry) if f.name != "path"]
        if name not in names:
            raise UserError(f"WHERE={condition}: no field '{name}'{nearest(name, names)}")
        if sign not in ("=", "!=") and _is_text(name):
            raise UserError(f"WHERE={condition}: {name} is text; compare it by = or !=")
        if name == "state" and operand not in get_args(State):
            raise UserError(
                f"WHERE={condition}: no state '{operand}'{nearest(operand, get_args(State))}"
            )
        kept = [e for e in kept if _fulfils(getattr(e, name), SIGNS[sign], operand)]
    return kept


def differences(left: Path, right: Path) -> list[tuple[str, Any, Any]]:
    """Settings and final metrics in which two runs differ: name, left, right; None where absent.

    Raises:
        UserError: one of the folders is not a run.
    """
    sides = [_described(path) for path in (left, right)]
    names = list(dict.fromkeys([*sides[0], *sides[1]]))
    return [
        (n, sides[0].get(n), sides[1].get(n)) for n in names if sides[0].get(n) != sides[1].get(n)
    ]


def removable(runs: Sequence[Entry]) -> list[tuple[Entry, str]]:
    """Runs that `make prune` offers to remove, and why.

    Ones that ended before their first step, and finished or failed ones that a later finished run
    of the same settings, seed included, has superseded: of a comparison or sweep the same arm,
    baseline or trial. What else failed after its first step can be resumed, and stays.
    """
    reasons = {
        e.path: "made no step" for e in runs if e.state in ("failed", "stopped") and not e.begun
    }
    ended = [e for e in runs if e.state == "finished" or (e.state == "failed" and e.begun)]
    earlier: dict[Any, list[Entry]] = {}
    for entry in sorted(ended, key=_order):
        same = earlier.setdefault(_what_ran(entry), [])
        if entry.state == "finished":
            reasons |= dict.fromkeys((e.path for e in same), "superseded")
            same.clear()
        same.append(entry)
    return [(entry, reasons[entry.path]) for entry in runs if entry.path in reasons]


def _order(entry: Entry) -> tuple[int, str]:
    """Its place among the runs of its config."""
    return order_of(read_meta(entry.path), "started"), entry.started


def _what_ran(entry: Entry) -> tuple[Any, ...]:
    """What two runs must share for the later one to supersede the earlier one."""
    meta = read_meta(entry.path)
    settings = meta.get("resolved")
    if settings is None:  # of an earlier version: what was typed
        settings = [
            w for w in meta.get("overrides", []) if not w.startswith(("run_id=", "resume="))
        ]
    else:  # names, places and tracking of runs change nothing in them
        aside = ("tracking", "run_id", "resume", "runs_dir")
        settings = {name: value for name, value in settings.items() if name not in aside}
    # arms may share settings with each other and with a baseline; the last part of their names is
    # the code
    arm = entry.run.rpartition("-")[0] if entry.run.startswith(OWNED) else ""
    text = json.dumps(settings, sort_keys=True)
    return entry.project, entry.config, entry.seed, meta.get("baseline"), arm, text


def find(runs_dir: Path, which: str) -> Path:
    """A run's folder by its path or by its id.

    Raises:
        UserError: none of that name, or several.
    """
    if (Path(which) / "meta.json").is_file():
        return Path(which)
    matches = [
        path.parent for path in runs_dir.glob("*/*/*/meta.json") if path.parent.name == which
    ]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise UserError(f"several runs are named '{which}': {', '.join(map(str, matches))}")
    names = [path.parent.name for path in runs_dir.glob("*/*/*/meta.json")]
    raise UserError(f"no run '{which}' under {runs_dir}{nearest(which, names)}")


def remove(chosen: Sequence[Entry]) -> None:
    """Delete run folders.

    Raises:
        UserError: one of them belongs to a process; none is removed then.
    """
    for entry in chosen:
        if held(entry.path):
            raise UserError(f"{entry.path} is being written; nothing was removed")
    for entry in chosen:
        shutil.rmtree(entry.path)


def _entry(path: Path, primary: dict[str, str]) -> Entry:
    project, config = path.parts[-3:-1]
    run = Run(path, project, config)
    meta = run.meta
    name = primary.setdefault(project, _metric(project))
    metrics = read_json(path / "metrics.json") if (path / "metrics.json").exists() else {}
    tags = ((meta.get("resolved") or {}).get("tracking") or {}).get("tags") or []
    return Entry(
        project,
        config,
        path.name,
        run.state,
        run.has_steps,
        meta.get("seed"),
        meta.get("num_steps"),
        meta.get("wall_seconds"),
        meta.get("started", ""),
        name if name in metrics else "",
        metrics.get(name),
        next((t[4:] for t in tags if t.startswith("arm:")), ""),
        path,
    )


def _metric(project: str) -> str:
    try:
        return read_comparison(project).metric
    except UserError:  # a project that is gone, or without a comparison
        return ""


def _is_text(name: str) -> bool:
    """Whether a field has no order; times have one."""
    (kind,) = (f.type for f in fields(Entry) if f.name == name)
    return kind in (str, "str") and name != "started"


def _fulfils(value: Any, compare: Callable[[Any, Any], bool], operand: str) -> bool:
    if value is None:
        return False
    if isinstance(value, str):
        return compare(value, operand)
    try:
        return compare(float(value), float(operand))
    except ValueError:
        raise UserError(f"'{operand}' is not a number") from None


def _described(path: Path) -> dict[str, Any]:
    if not (path / "meta.json").is_file():
        raise UserError(f"{path} is not a run folder: it has no meta.json")
    meta = read_meta(path)
    described = {"commit": meta.get("commit"), **leaves(meta.get("resolved") or {})}
    metrics = path / "metrics.json"
    return described | (leaves({"metrics": read_json(metrics)}) if metrics.exists() else {})
