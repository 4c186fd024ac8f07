"""Finished runs, as tables of many runs read them: their folders, settings and metrics."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from common.config import UserError
from common.engine.lifecycle.find import EARLIER
from common.engine.workspace import read_json


def finished_runs(names: Sequence[str], runs_dir: str | Path, project: str) -> list[Path]:
    """The folders that are named, or all finished runs of a project.

    Args:
        names: folders; none: all trained ones, not baselines, evaluations of other weights and runs
            of earlier code.
        runs_dir: such as ``runs``.
        project: slug.
    """
    if names:
        return [Path(name) for name in names]
    found = (path.parent for path in (Path(runs_dir) / project).glob("*/*/metrics.json"))
    return sorted(run for run in found if not run.name.startswith(EARLIER) and is_trained(run))


def is_trained(folder: Path) -> bool:
    """Whether a folder with metrics is that of a trained run.

    Evaluations leave no settings behind; a baseline has those of an arm, whose place it would take.
    """
    meta = folder / "meta.json"
    if not (folder / "config.yaml").is_file():
        return False
    return not meta.is_file() or "baseline" not in read_json(meta)


def run_settings(run: Path) -> Mapping[str, Any]:
    """The resolved config of a run.

    Raises:
        UserError: not a run.
    """
    try:
        found: Mapping[str, Any] = yaml.safe_load((run / "config.yaml").read_text("utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"{run} is no run: {error}") from error
    return found


def run_metrics(run: Path) -> Mapping[str, float]:
    """The metrics of a finished run.

    Raises:
        UserError: it is not finished.
    """
    try:
        found: Mapping[str, float] = read_json(run / "metrics.json")
    except OSError as error:
        raise UserError(f"{run} is no finished run: {error}") from error
    return found


def finished_stages(folder: Path) -> list[Path]:
    """Folders of a run's finished stages in their order, which a copied run keeps.

    Args:
        folder: ``checkpoints`` of the run.
    """
    marks = folder.glob("*/finished.json")
    order = sorted((read_json(m).get("stage", 0), m.stat().st_mtime_ns, m.parent) for m in marks)
    return [stage for _, _, stage in order]
