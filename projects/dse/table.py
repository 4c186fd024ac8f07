"""Teacher, students and baselines of several tasks in one table, with relative degradation."""

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any, NamedTuple

from common.engine.lifecycle.settings import leaves
from projects.dse.pair_tasks import relative_degradation

TEACHER, STUDENT, PLAIN = "teacher", "DSE", "student, alpha 0"
# in the order of the table; variants such as "DSE, dot head" follow
ARMS = (TEACHER, STUDENT, "student, alpha 1", PLAIN, "frozen encoder", "BiLSTM", "word vectors")
BASELINES = {"word_vectors": "word vectors", "bilstm": "BiLSTM"}
# what runs of one arm and task may differ in
FREE = (
    "seed",
    "run_id",
    "runs_dir",
    "resume",
    "tracking",
    "eval",
    "score",
    "rank",
    "table",
    "task",
    "data.num_workers",
    "trainer.num_threads",
    "trainer.accelerator",
    "trainer.log_every",
    "trainer.checkpoint_every",
    "trainer.keep",
)
# what does not train a teacher, which has a section of its own; and what a student without one
# leaves out
TEACHERS = ("teacher", "distill")
STUDENTS = (
    "student",
    "distill",
    "data.batch_size",
    "data.max_length",
    "trainer.max",
    "trainer.accumulate",
    "optim.lr",
    "optim.weight",
    "optim.schedule",
    "optim.warmup",
    "optim.final",
    "optim.decay",
)
MAIN = ("accuracy", "pearson")  # of classes, of scores


class Row(NamedTuple):
    """One run: task, arm (see `arm_name`), parts that it was scored on, metrics."""

    task: str
    arm: str
    parts: Sequence[str]
    metrics: Mapping[str, float]


def arm_name(settings: Mapping[str, Any]) -> str:
    """Which arm of the table a run's config is: one of `ARMS`, or a variant of it."""
    if settings["train"] == "teacher":
        return TEACHER
    student, alpha = settings["student"], settings["distill"]["alpha"]
    kind = student["pool"]["kind"]
    names = {0: PLAIN, 0.5: STUDENT}
    parts = [names.get(alpha, f"student, alpha {alpha:g}")]
    if student["freeze"] and alpha == 0:
        parts = [BASELINES.get(kind, "frozen encoder")]
    elif student["freeze"]:
        parts.append("frozen")
    if kind != "concat_top_mean" and parts != [BASELINES.get(kind)]:
        parts.append(kind)
    return ", ".join([*parts, "dot head"] if student["head"]["kind"] == "dot" else parts)


def mixed_settings(arm: str, runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys in which the configs of one arm's runs differ, but for seeds, places and evaluation.

    What an arm does not use (the student of a teacher, the teacher of a student without one) is
    free.
    """
    unused = STUDENTS if arm == TEACHER else TEACHERS if runs[0]["distill"]["alpha"] == 0 else ()
    free: tuple[str, ...] = (*FREE, *unused)
    flat = [leaves(run) for run in runs]
    keys = dict.fromkeys(key for run in flat for key in run if not key.startswith(free))
    return [key for key in keys if any(run.get(key) != flat[0].get(key) for run in flat)]


def degradation_table(rows: Sequence[Row]) -> str:
    """Markdown: a line an arm, a column a task and part, averages, and degradation of the averages.

    Of several runs (seeds) of one arm and task the mean counts. The average of an arm and its
    relative degradation ``(teacher - arm) / teacher`` are means over tasks, of the mean over a
    task's parts (dev and dev_mm of MNLI weigh as much as the one part of another task). They are
    given where the arm and the teacher have all columns; no degradation from a teacher that is not
    above 0.

    Args:
        rows: runs.
    """
    cells: dict[tuple[str, str], list[float]] = {}
    columns: dict[str, str] = {}  # name -> task
    for row in rows:
        for part in row.parts:
            name = next((m for m in MAIN if f"{part}_{m}" in row.metrics), None)
            if name is not None:
                column = f"{row.task} {part} {name}"
                columns[column] = row.task
                cells.setdefault((row.arm, column), []).append(row.metrics[f"{part}_{name}"])
    lines = ["| | " + " | ".join([*columns, "average", "relative degradation"]) + " |"]
    lines.append("|" + "---|" * (len(columns) + 3))
    for arm in sorted(dict.fromkeys(key[0] for key in cells), key=_place):
        values = [mean(cells[arm, c]) if (arm, c) in cells else None for c in columns]
        present = [value for value in values if value is not None]
        average = f"{_over_tasks(columns, present):.4f}" if len(present) == len(columns) else ""
        teacher = [mean(cells[TEACHER, c]) for c in columns if (TEACHER, c) in cells]
        loss = ""
        if average and len(teacher) == len(columns) and arm != TEACHER and min(teacher) > 0:
            losses = [relative_degradation(t, v) for t, v in zip(teacher, present, strict=True)]
            loss = f"{100 * _over_tasks(columns, losses):.2f} %"
        shown = ["" if value is None else f"{value:.4f}" for value in values]
        lines.append("| " + " | ".join([arm, *shown, average, loss]) + " |")
    return "\n".join(lines) + "\n"


def _over_tasks(columns: Mapping[str, str], values: Sequence[float]) -> float:
    """Mean over tasks of the mean over a task's columns."""
    tasks: dict[str, list[float]] = {}
    for task, value in zip(columns.values(), values, strict=True):
        tasks.setdefault(task, []).append(value)
    return mean(mean(scores) for scores in tasks.values())


def _place(arm: str) -> tuple[int, str]:
    """Arms in their order, variants by name after them."""
    return (ARMS.index(arm) if arm in ARMS else len(ARMS)), arm
