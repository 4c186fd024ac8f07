"""`TASK=table`: tuning x augmentation x contrast of all finished runs, and the gains."""

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any, NamedTuple

from common.config import UserError
from common.engine.lifecycle.find import finished_runs, run_metrics, run_settings
from common.engine.workspace import Workspace
from common.files import write_text
from projects.peft_augmentation.config import Config

NAMES = {"full": "FT", "prefix": "P-tuning", "lora": "LoRA"}
WORSE = " (lower)"  # marks a cell where augmentation costs


SECTIONS = ("data", "model", "tuning", "augment", "contrast", "optim")


class Cell(NamedTuple):
    """What scores are averaged over seeds within."""

    tuning: str
    augment: str
    contrast: bool
    encoder: str
    column: str  # task and number of examples
    variant: str = ""  # further settings in which runs of this cell differ


class Row(NamedTuple):
    """One finished run."""

    cell: Cell
    seed: int
    score: float


def table(cfg: Config, workspace: Workspace) -> str:
    """Scores with their deviation over seeds, and paired differences: augmentation, contrast.

    Raises:
        UserError: no finished run with one of the metrics.
    """
    folders = finished_runs(cfg.table.runs, cfg.runs_dir, workspace.project)
    read = [(run_settings(folder), run_metrics(folder)) for folder in folders]
    parts = []
    for name in cfg.table.metrics:
        key = f"test_{name}"
        rows = rows_of([(settings, run[key]) for settings, run in read if key in run])
        if rows:
            parts.append(f"## {name}\n\n{grid(rows)}\n{differences(rows)}")
    if not parts:
        raise UserError(
            f"no finished run has {', '.join(cfg.table.metrics)}: train some, or set table.runs"
        )
    text = "\n".join(parts)
    write_text(workspace.folder(".") / "table.md", text)
    workspace.say(text)
    return text


def rows_of(runs: Sequence[tuple[Mapping[str, Any], float]]) -> list[Row]:
    """The runs' places in the table, by their configs.

    Runs of one tuning, augmentation, contrast, encoder and task that differ in another setting, such
    as `tuning.prefix_length`, are not averaged: the setting goes into the cell.

    Args:
        runs: settings and score of each.
    """
    groups: dict[Cell, list[tuple[Mapping[str, Any], float]]] = {}
    for settings, score in runs:
        groups.setdefault(cell_of(settings), []).append((settings, score))
    rows = []
    for cell, members in groups.items():
        flat = [_flat(settings) for settings, _ in members]
        keys = sorted({key for values in flat for key in values})
        varied = [key for key in keys if any(v.get(key) != flat[0].get(key) for v in flat)]
        for values, (settings, score) in zip(flat, members, strict=True):
            variant = ", ".join(f"{key}={values.get(key)}" for key in varied)
            rows.append(Row(cell._replace(variant=variant), settings["seed"], score))
    return rows


def cell_of(settings: Mapping[str, Any]) -> Cell:
    """A run's cell, without its variant."""
    data, tuning = settings["data"], settings["tuning"]
    name = NAMES[tuning["kind"]]
    if tuning["kind"] == "prefix" and not tuning["prefix_length"]:
        name = "probe"
    return Cell(
        name,
        settings["augment"]["kind"],
        settings["contrast"]["weight"] > 0,
        settings["model"]["pretrained"],
        f"{data['task']}, n={data['examples'] or 'all'}",
    )


def grid(rows: Sequence[Row]) -> str:
    """Markdown: tuning x augmentation x contrast and encoder down, tasks x n across.

    A cell holds mean and deviation over seeds; one below its tuning's without augmentation is
    marked.
    """
    scores = _scores(rows)
    columns = sorted({cell.column for cell in scores})
    lines = ["| tuning | augmentation | contrast | encoder | " + " | ".join(columns) + " |"]
    lines.append("|" + "---|" * (len(columns) + 4))
    for kind in sorted({cell._replace(column="") for cell in scores}):
        shown = []
        for column in columns:
            cell = kind._replace(column=column)
            by_seed = scores.get(cell, {})
            base = scores.get(_base(scores, cell._replace(augment="none", contrast=False)), {})
            shared = sorted(by_seed.keys() & base.keys())
            lower = (
                kind.augment != "none" and shared and mean(by_seed[s] - base[s] for s in shared) < 0
            )
            values = list(by_seed.values())
            spread = f" ± {stdev(values):.4f}" if len(values) > 1 else ""
            shown.append(f"{mean(values):.4f}{spread}{WORSE if lower else ''}" if values else "")
        contrast = "yes" if kind.contrast else "no"
        first = [_tuning(kind), kind.augment, contrast, kind.encoder]
        lines.append("| " + " | ".join([*first, *shown]) + " |")
    return "\n".join(lines) + "\n"


def differences(rows: Sequence[Row]) -> str:
    """Markdown: paired differences over seeds, then their means per encoder and per task.

    Augmentation against none (without contrast), and contrast against the same without it.
    """
    scores = _scores(rows)
    lines = [
        "| difference | tuning | encoder | task | mean | deviation | positive seeds |",
        "|" + "---|" * 7,
    ]
    gains: list[tuple[str, str, float]] = []
    for cell in sorted(scores):
        augment = cell.augment if cell.contrast else "none"
        base = _base(scores, cell._replace(augment=augment, contrast=False))
        if (augment, False) == (cell.augment, cell.contrast) or base not in scores:
            continue
        shared = sorted(scores[cell].keys() & scores[base].keys())
        paired = [scores[cell][seed] - scores[base][seed] for seed in shared]
        if not paired:
            continue
        what = f"{augment} + contrast - {augment}" if cell.contrast else f"{cell.augment} - none"
        spread = f"{stdev(paired):.4f}" if len(paired) > 1 else ""
        positive = f"{sum(d > 0 for d in paired)} of {len(paired)}"
        worse = WORSE if mean(paired) < 0 else ""
        lines.append(
            f"| {what} | {_tuning(cell)} | {cell.encoder} | {cell.column} |"
            f" {mean(paired):+.4f}{worse} | {spread} | {positive} |"
        )
        if not cell.contrast:
            gains.append((cell.encoder, cell.column, mean(paired)))
    lines.append("")
    for place, name in ((0, "encoder"), (1, "task")):
        for value in sorted({gain[place] for gain in gains}):
            average = mean(gain[2] for gain in gains if gain[place] == value)
            lines.append(f"Mean gain of augmentation, {name} {value}: {average:+.4f}  ")
    return "\n".join(lines) + "\n"


def _tuning(cell: Cell) -> str:
    return f"{cell.tuning}, {cell.variant}" if cell.variant else cell.tuning


def _base(scores: Mapping[Cell, Any], cell: Cell) -> Cell:
    """The cell of the same variant, else the only one that differs in the variant alone."""
    if cell in scores:
        return cell
    others = [other for other in scores if other._replace(variant=cell.variant) == cell]
    return others[0] if len(others) == 1 else cell


def _scores(rows: Sequence[Row]) -> dict[Cell, dict[int, float]]:
    """Score by cell and seed; of several runs with the same settings and seed the last."""
    scores: dict[Cell, dict[int, float]] = {}
    for row in rows:
        scores.setdefault(row.cell, {})[row.seed] = row.score
    return scores


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted settings that can change a score, without the seed."""
    flat = {"trainer.max_steps": settings.get("trainer", {}).get("max_steps")}
    for section in SECTIONS:
        flat |= {f"{section}.{key}": value for key, value in settings.get(section, {}).items()}
    return flat
