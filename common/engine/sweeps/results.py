"""Results of a sweep: a table of trials, the best settings of each arm, plots, a W&B sweep."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import yaml
from matplotlib.figure import Figure
from optuna.trial import FrozenTrial, TrialState

from common.engine.sweeps.schema import Axis, Sweep, words_of
from common.engine.sweeps.study import ArmStudy
from common.export.files import write_json


def write_results(project: str, sweep: Sweep, studies: Sequence[ArmStudy], folder: Path) -> str:
    """Write ``sweep.md``, ``sweep.json`` and the plots into the sweep's folder.

    Returns:
        The Markdown.
    """
    trials = {s.arm: _complete(s.study) for s in studies}
    best = {s.arm: s.study.best_trial for s in studies if trials[s.arm]}
    spaces = {s.arm: s.sweep for s in studies}
    text = _markdown(project, sweep, spaces, trials, best)
    (folder / "sweep.md").write_text(text, encoding="utf-8")
    content = {
        "project": project,
        "base": sweep.base,
        "metric": sweep.metric,
        "seed": sweep.seed,
        "best": {arm: {"value": t.value, "settings": t.params} for arm, t in best.items()},
        "trials": [
            {"arm": arm, "number": t.number, "value": t.value, "settings": t.params}
            for arm, arm_trials in trials.items()
            for t in arm_trials
        ],
    }
    write_json(folder / "sweep.json", content)
    _plot_slices(sweep, axes_of(sweep), trials, folder / "slices.png")
    _plot_importance(sweep, studies, trials, folder / "importance.png")
    return text


def axes_of(sweep: Sweep) -> dict[str, Axis]:
    """What any arm varies; a setting of several arms in the widest way."""
    axes = dict(sweep.space)
    for space in sweep.own.values():
        for key, axis in space.items():
            other = axes.get(key, axis)
            values = [*other.values, *(v for v in axis.values if v not in other.values)]
            axes[key] = replace(other, values=values) if values else other
    return axes


def at_the_edge(sweep: Sweep, settings: Mapping[str, Any]) -> list[str]:
    """Settings whose best value is the least or largest tried: the optimum may lie outside.

    >>> from common.engine.sweeps.schema import Axis
    >>> sweep = Sweep(metric="m", space={"optim.lr": Axis([0.1, 0.2, 0.3])})
    >>> at_the_edge(sweep, {"optim.lr": 0.3}), at_the_edge(sweep, {"optim.lr": 0.2})
    (['optim.lr'], [])
    """
    keys = []
    for key, axis in sweep.space.items():
        low, high = axis.bounds
        if math.isnan(low):
            continue
        value = float(settings[key])
        # within a fiftieth of an interval counts as its end
        slack = 0.0 if axis.values else (math.log(high / low) if axis.log else high - low) / 50
        at = [math.log(x) if axis.log else x for x in (value, low, high)]
        if min(abs(at[0] - at[1]), abs(at[0] - at[2])) <= slack:
            keys.append(key)
    return keys


def wandb_sweep(
    project: str, sweep: Sweep, words: Sequence[str], arm: Mapping[str, Any] | None = None
) -> str:
    """The same sweep of one arm as a W&B sweep (YAML), for ``wandb sweep`` and ``wandb agent``.

    The metric is the one that a run logs when it has been evaluated, ``test/<metric>``.

    Settings reach the program as ``a.b=c``, which is what `contrastive train` reads.
    """
    methods = {"tpe": "bayes", "random": "random", "grid": "grid"}
    parameters: dict[str, Any] = {}
    for key, axis in sweep.space.items():
        low, high = axis.bounds
        if axis.values:
            parameters[key] = {"values": list(axis.values)}
        elif axis.whole:
            parameters[key] = {
                "distribution": "q_log_uniform_values" if axis.log else "int_uniform",
                "min": int(low),
                "max": int(high),
            }
        else:
            kind = "log_uniform_values" if axis.log else "uniform"
            parameters[key] = {"distribution": kind, "min": low, "max": high}
    command = ["${env}", "python", "-m", "common.cli", "train", project, sweep.base, *words]
    command += [*words_of(sweep.shared), *words_of(arm or {})]
    command += [f"seed={sweep.seed}", "tracking.wandb=online"]
    content: dict[str, Any] = {
        "method": methods[sweep.sampler],
        "metric": {
            "name": f"test/{sweep.metric}",
            "goal": "maximize" if sweep.direction == "max" else "minimize",
        },
        "parameters": parameters,
        "command": [*command, "${args_no_hyphens}"],
    }
    if sweep.sampler != "grid":
        content["run_cap"] = sweep.trials
    if sweep.prune:
        content["early_terminate"] = {"type": "hyperband", "min_iter": max(1, sweep.prune.trials)}
    return yaml.safe_dump(content, sort_keys=False)


def _complete(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def _markdown(
    project: str,
    sweep: Sweep,
    spaces: Mapping[str, Sweep],
    trials: Mapping[str, Sequence[FrozenTrial]],
    best: Mapping[str, FrozenTrial],
) -> str:
    lines = [
        (
            f"Sweep of `{project}/{sweep.base}`, seed {sweep.seed}: `{sweep.metric}`"
            f" ({sweep.direction})."
        ),
        "",
    ]
    for arm, trial in best.items():
        settings = " ".join(words_of(trial.params))
        edge = at_the_edge(spaces[arm], trial.params)
        outside = f"; at the end of what was tried: {', '.join(edge)} (widen it)" if edge else ""
        lines.append(
            f"- best{f' of {arm}' if arm else ''}: {trial.value:.4f} with `{settings}`{outside}"
        )
    keys = list(axes_of(sweep))
    lines += [
        "",
        "| arm | " + " | ".join([*keys, sweep.metric]) + " |",
        "|---" * (len(keys) + 2) + "|",
    ]
    for arm, arm_trials in trials.items():
        ranked = sorted(arm_trials, key=lambda t: t.value or 0.0, reverse=sweep.direction == "max")
        for trial in ranked:
            cells = [json.dumps(trial.params[key]) if key in trial.params else "" for key in keys]
            lines.append(
                f"| {arm or sweep.base} | " + " | ".join([*cells, f"{trial.value:.4f}"]) + " |"
            )
    return "\n".join(lines) + "\n"


def _plot_slices(
    sweep: Sweep, space: Mapping[str, Axis], trials: Mapping[str, Sequence[FrozenTrial]], path: Path
) -> None:
    """The metric over each setting, all arms that vary it in one picture."""
    if not any(trials.values()):
        return
    figure = Figure(figsize=(3.4 * len(space), 2.8), layout="constrained")
    for position, (key, axis) in enumerate(space.items(), 1):
        axes = figure.add_subplot(1, len(space), position)
        numbers = not math.isnan(axis.bounds[0])
        for arm, arm_trials in trials.items():
            points = sorted(
                (t.params[key] if numbers else str(t.params[key]), float(t.value or 0))
                for t in arm_trials
                if key in t.params
            )
            axes.plot(
                [x for x, _ in points],
                [y for _, y in points],
                "o-" if len(space) == 1 else "o",
                markersize=4,
                label=arm,
            )
        if numbers and (axis.log or (axis.bounds[0] > 0 and axis.bounds[1] / axis.bounds[0] > 20)):
            axes.set_xscale("log")
        axes.set_xlabel(key, fontsize=8)
        axes.tick_params(labelsize=7)
    figure.axes[0].set_ylabel(sweep.metric, fontsize=8)
    if len(trials) > 1:
        figure.axes[0].legend(fontsize=7)
    figure.savefig(path, dpi=110)


def _plot_importance(
    sweep: Sweep,
    studies: Sequence[ArmStudy],
    trials: Mapping[str, Sequence[FrozenTrial]],
    path: Path,
) -> None:
    """Share of the metric's variance that each setting explains (fANOVA), by arm."""
    shown = [s for s in studies if len({t.value for t in trials[s.arm]}) > 3]
    keys = list(axes_of(sweep))
    if len(keys) < 2 or not shown:
        return
    figure = Figure(figsize=(4.5, 0.35 * len(keys) * len(shown) + 1.2), layout="constrained")
    axes = figure.add_subplot()
    for i, study in enumerate(shown):
        shares = optuna.importance.get_param_importances(
            study.study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=sweep.seed)
        )
        places = [keys.index(key) + 0.8 * i / len(shown) for key in shares]
        axes.barh(places, list(shares.values()), height=0.7 / len(shown), label=study.arm)
    axes.set_yticks(
        [k + 0.4 * (len(shown) - 1) / len(shown) for k in range(len(keys))], keys, fontsize=8
    )
    axes.invert_yaxis()
    axes.set_xlabel("share of the variance explained", fontsize=8)
    if len(shown) > 1:
        axes.legend(fontsize=7)
    figure.savefig(path, dpi=110)
