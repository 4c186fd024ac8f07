"""`make run PROJECT=dcl TASK=sensitivity`: how much each loss depends on its settings."""

import hashlib
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.config import UserError, to_dict
from common.engine.optim import scaled_lr
from common.engine.run import train
from common.engine.trainer import world_size
from common.engine.workspace import Workspace, read_json, write_json
from common.files import write_text
from projects.dcl.config import Config
from projects.dcl.data import num_samples

Train = Callable[[str, str, Sequence[str]], Path]
LOGGING = ("tracking.", "trainer.log_every")  # settings that no result hangs on


def cells(cfg: Config) -> dict[str, dict[str, list[str]]]:
    """Overrides by axis and setting, one setting changed at a time.

    Every cell sees the same number of images, but for the axis of epochs, and warms up for the same
    share of its steps. The learning rate follows the batch size by `optim.lr_scaling`, or by the
    square-root rule where that is "none".

    Returns:
        ``{"batch_size": {"16": [overrides], ...}, "temperature": ..., "lr": ..., "epochs": ...}``,
        and ``"queue_size"`` where sizes are named.

    Raises:
        UserError: sizes of a queue for a host without one.
    """
    options, batch = cfg.sensitivity, cfg.data.batch_size
    if options.queue_sizes and cfg.method.host != "moco":
        raise UserError("sensitivity.queue_sizes needs method.host=moco")
    steps = base_steps(cfg)
    same = _steps(cfg, steps, steps)
    axes: dict[str, dict[str, list[str]]] = {}
    axes["batch_size"] = {
        str(size): [
            f"data.batch_size={size}",
            *_scaled(cfg, size),
            *_steps(cfg, max(1, steps * batch // size), steps),
        ]
        for size in options.batch_sizes
    }
    axes["temperature"] = {
        str(tau): [f"method.temperature={tau}", *same] for tau in options.temperatures
    }
    axes["lr"] = {
        str(factor): [f"optim.lr={factor * cfg.optim.lr}", *same] for factor in options.lr_factors
    }
    axes["epochs"] = {
        str(factor): [
            *_steps(cfg, max(1, round(factor * steps)), steps),
            f"optim.warmup_epochs={factor * cfg.optim.warmup_epochs}",
        ]
        for factor in options.epoch_factors
    }
    axes["queue_size"] = {
        str(size): [f"method.queue_size={size}", *same] for size in options.queue_sizes
    }
    return {axis: settings for axis, settings in axes.items() if settings}


def base_steps(cfg: Config) -> int:
    """Optimiser steps of the config itself."""
    if cfg.trainer.max_steps is not None:
        return cfg.trainer.max_steps
    assert cfg.trainer.max_epochs is not None
    images = cfg.data.batch_size * world_size(cfg.trainer) * cfg.trainer.accumulate_grad_batches
    return max(1, int(cfg.trainer.max_epochs * (num_samples(cfg) // images)))


def as_overrides(cfg: Config) -> list[str]:
    """Every value of a config as ``a.b=value``, without those that name a run or the cells."""

    def walk(node: Mapping[str, Any], prefix: str) -> list[str]:
        words = []
        for key, value in node.items():
            inner = isinstance(value, dict)
            branch = (
                walk(value, f"{prefix}{key}.") if inner else [f"{prefix}{key}={json.dumps(value)}"]
            )
            words += branch
        return words

    names = ("runs_dir", "run_id", "resume", "sensitivity")
    return walk({k: v for k, v in to_dict(cfg).items() if k not in names}, "")


def run_sensitivity(cfg: Config, workspace: Workspace, train: Train = train) -> dict[str, Any]:
    """Train every cell with every loss and write sensitivity.json, a table and a figure.

    Args:
        cfg: the base config.
        workspace: of the task; the runs lie in its sub-folder ``runs``, and those of equal settings
            are reused.
        train: trains a config with overrides and returns the run folder.

    Returns:
        ``{"metric": name, "values": {axis: {setting: {loss: [per seed]}}}, "spread": {axis:
        {loss: {"mean", "std", "min", "max"}}}}``; the spread is over the settings of an axis.

    Raises:
        UserError: no loss, setting or seed to run.
    """
    options = cfg.sensitivity
    plan = [
        (axis, setting, loss, seed, overrides)
        for axis, settings in cells(cfg).items()
        for setting, overrides in settings.items()
        for loss in options.losses
        for seed in range(cfg.seed, cfg.seed + options.num_seeds)
    ]
    if not plan:
        raise UserError("sensitivity has nothing to run: give losses, settings and num_seeds >= 1")
    metric = f"knn{cfg.eval.items_k}_top1"
    base = [*as_overrides(cfg), "trainer.val_every_n_steps=null"]
    values: dict[str, dict[str, dict[str, list[float]]]] = {}
    for axis, setting, loss, seed, overrides in workspace.progress(plan, "runs", len(plan)):
        words = [*base, *overrides, f"method.loss={loss}", f"seed={seed}"]
        name = f"{loss}-seed{seed}-{_digest(words)}"  # a setting that axes share is trained once
        score = _score(workspace, name, words, metric, train)
        values.setdefault(axis, {}).setdefault(setting, {}).setdefault(loss, []).append(score)
    spread = {axis: _spread(settings, options.losses) for axis, settings in values.items()}
    result = {"metric": metric, "values": values, "spread": spread}
    write_json(workspace.folder(".") / "sensitivity.json", result)
    write_text(workspace.path / "sensitivity.md", table(result) + "\n")
    workspace.figure("sensitivity", figure(result))
    return result


def sensitivity(cfg: Config, workspace: Workspace) -> None:
    """`run_sensitivity` as ``TASK=sensitivity``."""
    run_sensitivity(cfg, workspace)


def _score(
    workspace: Workspace, name: str, overrides: list[str], metric: str, train: Train
) -> float:
    folder = workspace.folder("runs")
    results = sorted(folder.glob(f"*/*/{name}/metrics.json"))
    if not results:
        words = [*overrides, f"runs_dir={folder}", f"run_id={name}", "tracking.wandb=disabled"]
        if list(folder.glob(f"*/*/{name}/meta.json")):
            words.append(f"resume={name}")
        results = [train(workspace.project, workspace.config, words) / "metrics.json"]
    return float(read_json(results[0])[metric])


def _spread(
    settings: Mapping[str, Mapping[str, list[float]]], losses: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Mean and spread over settings (of the means over seeds) by loss."""
    result = {}
    for loss in losses:
        means = [statistics.fmean(by_loss[loss]) for by_loss in settings.values()]
        result[loss] = {
            "mean": statistics.fmean(means),
            "std": statistics.stdev(means) if len(means) > 1 else 0.0,
            "min": min(means),
            "max": max(means),
        }
    return result


def table(result: Mapping[str, Any]) -> str:
    """Markdown: a row for each setting, and one with mean and spread for each axis."""
    losses = list(next(iter(result["spread"].values())))
    lines = [f"| axis | setting | {' | '.join(losses)} |", "|---|---" + "|---" * len(losses) + "|"]
    for axis, settings in result["values"].items():
        for setting, by_loss in settings.items():
            cells_ = [f"{statistics.fmean(by_loss[loss]):.4f}" for loss in losses]
            lines.append(f"| {axis} | {setting} | {' | '.join(cells_)} |")
        spread = result["spread"][axis]
        cells_ = [f"{spread[loss]['mean']:.4f} +- {spread[loss]['std']:.4f}" for loss in losses]
        lines.append(f"| {axis} | **mean +- spread** | {' | '.join(cells_)} |")
    return "\n".join(lines)


def figure(result: Mapping[str, Any]) -> Any:
    """One panel for each axis, one line for each loss."""
    from matplotlib.figure import Figure

    axes_names = list(result["values"])
    figure = Figure(figsize=(3 * len(axes_names), 2.8))
    panels = figure.subplots(1, len(axes_names), squeeze=False, sharey=True)[0]
    for panel, axis in zip(panels, axes_names, strict=True):
        settings = result["values"][axis]
        for loss in result["spread"][axis]:
            heights = [statistics.fmean(by_loss[loss]) for by_loss in settings.values()]
            panel.plot(list(settings), heights, marker="o", label=loss)
        panel.set_xlabel(axis)
    panels[0].set_ylabel(result["metric"])
    panels[0].legend(fontsize=7)
    return figure


def _steps(cfg: Config, steps: int, of: int) -> list[str]:
    """A length, with a warm-up as long in proportion; `of` are the config's own steps."""
    warmup = round(cfg.optim.warmup_steps * steps / of)
    return ["trainer.max_epochs=null", f"trainer.max_steps={steps}", f"optim.warmup_steps={warmup}"]


def _scaled(cfg: Config, size: int) -> list[str]:
    """The learning rate of a batch size, unless the optimiser scales it itself."""
    if cfg.optim.lr_scaling != "none":
        return []
    return [f"optim.lr={scaled_lr(cfg.optim.lr, size, 'sqrt', cfg.data.batch_size)}"]


def _digest(overrides: Sequence[str]) -> str:
    """Stands for the settings of a run in its name, but for those of its log."""
    last = dict(word.split("=", 1) for word in overrides)
    kept = {key: value for key, value in last.items() if not key.startswith(LOGGING)}
    return hashlib.sha256(repr(sorted(kept.items())).encode()).hexdigest()[:8]
