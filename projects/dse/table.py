"""Teacher, students and baselines of several tasks in one table, with relative degradation."""

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any, NamedTuple

from common.evaluation.text.pair_tasks import relative_degradation

TEACHER, STUDENT, PLAIN = "teacher", "DSE", "student, alpha 0"
ARMS = (TEACHER, STUDENT, "student, alpha 1", PLAIN, "frozen encoder", "BiLSTM", "word vectors")
MAIN = ("accuracy", "pearson")  # of classes, of scores


class Row(NamedTuple):
    """One run: task, arm (of `ARMS`), parts that it was scored on, metrics."""

    task: str
    arm: str
    parts: Sequence[str]
    metrics: Mapping[str, float]


def arm_name(settings: Mapping[str, Any]) -> str:
    """Which arm of the table a run's config is."""
    if settings["train"] == "teacher":
        return TEACHER
    kind, alpha = settings["student"]["pool"]["kind"], settings["distill"]["alpha"]
    if settings["student"]["freeze"]:
        names = {"word_vectors": "word vectors", "bilstm": "BiLSTM"}
        return names.get(kind, "frozen encoder")
    return {0: PLAIN, 1: "student, alpha 1"}.get(alpha, STUDENT)


def degradation_table(rows: Sequence[Row]) -> str:
    """Markdown: a line an arm, a column a task and part, averages, and degradation of the averages.

    Of several runs of one arm and task the mean counts. The average of an arm and its relative
    degradation ``(teacher - arm) / teacher``, averaged over the columns, are given where the arm and
    the teacher have all columns.

    Args:
        rows: runs.
    """
    cells: dict[tuple[str, str], list[float]] = {}
    columns: list[str] = []
    for row in rows:
        for part in row.parts:
            name = next((m for m in MAIN if f"{part}_{m}" in row.metrics), None)
            if name is not None:
                column = f"{row.task} {part} {name}"
                columns += [] if column in columns else [column]
                cells.setdefault((row.arm, column), []).append(row.metrics[f"{part}_{name}"])
    lines = ["| | " + " | ".join([*columns, "average", "relative degradation"]) + " |"]
    lines.append("|" + "---|" * (len(columns) + 3))
    for arm in [name for name in ARMS if any(key[0] == name for key in cells)]:
        values = [mean(cells[arm, c]) if (arm, c) in cells else None for c in columns]
        known = [value for value in values if value is not None]
        average = f"{mean(known):.4f}" if len(known) == len(columns) else ""
        teacher = [mean(cells[TEACHER, c]) for c in columns if (TEACHER, c) in cells]
        loss = ""
        if average and len(teacher) == len(columns) and arm != TEACHER:
            losses = [relative_degradation(t, v) for t, v in zip(teacher, known, strict=True)]
            loss = f"{100 * mean(losses):.2f} %"
        shown = ["" if value is None else f"{value:.4f}" for value in values]
        lines.append("| " + " | ".join([arm, *shown, average, loss]) + " |")
    return "\n".join(lines) + "\n"
