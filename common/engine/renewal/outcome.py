"""What a run came out as: its metrics, training curves and items, but for times and memory."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from common.engine.renewal.published import OF_THE_MACHINE, Difference

CURVES = "metrics.csv"
MACHINE = ",sys/"  # part of the lines that tell speed and memory
LISTED = 3  # differing lines of a curve that are named


def fingerprint(run: Path) -> str:
    """Hash of all that two equal runs share.

    Args:
        run: folder of a finished run.
    """
    whole = [_metrics(run), _curve(run / CURVES)]
    found = hashlib.sha256(json.dumps(whole, sort_keys=True).encode())
    for name, content in _items(run / "items").items():
        found.update(f"{name} {len(content)} ".encode() + content)
    return found.hexdigest()[:16]


def _metrics(run: Path) -> dict[str, Any]:
    """Metrics of a run, without those of the machine."""
    known = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    return {name: known[name] for name in known if not OF_THE_MACHINE.search(name)}


def between(
    then: Path,
    now: Path,
    name: str,
    beside: tuple[Iterable[Path], Iterable[Path]] = ((), ()),
) -> list[Difference]:
    """In what two runs differ: metrics, training curves and items, but for times and memory.

    Arms may share a stage, which the run that comes first trains. Where one of the two runs has
    none of its curve, it counts as equal if another run of the same code has that very curve.

    Args:
        then: folder of the earlier code's run.
        now: folder of today's.
        name: of both.
        beside: folders of all runs of the earlier code, and of today's.
    """
    old, new = _metrics(then), _metrics(now)
    found = [
        Difference(name, metric, old.get(metric), new.get(metric))
        for metric in sorted({*old, *new})
        if repr(old.get(metric)) != repr(new.get(metric))
    ]
    curves = [_curve(path / CURVES) for path in (then, now)]
    curves = [
        own | _shared(own, other, runs)
        for own, other, runs in zip(curves, reversed(curves), beside, strict=True)
    ]
    for line in sorted(
        curves[0].keys() ^ curves[1].keys()
        | {k for k in curves[0] if curves[0][k] != curves[1].get(k)}
    )[:LISTED]:
        found.append(Difference(name, f"curve {line}", *(_number(own.get(line)) for own in curves)))
    items = [_items(path / "items") for path in (then, now)]
    for file in sorted({*items[0], *items[1]}):
        if items[0].get(file) != items[1].get(file):
            found.append(Difference(name, f"items/{file}", None, None))
    return found


def _shared(own: dict[str, str], other: dict[str, str], beside: Iterable[Path]) -> dict[str, str]:
    """Curves of the stages that only `other` trained, as far as a run beside `own` has just these."""
    trained = _stages(own)
    lacking = {name: curve for name, curve in _stages(other).items() if name not in trained}
    known = [_stages(_curve(run / CURVES)) for run in beside] if lacking else []
    found: dict[str, str] = {}
    for name, curve in lacking.items():
        if any(run.get(name) == curve for run in known):
            found |= dict(curve)
    return found


def _stages(curve: dict[str, str]) -> dict[str, tuple[tuple[str, str], ...]]:
    """Lines of each stage of a run's curves."""
    found: dict[str, list[tuple[str, str]]] = {}
    for line in curve.items():
        found.setdefault(line[0].split(",", 1)[0], []).append(line)
    return {name: tuple(lines) for name, lines in found.items()}


def _number(text: str | None) -> float | None:
    return None if text is None else float(text)


def _curve(path: Path) -> dict[str, str]:
    """Value of each stage, step and name of a run's curves, without those of the machine."""
    if not path.exists():
        return {}
    lines = path.read_text(encoding="utf-8").splitlines()[1:]
    return dict(_named(line) for line in lines if MACHINE not in line)


def _named(line: str) -> tuple[str, str]:
    """A line's name and its last field."""
    name, _, value = line.rpartition(",")
    return name, value


def _items(folder: Path) -> dict[str, bytes]:
    return (
        {p.name: p.read_bytes() for p in sorted(folder.glob("*.json"))} if folder.exists() else {}
    )
