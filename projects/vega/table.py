"""`TASK=table`: scores of finished runs, the leaderboard, human scores, the ablation."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from common.config import UserError
from common.engine.lifecycle.find import finished_runs, is_trained, run_metrics, run_settings
from common.engine.workspace import Workspace
from common.files import write_text
from projects.vega.config import Config
from projects.vega.forwarding import strategy, target_of
from projects.vega.glue.metrics import HUMAN, TASKS, best_tasks, glue_average, leaderboard

Scores = dict[str, dict[str, dict[int, float]]]  # strategy -> task -> seed -> score, per cent


def table(cfg: Config, workspace: Workspace) -> str:
    """Medians over seeds by strategy and task.

    The best strategy of every task alongside other systems.

    Our numbers are of development parts (or of a bundled test part), the leaderboard's of hidden
    test
    labels: they stand side by side, they are not comparable.

    Raises:
        UserError: no finished run of fine-tuning that was scored, or a named folder that is none.
    """
    folders = finished_runs(cfg.table.runs, cfg.runs_dir, workspace.project)
    trained = [folder for folder in folders if is_trained(folder)]
    if cfg.table.runs and len(trained) < len(folders):
        wrong = next(folder for folder in folders if folder not in trained)
        raise UserError(f"table.runs: {wrong} is not a trained run: leave it out, or give another")
    scores = rows_of(trained, workspace)
    if not scores:
        raise UserError(
            "no scored run of fine-tuning: train some on a part with labels, or set table.runs"
        )
    text = "\n".join([ablation(scores), beside_others(best_scores(scores))])
    write_text(workspace.folder(".") / "table.md", text)
    workspace.say(text)
    return text


def rows_of(folders: Sequence[Path], workspace: Workspace) -> Scores:
    """Scores of runs; the runs of one row differ in task, seed and the tasks' settings alone.

    Where runs of one task share a name and differ in any setting, their rows get a mark of it.
    """
    runs: dict[tuple[str, str], dict[str, dict[int, float]]] = defaultdict(
        lambda: defaultdict(dict)
    )
    for folder in folders:
        settings, metrics = run_settings(folder), run_metrics(folder)
        if settings.get("train") != "finetune":
            continue
        part = settings["eval"]["part"]
        both = [
            metrics[f"{part}{end}_score"] for end in ("", "_mm") if f"{part}{end}_score" in metrics
        ]
        if not both:  # trained for a part without labels
            workspace.say(f"{folder} is left out: it has no {part}_score")
            continue
        key = row_name(folder.parent.name, settings), str(settings["data"]["task"])
        runs[key][strategy(settings)][int(settings["seed"])] = 100 * sum(both) / len(both)
    scores: Scores = defaultdict(lambda: defaultdict(dict))
    for (name, task), by_strategy in runs.items():
        for mark, values in by_strategy.items():
            scores[name if len(by_strategy) == 1 else f"{name} #{mark}"][task] = values
    return scores


def row_name(config: str, settings: Mapping[str, Any]) -> str:
    """What a run is, in words: config, part, tricks, and what happened to the labels."""
    tricks = [t for t in ("sift", "self_calibration", "transductive") if settings[t]["enabled"]]
    part, data = settings["eval"]["part"], settings["data"]
    target = target_of(settings)
    more = [f"adapted to {target}"] if target not in (None, part) else []
    more += [f"{key} {data[key]}" for key in ("noise", "limit") if data.get(key)]
    name = "+".join([str(settings["model"]["pretrained"]), *tricks])
    return ", ".join([f"{config} {part}: {name}", *more])


def ablation(scores: Mapping[str, Mapping[str, Mapping[int, float]]]) -> str:
    """Markdown: strategies down, tasks across, medians and the number of seeds."""
    tasks = [task for task in TASKS if any(task in by_task for by_task in scores.values())]
    lines = [
        "## Strategies",
        "",
        "| strategy | " + " | ".join(tasks) + " |",
        "|" + "---|" * (len(tasks) + 1),
    ]
    for name in sorted(scores):
        cells = [
            (
                f"{median(scores[name][t].values()):.1f} ({len(scores[name][t])})"
                if t in scores[name]
                else ""
            )
            for t in tasks
        ]
        lines.append("| " + " | ".join([name, *cells]) + " |")
    return "\n".join(lines) + "\n"


def best_scores(scores: Mapping[str, Mapping[str, Mapping[int, float]]]) -> dict[str, float]:
    """Of each task the largest median over the strategies."""
    return {
        task: max(median(by_task[task].values()) for by_task in scores.values() if task in by_task)
        for task in TASKS
        if any(task in by_task for by_task in scores.values())
    }


def beside_others(scores: Mapping[str, float]) -> str:
    """Markdown: our scores, named vega-like, under the leaderboard's; humans; where who is best.

    Args:
        scores: task -> score in per cent, of some or all of the nine tasks.
    """
    rows = leaderboard()
    lines = [
        "## Beside the leaderboard of January 2022",
        "",
        (
            "Leaderboard: hidden test labels. vega-like: this repository's runs, on parts with"
            " public labels."
        ),
        "",
        "| system | average | " + " | ".join(TASKS) + " |",
        "|" + "---|" * (len(TASKS) + 2),
    ]
    for name, row in {**rows, "vega-like": dict(scores)}.items():
        merged = (
            {**row, "mnli": (row["mnli"] + row.get("mnli_mm", row["mnli"])) / 2}
            if "mnli" in row
            else dict(row)
        )
        average = (
            f"{glue_average(merged | {'mnli_mm': merged['mnli']}):.2f}"
            if all(t in merged for t in TASKS)
            else ""
        )
        cells = [f"{merged[task]:.1f}" if task in merged else "" for task in TASKS]
        lines.append("| " + " | ".join([name, average, *cells]) + " |")
    lines += [
        "",
        *(_against_humans("Vega v1", rows["Vega v1"])),
        *_against_humans("vega-like", scores),
    ]
    others = {name: row for name, row in rows.items() if name != "Vega v1"}
    lines += [
        "",
        (
            "Vega v1 is best, or as good as the best, on"
            f" {_listed(best_tasks(rows['Vega v1'], others))}."
        ),
        f"vega-like is best on {_listed(best_tasks(scores, rows))}.",
    ]
    return "\n".join(lines) + "\n"


def _against_humans(name: str, row: Mapping[str, float]) -> list[str]:
    return [
        f"- {name}, {task}: {row[task]:.1f} against {human:.1f} of humans,"
        f" {'above' if row[task] > human else 'not above'}"
        for task, human in HUMAN.items()
        if task in row
    ]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if names else "no task"
