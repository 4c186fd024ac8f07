"""`make run TASK=table`: tuning x augmentation x contrast of all finished runs, and what each gains."""

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any, NamedTuple

from common.config import UserError
from common.engine.lifecycle.finished import finished_runs, run_metrics, run_settings
from common.engine.workspace import Workspace
from projects.peft_augmentation.config import Config

NAMES = {"full": "FT", "prefix": "P-tuning", "lora": "LoRA"}
WORSE = " (lower)"  # marks a cell where augmentation costs


class Row(NamedTuple):
    """One finished run."""

    tuning: str
    augment: str
    contrast: bool
    encoder: str
    column: str  # task and number of examples
    seed: int
    score: float

    @property
    def cell(self) -> tuple[str, str, bool, str, str]:
        """What its seeds are averaged over."""
        return self.tuning, self.augment, self.contrast, self.encoder, self.column


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
        rows = [row_of(settings, metrics[key]) for settings, metrics in read if key in metrics]
        if rows:
            parts.append(f"## {name}\n\n{grid(rows)}\n{differences(rows)}")
    if not parts:
        raise UserError(
            f"no finished run has {', '.join(cfg.table.metrics)}: train some, or name table.runs"
        )
    text = "\n".join(parts)
    (workspace.folder(".") / "table.md").write_text(text, encoding="utf-8")
    workspace.say(text)
    return text


def row_of(settings: Mapping[str, Any], score: float) -> Row:
    """A run's place in the table, by its config."""
    data = settings["data"]
    tuning = settings["tuning"]
    name = NAMES[tuning["kind"]]
    if tuning["kind"] == "prefix" and not tuning["prefix_length"]:
        name = "probe"
    number = data["examples"] or "all"
    return Row(
        name,
        settings["augment"]["kind"],
        settings["contrast"]["weight"] > 0,
        settings["model"]["pretrained"],
        f"{data['task']}, n={number}",
        settings["seed"],
        score,
    )


def grid(rows: Sequence[Row]) -> str:
    """Markdown: tuning x augmentation x contrast and encoder down, tasks x n across.

    A cell holds mean and deviation over seeds; one below its tuning's without augmentation is
    marked.
    """
    cells = _cells(rows)
    columns = sorted({row.column for row in rows})
    lines = ["| tuning | augmentation | contrast | encoder | " + " | ".join(columns) + " |"]
    lines.append("|" + "---|" * (len(columns) + 4))
    for kind in sorted({cell[:4] for cell in cells}):
        shown = []
        for column in columns:
            own = cells.get((*kind, column), {})
            none = cells.get((kind[0], "none", False, kind[3], column), {})
            shared = sorted(own.keys() & none.keys())
            lower = kind[1] != "none" and shared and mean(own[s] - none[s] for s in shared) < 0
            values = list(own.values())
            spread = f" ± {stdev(values):.4f}" if len(values) > 1 else ""
            shown.append(f"{mean(values):.4f}{spread}{WORSE if lower else ''}" if values else "")
        tuning, augment, contrast, encoder = kind
        lines.append(
            "| "
            + " | ".join([tuning, augment, "yes" if contrast else "no", encoder, *shown])
            + " |"
        )
    return "\n".join(lines) + "\n"


def differences(rows: Sequence[Row]) -> str:
    """Markdown: paired differences over seeds, then their means per encoder and per task.

    Augmentation against none (without contrast), and contrast against the same without it.
    """
    cells = _cells(rows)
    lines = [
        "| difference | tuning | encoder | task | mean | deviation | positive seeds |",
        "|" + "---|" * 7,
    ]
    gains: list[tuple[str, str, float]] = []
    for tuning, augment, contrast, encoder, column in sorted(cells):
        against = (tuning, augment if contrast else "none", False, encoder, column)
        if against == (tuning, augment, contrast, encoder, column) or against not in cells:
            continue
        own, base = cells[tuning, augment, contrast, encoder, column], cells[against]
        paired = [own[seed] - base[seed] for seed in sorted(own.keys() & base.keys())]
        if not paired:
            continue
        what = f"{augment} + contrast - {augment}" if contrast else f"{augment} - none"
        spread = f"{stdev(paired):.4f}" if len(paired) > 1 else ""
        positive = f"{sum(d > 0 for d in paired)} of {len(paired)}"
        worse = WORSE if mean(paired) < 0 else ""
        lines.append(
            f"| {what} | {tuning} | {encoder} | {column} | {mean(paired):+.4f}{worse} | {spread} |"
            f" {positive} |"
        )
        if not contrast:
            gains.append((encoder, column, mean(paired)))
    lines.append("")
    for place, name in ((0, "encoder"), (1, "task")):
        for value in sorted({gain[place] for gain in gains}):
            own_gains = [gain[2] for gain in gains if gain[place] == value]
            lines.append(f"Mean gain of augmentation, {name} {value}: {mean(own_gains):+.4f}  ")
    return "\n".join(lines) + "\n"


def _cells(rows: Sequence[Row]) -> dict[tuple[str, str, bool, str, str], dict[int, float]]:
    """Score by cell and seed; of several runs of one seed the last."""
    found: dict[tuple[str, str, bool, str, str], dict[int, float]] = {}
    for row in rows:
        found.setdefault(row.cell, {})[row.seed] = row.score
    return found
