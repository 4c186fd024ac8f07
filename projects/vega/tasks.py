"""`make run`: labels of the user's own texts, and submission files for GLUE's leaderboard."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from common.config import UserError, load
from common.data.text.labelled.glue_tasks import GLUE
from common.data.text.labelled.readers import texts_of_lines
from common.engine.experiment import Experiment
from common.engine.lifecycle.find import is_trained, run_settings
from common.engine.lifecycle.settings import leaves
from common.engine.run import train
from common.engine.trained import load_module, trained_module
from common.engine.workspace import Workspace, read_json, run_folder
from common.files import write_text
from projects.vega.config import Config
from projects.vega.evaluate import logits_of
from projects.vega.forwarding import strategy, target_of, task_words, word
from projects.vega.glue.metrics import glue_average, glue_metrics
from projects.vega.glue.reading import read_inputs, read_part
from projects.vega.glue.submission import write_submission
from projects.vega.module import FineTune

# the experiment of a config: `projects.vega.experiment.finetuning`
Build = Callable[[Config], Experiment[FineTune]]


def classify(cfg: Config, workspace: Workspace, build: Build) -> list[str]:
    """Labels of the lines of a file with their probabilities (scores of STS-B).

    Also in predictions.tsv.

    Raises:
        UserError: no trained run, no file, or lines that are no pairs where the task has pairs.
    """
    settings = cfg.classify
    module, _ = trained_module(build(cfg), workspace, settings.run, cfg.runs_dir)
    texts = texts_of_lines(settings.input, module.task.num_texts, "classify.input")
    logits = logits_of(cfg, module, texts)
    if module.task.is_regression:
        labels = [f"{x:.3f}" for x in logits[:, 0]]
        lines = ["\t".join([label, *row]) for label, row in zip(labels, texts, strict=True)]
    else:
        shares = np.exp(logits - logits.max(1, keepdims=True))
        shares /= shares.sum(1, keepdims=True)
        labels = [module.classifier.classes[i] for i in shares.argmax(1)]
        lines = [
            "\t".join([label, f"{p:.3f}", *row])
            for label, p, row in zip(labels, shares.max(1), texts, strict=True)
        ]
    path = workspace.folder(".") / "predictions.tsv"
    write_text(path, "\n".join(lines) + "\n")
    for line in lines:
        workspace.say(line)
    return labels


def submit(cfg: Config, workspace: Workspace, build: Build) -> Path:
    """One file a task in the leaderboard's format, of all nine tasks; returns the folder.

    Every task takes its newest finished run of the project (or those that ``submit.runs`` names),
    of runs with transductive rounds one that was adapted to the part that is submitted, and where
    `select` chose a combination for the task one of that; runs of the selection itself are not
    sent. ``submit.train=true`` trains what is missing with this config and its overrides. With
    ``submit.parts=dev`` the same files of the parts with public labels, their scores and the
    average: a rehearsal.

    Raises:
        UserError: a task without such a run, or own files, which hold one task.
    """
    parts = cfg.submit.parts
    if cfg.data.source == "file":
        raise UserError(
            "submit reads the inputs of all nine tasks, data.source=file holds one: set"
            " data.source=official data.train_file=null data.dev_file=null data.target_file=null"
        )
    unknown = sorted(set(cfg.submit.runs) - set(GLUE))
    if unknown:
        raise UserError(f"submit.runs: no GLUE task '{unknown[0]}'; there are {', '.join(GLUE)}")
    runs = {name: runs_of(cfg, workspace, name) for name in GLUE}
    missing = [name for name, run_ids in runs.items() if not run_ids]
    if missing and not cfg.submit.train:
        choices = {name: selected(cfg, workspace, name)[0] for name in missing}
        names = ", ".join(
            f"{name} ({run_ids}, chosen by select)" if run_ids else name
            for name, run_ids in choices.items()
        )
        raise UserError(
            f"no finished run of {names}: train them (make train PROJECT=vega data.task=..."
            f" transductive.part={parts}), name them in submit.runs, or set submit.train=true"
        )
    for name in missing:
        words = [
            *task_words(cfg, workspace, name),
            f"transductive.part={parts}",
            "data.target_file=null",
        ]
        words += [word(key, value) for key, value in selected(cfg, workspace, name)[1].items()]
        runs[name] = [str(train(workspace.project, workspace.config, words))]
    folder = workspace.folder(f"submission-{parts}")
    scores: dict[str, float] = {}
    for name, run_ids in runs.items():
        workspace.say(f"{name}: {', '.join(run_ids)}")
        scores |= _write_task(cfg, workspace, build, name, run_ids, folder)
    if scores:
        average = glue_average(scores)
        text = json.dumps({"vega-like": {**scores, "average": average}}, indent=2)
        write_text(folder / "scores.json", text + "\n")
        workspace.say(text)
    workspace.say(f"submission files: {folder}")
    return folder


def _write_task(
    cfg: Config,
    workspace: Workspace,
    build: Build,
    name: str,
    runs: list[str],
    folder: Path,
) -> dict[str, float]:
    """Files of one task; scores of parts with public labels."""
    task, kind = GLUE[name], cfg.submit.parts
    modules = [_module_of(cfg, workspace, build, run, name) for run in runs]
    parts = (
        [part for part in task.files if part.startswith(kind)]
        if cfg.data.source == "official"
        else [kind]
    )
    scores = {}
    for part in parts:
        try:
            data = read_inputs(task, part, cfg.data.root, cfg.data.source)
        except UserError as error:
            if part != "test_ax":
                raise
            workspace.say(f"AX.tsv is left out, which the leaderboard asks for: {error}")
            continue
        logits = np.mean([logits_of(cfg, module, data.texts) for module in modules], 0)
        write_submission(folder, task, part.replace("dev", "test"), data.index, logits)
        if kind == "dev":
            gold = read_part(task, part, cfg.data.root, cfg.data.source)
            labelled = set(gold.texts)
            kept = [i for i, texts in enumerate(data.texts) if texts in labelled]
            predicted = (logits[:, 0] if task.is_regression else logits.argmax(1))[kept]
            scores[name + part.removeprefix("dev")] = glue_metrics(name, predicted, gold.labels)[
                "score"
            ]
    return scores


def _module_of(cfg: Config, workspace: Workspace, build: Build, which: str, name: str) -> FineTune:
    """The classifier of a run or of an exported folder, which must be of the task."""
    place = Path(which)
    if place.is_dir() and not (place / "meta.json").exists():
        words = task_words(cfg, workspace, name)
        return load_module(build(load(Config, workspace.project, workspace.config, words)), place)
    module, run = trained_module(build(cfg), workspace, which, cfg.runs_dir)
    if module.task.name != name:
        raise UserError(f"submit.runs: {run} is a run of {module.task.name}, not of {name}")
    return module


def selected(cfg: Config, workspace: Workspace, name: str) -> tuple[str, dict[str, Any]]:
    """Name and settings of what `select` chose for a task with this config; empty if nothing."""
    path = run_folder(cfg, workspace.project, workspace.config) / "task-select/selection.json"
    entry = read_json(path)["tasks"].get(name, {}) if path.is_file() else {}
    return entry.get("chosen", ""), entry.get("settings", {})


def runs_of(cfg: Config, workspace: Workspace, name: str) -> list[str]:
    """The named run of a task; else the newest finished run and its other seeds.

    Where `select` chose a combination for the task, a run of that.
    """
    if name in cfg.submit.runs:
        return [cfg.submit.runs[name]]
    newest_runs: dict[str, dict[int, str]] = {}  # strategy -> seed -> newest run
    newest: tuple[str, int] | None = None
    _, chosen_settings = selected(cfg, workspace, name)
    finished = (Path(cfg.runs_dir) / workspace.project).glob("*/*/metrics.json")
    for path in sorted(finished, key=lambda p: p.stat().st_mtime):
        if path.parent.name.startswith("select-") or not is_trained(path.parent):
            continue
        settings = run_settings(path.parent)
        flat = leaves(settings)
        matches = settings.get("train") == "finetune" and settings["data"]["task"] == name
        matches = matches and settings["data"]["source"] == cfg.data.source
        matches = matches and all(flat.get(key) == value for key, value in chosen_settings.items())
        if matches and target_of(settings) in (None, cfg.submit.parts):
            newest = strategy(settings), int(settings["seed"])
            newest_runs.setdefault(newest[0], {})[newest[1]] = str(path.parent)
    if newest is None:
        return []
    same = newest_runs[newest[0]]
    return list(same.values()) if cfg.submit.average else [same[newest[1]]]
