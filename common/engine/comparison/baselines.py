"""Baselines that need no training: functions of ``projects/<slug>/baselines.py``.

Each maps config and workspace to metrics, and may save items (`Workspace.items`, `rank_items`) so
that claims on it are paired by item. It runs once per comparison, with the base config.
"""

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from common.config import ExperimentConfig, load
from common.engine import workspace as ws
from common.engine.callbacks import seed_all, step_seed
from common.engine.comparison.runs import BASELINES
from common.engine.comparison.spec import check_baseline
from common.engine.lifecycle.run import Run
from common.evaluation.tables import write_report
from common.registry import config_class, load_project

Baseline = Callable[[ExperimentConfig, ws.Workspace], dict[str, float]]


def find_baseline(project: str, name: str) -> Baseline:
    """The project's function of that name.

    Raises:
        UserError: there is none.
    """
    check_baseline(project, name)
    module = importlib.import_module(f"{load_project(project).__name__}.{BASELINES}")
    return getattr(module, name)  # type: ignore[no-any-return]


def evaluate_baseline(
    project: str, config: str, overrides: Sequence[str], name: str
) -> tuple[Path, dict[str, float]]:
    """Run a baseline; its folder looks like that of a trained run.

    Returns:
        Folder and metrics.

    Raises:
        UserError: no such baseline, or its folder holds a finished run.
    """
    function = find_baseline(project, name)
    cfg = load(config_class(project), project, config, overrides)
    cfg.run_id = cfg.run_id or f"baseline-{name}-{ws.new_run_id()}"
    run = Run(ws.run_folder(cfg, project, config) / cfg.run_id, project, config, owner=True)
    with run:
        if (run.path / "meta.json").exists() and not (run.path / "metrics.json").exists():
            run.resume(cfg, overrides, {}, {})  # was interrupted
        else:
            run.create(cfg, overrides, {"baseline": name, "num_steps": 0, "parameters": None})
        seed_all(step_seed(cfg.seed, 0, 0, 0))
        workspace = run.workspace()
        with torch.inference_mode():
            metrics = {k: float(v) for k, v in function(cfg, workspace).items()}
        write_report(metrics, run.path, title=f"{project}/{config} {name}")
        run.finish()
    return run.path, metrics
