"""`make run TASK=select`: every combination of strategies on development data.

The best is the recipe.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from common.config import UserError, nearest, to_dict
from common.data.text.labelled.glue_tasks import GLUE
from common.engine.lifecycle.find import run_metrics
from common.engine.run import train
from common.engine.workspace import Workspace
from common.files import write_text
from projects.vega.config import Config
from projects.vega.forwarding import strategy, task_words, word
from projects.vega.glue.metrics import TASKS

TRICKS = ("sift", "self_calibration", "transductive")


class Combination(NamedTuple):
    """One strategy: what fine-tuning starts from, and the tricks that are on."""

    start: str
    tricks: tuple[str, ...]

    @property
    def name(self) -> str:
        """For tables and run ids."""
        return "+".join([self.start, *self.tricks])

    def settings(self, weights: str) -> dict[str, Any]:
        """Settings of its runs: the weights of its start, and each trick on or off."""
        # sizes are of random weights
        sizes = {} if weights == "random" else {"model.size": None, "model.tokenizer": None}
        tricks = {f"{trick}.enabled": trick in self.tricks for trick in TRICKS}
        return {"model.pretrained": weights, **sizes, **tricks}


def select(cfg: Config, workspace: Workspace) -> dict[str, Any]:
    """Train every combination with every seed; choose per task by the median dev score.

    ``eval.part=dev`` holds for all runs and for what they adapt to, whatever the config says, so
    that no test part is read; all other settings are the config's. Finished runs of the same
    settings are kept: a broken-off selection goes on. The choice is in selection.json, with the
    settings that `submit` reads.

    Raises:
        UserError: an unknown task, own files for several, or bundled ones for others than sst2.
    """
    starts = cfg.select.starts or {"start": cfg.model.pretrained}
    tasks = cfg.select.tasks or [cfg.data.task]
    for task in tasks:
        if task not in GLUE:
            raise UserError(f"select.tasks: no GLUE task '{task}'{nearest(task, GLUE)}")
    if cfg.data.source == "file" and tasks != [cfg.data.task]:
        raise UserError(
            "data.train_file holds one task: leave select.tasks out and set data.task, not"
            f" select.tasks={tasks}"
        )
    if cfg.data.source == "bundled" and set(tasks) != {"sst2"}:
        raise UserError(
            f"select.tasks={tasks}, but sst2 alone is bundled: put GLUE's files below data.root and"
            " set CONFIG=paper, or data.source=official"
        )
    scores: dict[str, dict[str, list[float]]] = {}
    settings: dict[str, dict[str, Any]] = {}
    for task in tasks:
        by_combination: dict[str, list[float]] = {}
        words = task_words(cfg, workspace, task)
        for combination in combinations(list(starts), cfg.select.tricks, GLUE[task].is_regression):
            start = starts[combination.start]
            settings[combination.name] = combination.settings(start)
            by_combination[combination.name] = [
                _score(cfg, workspace, words, task, combination, start, seed)
                for seed in cfg.select.seeds
            ]
            workspace.say(
                f"{task} {combination.name}: {median(by_combination[combination.name]):.4f}"
            )
        scores[task] = by_combination
    choices = {k: {**v, "settings": settings[v["chosen"]]} for k, v in chosen(scores).items()}
    selection = {
        "measure": "dev_score, median over seeds",
        "seeds": cfg.select.seeds,
        "tasks": choices,
    }
    folder = workspace.folder(".")
    write_text(folder / "selection.json", json.dumps(selection, indent=2) + "\n")
    text = grid(scores)
    write_text(folder / "selection.md", text)
    workspace.say(text)
    return selection


def combinations(
    starts: Sequence[str], tricks: Sequence[str], regression: bool
) -> Iterator[Combination]:
    """{starts} x {each trick on or off}; scores have no classes to calibrate.

    >>> len(list(combinations(["rtd", "rtd_cl"], ["sift", "self_calibration", "transductive"], False)))
    16
    """
    applicable = [t for t in tricks if not (regression and t == "self_calibration")]
    for start, flags in product(starts, product((False, True), repeat=len(applicable))):
        yield Combination(start, tuple(t for t, on in zip(applicable, flags, strict=True) if on))


def chosen(scores: Mapping[str, Mapping[str, Sequence[float]]]) -> dict[str, Any]:
    """Of each task the combination with the largest median.

    Of equal ones that with the fewest tricks.

    Args:
        scores: task -> combination -> development score of every seed.
    """
    choice = {}
    for task, by_combination in scores.items():
        best = min(
            by_combination, key=lambda name: (-median(by_combination[name]), name.count("+"), name)
        )
        medians = {name: median(values) for name, values in by_combination.items()}
        choice[task] = {
            "chosen": best,
            "medians": medians,
            "scores": {k: list(v) for k, v in by_combination.items()},
        }
    return choice


def grid(scores: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Markdown: combinations down, tasks across, medians; the chosen one of a task in bold.

    The last column is the mean over the tasks, GLUE's average where there are all nine.
    """
    choices = chosen(scores)
    tasks = [task for task in TASKS if task in scores]
    names = list(
        dict.fromkeys(name for by_combination in scores.values() for name in by_combination)
    )
    lines = ["| strategy | " + " | ".join(tasks) + " | mean |", "|" + "---|" * (len(tasks) + 2)]
    for name in names:
        values = [choices[task]["medians"].get(name) for task in tasks]
        cells = [
            (
                ""
                if value is None
                else f"**{value:.4f}**"
                if choices[task]["chosen"] == name
                else f"{value:.4f}"
            )
            for task, value in zip(tasks, values, strict=True)
        ]
        present = [value for value in values if value is not None]
        mean = f"{sum(present) / len(present):.4f}" if len(present) == len(tasks) else ""
        lines.append("| " + " | ".join([name, *cells, mean]) + " |")
    return "\n".join(lines) + "\n"


def _score(
    cfg: Config,
    workspace: Workspace,
    words: list[str],
    task: str,
    combination: Combination,
    start: str,
    seed: int,
) -> float:
    """Development score of a run, which is trained unless it is finished."""
    # the settings stand in its name: a selection with other ones is not answered by these scores
    run_id = f"select-{task}-{combination.name}-{seed}-{strategy({**to_dict(cfg), 'start': start})}"
    folder = Path(cfg.runs_dir) / workspace.project / workspace.config / run_id
    if not (folder / "metrics.json").is_file():
        words = [
            *words,
            word("seed", seed),
            word("run_id", run_id),
            *(word(key, value) for key, value in combination.settings(start).items()),
            # a target file would be read alongside the development part
            "eval.part=dev",
            "transductive.part=dev",
            "data.target_file=null",
            *([word("resume", run_id)] if folder.exists() else []),
        ]
        train(workspace.project, workspace.config, words)
    metrics = run_metrics(folder)
    if task == "mnli" and "dev_mm_score" in metrics:
        return (metrics["dev_score"] + metrics["dev_mm_score"]) / 2
    return metrics["dev_score"]
