"""`make run`: tunings side by side on altered data, and classes of the user's own texts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.config import UserError
from common.data.text.labelled.readers import texts_of_lines
from common.encoders.modes import evaluated
from common.encoders.text.tuned.classifier import TextClassifier, Texts
from common.engine.experiment import Experiment
from common.engine.lifecycle.find import finished_runs, run_settings
from common.engine.workspace import Workspace
from common.files import write_text
from projects.peft_augmentation.classification.evaluation import (
    copies_of,
    embedded,
    evaluate_classifier,
)
from projects.peft_augmentation.classification.module import scored_part
from projects.peft_augmentation.config import Config
from projects.peft_augmentation.module import PeftAugmentation

COLUMNS = ("accuracy", "silhouette", "separation_ratio")


def analyse(cfg: Config, workspace: Workspace, experiment: Experiment[PeftAugmentation]) -> str:
    """Accuracy, silhouette and distances on original and altered test copies, one column a run.

    Without ``analyse.runs`` the newest runs of P-tuning and of full fine-tuning of this config are
    set side by side. The test part and the alterations are those of the config.

    Raises:
        UserError: no such runs, runs of other classes, or no ``eval.alterations``.
    """
    from common.engine.trained import trained_module

    if not cfg.eval.alterations:
        raise UserError("set eval.alterations, such as [0.1, 0.3, 0.5]: there is nothing to alter")
    names = cfg.analyse.runs or newest_pair(
        Path(cfg.runs_dir) / workspace.project / workspace.config
    )
    data, task = scored_part(cfg), cfg.data.labelled_task
    columns: dict[str, dict[str, float]] = {}
    vectors: dict[str, Tensor] = {}
    heavy = f"_altered_{max(cfg.eval.alterations):g}"
    for name in names:
        module, _ = trained_module(experiment, workspace, name, cfg.runs_dir)
        classifier = module.classifier
        if classifier.classes != data.classes:
            raise UserError(
                f"{name} was trained on the classes {', '.join(classifier.classes[:4])}, ..., not"
                f" on those of data.task={cfg.data.task}"
            )
        label = f"{len(columns) + 1} {classifier.tuning.kind}"
        columns[label] = evaluate_classifier(
            classifier, data, task, cfg.eval, accelerator=cfg.trainer.accelerator
        )
        for suffix, texts in copies_of(data, task, [max(cfg.eval.alterations)]).items():
            what = "altered" if suffix else "original"
            some = texts[: cfg.analyse.points]
            vectors[f"{label}, {what}"] = embedded(
                classifier, some, cfg.trainer.accelerator, cfg.eval.batch_size
            )
    text = side_by_side(
        columns, ["", *(f"_altered_{a:g}" for a in cfg.eval.alterations)], cfg.eval.part
    )
    write_text(workspace.folder(".") / "analysis.md", text)
    workspace.say(text)
    if cfg.analyse.figure:
        labels = torch.as_tensor(data.labels)[: cfg.analyse.points]
        workspace.figure(f"tsne{heavy}", tsne_maps(vectors, labels, cfg.seed))
    return text


def side_by_side(
    columns: dict[str, dict[str, float]], suffixes: Sequence[str], part: str = "test"
) -> str:
    """Markdown: a line a measure and alteration, a column a run."""
    lines = [
        "| test copy | measure | " + " | ".join(columns) + " |",
        "|---|---|" + "---|" * len(columns),
    ]
    for suffix in suffixes:
        copy = suffix.removeprefix("_altered_") or "as written"
        for name in COLUMNS:
            key = f"{part}_{name}{suffix}"
            if all(key in column for column in columns.values()):
                shown = " | ".join(f"{column[key]:.4f}" for column in columns.values())
                lines.append(f"| {copy} | {name} | {shown} |")
    return "\n".join(lines) + "\n"


def newest_pair(folder: Path) -> list[str]:
    """The newest finished runs of prefix tuning and of full fine-tuning below a config's folder.

    Raises:
        UserError: one of them is missing.
    """
    newest: dict[str, str] = {}
    finished = finished_runs([], folder.parents[1], folder.parent.name)
    runs = (run for run in finished if run.parent == folder)
    for run in sorted(runs, key=lambda run: (run / "metrics.json").stat().st_mtime):
        tuning = run_settings(run)["tuning"]
        if tuning["kind"] != "prefix" or tuning["prefix_length"]:  # 0 is the linear probe
            newest[tuning["kind"]] = str(run)
    missing = [kind for kind in ("prefix", "full") if kind not in newest]
    if missing:
        raise UserError(
            f"no finished run with tuning.kind={missing[0]} in {folder}: train one, or name"
            " analyse.runs"
        )
    return [newest["prefix"], newest["full"]]


def predict(
    cfg: Config, workspace: Workspace, experiment: Experiment[PeftAugmentation]
) -> list[str]:
    """Classes of the lines of a file; also written to predictions.tsv.

    Raises:
        UserError: no trained run, no file, or lines that are no pairs where the task has pairs.
    """
    from common.engine.trained import trained_module

    task = cfg.predict
    module, _ = trained_module(experiment, workspace, task.run, cfg.runs_dir)
    texts = texts_of_lines(task.input, module.task.num_texts, "predict.input")
    classifier = module.classifier
    if cut := num_cut(classifier, texts):
        workspace.say(
            f"{cut} of {len(texts)} rows are cut to {classifier.max_length} pieces: the model reads"
            " no more"
        )
    with evaluated(classifier, cfg.trainer.accelerator):
        labels = classifier.predict(texts, cfg.eval.batch_size)
    lines = ["\t".join([label, *row]) for label, row in zip(labels, texts, strict=True)]
    path = workspace.folder(".") / "predictions.tsv"
    write_text(path, "\n".join(lines) + "\n")
    for line in lines:
        workspace.say(line)
    return labels


def num_cut(classifier: TextClassifier, texts: Sequence[Texts]) -> int:
    """Rows of which `TextClassifier.rows` leaves something out."""
    whole = classifier.tokenizer(*(list(side) for side in zip(*texts, strict=True)), verbose=False)
    return sum(len(ids) > classifier.max_length for ids in whole["input_ids"])


def tsne_maps(sets: Mapping[str, Tensor], labels: Tensor, seed: int = 0) -> Any:
    """Figure of t-SNE maps side by side, one for each set of vectors of the same samples.

    Source: van der Maaten and Hinton 2008, "Visualizing data using t-SNE" (by scikit-learn,
    cosine).

    Args:
        sets: title -> (N, D), N >= 4.
        labels: (N,) int classes, which colour the points.
        seed: of the start.

    Returns:
        A matplotlib figure for ``Workspace.figure``.
    """
    from matplotlib.figure import Figure
    from sklearn.manifold import TSNE

    figure = Figure(figsize=(4 * len(sets), 4))
    all_axes = figure.subplots(1, len(sets), squeeze=False)[0]
    for axes, (title, x) in zip(all_axes, sets.items(), strict=True):
        perplexity = min(30.0, (len(x) - 1) / 3)
        mapping = TSNE(metric="cosine", init="random", perplexity=perplexity, random_state=seed)
        points = mapping.fit_transform(x.float().cpu().numpy())
        axes.scatter(
            points[:, 0], points[:, 1], s=6, c=labels.cpu().numpy(), cmap="tab20", linewidths=0
        )
        axes.set_title(title)
        axes.set_xticks([])
        axes.set_yticks([])
    return figure
