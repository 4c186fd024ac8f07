"""A comparison as measured: computed, written to ``results/`` and read again.

``results/<slug>.json`` is a summary that people can read. ``results/<slug>.values.json.gz`` has
every metric of every seed, and the items that verdicts are computed from.
"""

import datetime
import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from common import __version__
from common.config import CONFIG_DIR, ROOT, UserError, config_path, nearest
from common.engine import workspace as ws
from common.engine.comparison.claims import Claim, claims_of
from common.engine.comparison.judge import judge
from common.engine.comparison.runs import PlannedRun
from common.engine.comparison.schema import Comparison
from common.engine.comparison.values import ArmValues, values_of
from common.engine.provenance import git, lock_hash
from common.files import write_bytes, write_text

WIDTH = 120  # of a line of the summary
DIGITS = 6  # significant digits of its numbers


def summarise(
    spec: Comparison,
    arms: Sequence[str],
    plan: Sequence[PlannedRun],
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """The result of a comparison.

    Args:
        spec: the comparison.
        arms: that have run; claims on others are left out.
        plan: finished runs of the arms and baselines.
        overrides: from the command line.

    Returns:
        The summary of `read_results`, with the values under ``values``.

    Raises:
        UserError: a metric that the runs don't have.
    """
    names = [*arms, *spec.baselines]
    runs = {
        name: sorted((r for r in plan if r.arm == name), key=lambda r: r.seed) for name in names
    }
    claims = [claim for claim in claims_of(spec) if all(arm in runs for arm in claim.needed)]
    metrics = [m for claim in claims for m in (claim.metric, *(o.metric for o in claim.others))]
    values = {name: values_of(runs[name], list(dict.fromkeys(metrics))) for name in names}
    for arm in arms:
        if spec.metric not in values[arm].metrics:
            raise UserError(
                f"{spec.project}: no metric '{spec.metric}'"
                f"{nearest(spec.metric, values[arm].metrics)}"
            )
    shown = [spec.metric, *spec.also]
    return {
        "name": spec.name,
        "base": spec.base,
        "metric": spec.metric,
        "direction": spec.direction,
        "seeds": sorted({run.seed for run in plan if not run.is_baseline}),
        "shared": spec.shared,
        "overrides": list(overrides),
        "also": spec.also,
        "bounds": spec.bounds,
        "note": spec.note.strip(),
        "measured": _measured(spec, plan),
        "arms": {
            arm: {
                "settings": {k: v for k, v in spec.arms[arm].items() if k not in spec.shared},
                "steps": _steps(runs[arm][0]),
                **_row(values[arm], shown),
            }
            for arm in arms
        },
        "baselines": {name: _row(values[name], shown) for name in spec.baselines},
        "chance": chance_levels([values[arm] for arm in arms], shown),
        **judged(spec, claims, values),
        "values": values,
    }


def judged(
    spec: Comparison, claims: Sequence[Claim], values: Mapping[str, ArmValues]
) -> dict[str, list[dict[str, Any]]]:
    """Counted claims under ``claims``, the others under ``appendix``."""
    return {
        part: [judge(claim, spec, values) for claim in claims if claim.appendix == appendix]
        for part, appendix in (("claims", False), ("appendix", True))
    }


def _row(values: ArmValues, shown: Sequence[str]) -> dict[str, Any]:
    """Mean and, over several runs, deviation of the metrics that a card shows."""
    row: dict[str, Any] = {}
    for name in shown:
        column = [v for v in values.metrics.get(name, [None]) if v is not None]
        if len(column) < len(values.seeds):
            continue
        row[name] = [float(np.mean(column))]
        row[name] += [float(np.std(column, ddof=1))] if len(column) > 1 else []
    minutes = float(np.mean([s or 0.0 for s in values.seconds])) / 60
    return {"metrics": row, "minutes": minutes}


def chance_levels(arms: Sequence[ArmValues], shown: Sequence[str]) -> dict[str, float]:
    """Chance levels that runs have measured next to their metrics."""
    measured = {name: arm for arm in arms for name in arm.metrics}
    names = [name for name in shown if f"{name}_chance" in measured]
    return {name: measured[f"{name}_chance"].mean(f"{name}_chance") for name in names}


def _steps(run: PlannedRun) -> Any:
    """Steps of a run; per stage where it has several."""
    stages = run.stage_steps()
    return stages if len(stages) > 1 else run.meta().get("num_steps")


def _measured(spec: Comparison, plan: Sequence[PlannedRun]) -> dict[str, Any]:
    """Where and when, by which code."""
    metas = [run.meta() for run in plan]
    hardware = metas[0]["hardware"]
    files = CONFIG_DIR / spec.project / "compare.yaml", config_path(spec.project, spec.base)
    shallow = git("rev-parse", "--is-shallow-repository") != "false"  # has no such history
    design = None if shallow else git("log", "-1", "--format=%H", "--", *map(str, files))
    return {
        "version": __version__,
        "commit": metas[0]["commit"],
        "clean": bool(metas[0]["commit"]) and not any(meta["dirty"] for meta in metas),
        "design": design or None,
        "lock": lock_hash(),
        "processor": hardware["cpu"],
        "cores": hardware["cores"],
        "gpu": hardware["gpu"],
        "precision": metas[0].get("precision"),
        "date": datetime.date.today().isoformat(),
        "minutes": sum(meta.get("wall_seconds") or 0.0 for meta in metas) / 60,
    }


# -- files --------------------------------------------------------------------------------------


def result_path(project: str) -> Path:
    """The summary of a project's comparisons."""
    return ROOT / "results" / f"{project}.json"


def values_path(project: str) -> Path:
    """The values next to it."""
    return ROOT / "results" / f"{project}.values.json.gz"


def read_results(project: str, values: bool = False) -> list[dict[str, Any]]:
    """Published comparisons of a project, the main one first; none if it has not run.

    Args:
        project: slug.
        values: whether to read the values of seeds and items too.

    Returns:
        Per comparison ``name``, ``base``, ``metric``, ``direction``, ``seeds``, ``measured``,
        ``arms`` and ``baselines`` (``metrics``: mean and deviation), ``claims`` and ``appendix``
        (see `judge`), and what compare.yaml says of it; with `values` also ``values``: an
        `ArmValues` of each arm and baseline.
    """
    path = result_path(project)
    if not path.exists():
        return []
    comparisons: list[dict[str, Any]] = ws.read_json(path)["comparisons"]
    if values:
        content = json.loads(gzip.decompress(values_path(project).read_bytes()))
        for comparison in comparisons:
            table = content[comparison["name"]]
            comparison["values"] = {name: ArmValues(**own) for name, own in table.items()}
    return comparisons


def write_results(project: str, comparisons: Sequence[Mapping[str, Any]]) -> None:
    """Write summary and values; the same content gives the same bytes.

    Args:
        project: slug.
        comparisons: of `summarise`, or of `read_results` with values.
    """
    result_path(project).parent.mkdir(exist_ok=True)
    values = {
        comparison["name"]: {name: asdict(own) for name, own in comparison["values"].items()}
        for comparison in comparisons
    }
    text = json.dumps(values, separators=(",", ":"))
    write_bytes(values_path(project), gzip.compress(text.encode(), mtime=0))
    summaries = [
        {key: value for key, value in comparison.items() if key != "values"}
        for comparison in comparisons
    ]
    content = rounded({"project": project, "comparisons": summaries})
    write_text(result_path(project), for_readers(content))


def for_readers(content: Any) -> str:
    """JSON of mappings and lists: what fits stays on one line, and short entries share lines."""
    return "\n".join(_lines(content)) + "\n"


def rounded(content: Any) -> Any:
    """Numbers with `DIGITS` significant digits, in mappings and lists."""
    if isinstance(content, float):
        return float(f"{content:.{DIGITS}g}")
    if isinstance(content, Mapping):
        return {key: rounded(value) for key, value in content.items()}
    return [rounded(value) for value in content] if isinstance(content, list) else content


def _lines(content: Any, indent: str = "", key: str = "", end: str = "") -> Iterator[str]:
    name = f"{json.dumps(key, ensure_ascii=False)}: " if key else ""
    text = indent + name + json.dumps(content, ensure_ascii=False) + end
    if len(text) <= WIDTH or not isinstance(content, dict | list):
        yield text
        return
    opening, closing = "{}" if isinstance(content, dict) else "[]"
    yield indent + name + opening
    entries = content.items() if isinstance(content, dict) else (("", item) for item in content)
    line, left = "", len(content)
    for inner, value in entries:
        left -= 1
        *more, last = _lines(value, indent + "  ", inner, "," if left else "")
        if line and (more or len(line) + len(last) - len(indent) - 1 > WIDTH):
            yield line
            line = ""
        yield from more
        line = f"{line} {last.lstrip()}" if line and not more else last
        if more or (isinstance(value, dict) and any(isinstance(v, dict) for v in value.values())):
            yield line
            line = ""
    if line:
        yield line
    yield indent + closing + end
