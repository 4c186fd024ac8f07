"""Stages, evaluation, export and tasks put together, of fine-tuning and of pre-training."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from scipy.special import softmax
from torch import Tensor

from common.config import UserError
from common.data.layouts import Layout
from common.data.lookup import data_root
from common.data.text.labelled.readers import Texts
from common.encoders.modes import untrained
from common.engine.experiment import (
    Experiment,
    Plan,
    Requirement,
    bundled_requirement,
    experiment_of,
    weights_requirement,
)
from common.engine.own_classes import Probabilities, judge_classes
from common.engine.workspace import Workspace
from projects.vega import pretraining as pre
from projects.vega import tasks
from projects.vega.config import Config
from projects.vega.evaluate import evaluate, logits_of
from projects.vega.exported import load_finetuned, save_finetuned
from projects.vega.module import FineTune
from projects.vega.network import build_classifier, is_dry
from projects.vega.select import select
from projects.vega.stages import clean_part, stages, training_part
from projects.vega.table import table

PROBES = ("a small cat sleeps", "two men are repairing the roof of an old house")
GLUE_FILES = "glue_data/<TASK>/*.tsv of gluebenchmark.com/tasks"


def finetuning(cfg: Config) -> Experiment[FineTune]:
    """Everything about the classifier."""
    experiment = experiment_of(
        cfg, stages, evaluate, export, load, embed, plan, {"select": select, "table": table}
    )
    further = {
        name: partial(task, cfg, build=finetuning)
        for name, task in (("classify", tasks.classify), ("submit", tasks.submit))
    }
    judges = {Layout.LABELLED: partial(judge_texts, cfg)}
    return replace(experiment, tasks={**experiment.tasks, **further}, judges=judges)


def judge_texts(
    cfg: Config, module: FineTune, workspace: Workspace, path: Path
) -> dict[str, float]:
    """A user's labelled texts, see `judge_classes`; the baselines know the (noisy) training labels.

    Raises:
        UserError: the task is about pairs of texts.
    """
    if module.task.num_texts == 2:
        raise UserError(f"data.task={cfg.data.task} tells pairs apart: eval.own takes single texts")

    def probabilities(classified: FineTune) -> Probabilities:
        return lambda texts: softmax(logits_of(cfg, classified, texts), axis=1)

    raw = untrained(lambda: FineTune(cfg, build_classifier(cfg)), cfg.seed, module)
    rows = {"": probabilities(module), "untrained_": probabilities(raw)}
    classes = module.classifier.classes
    return judge_classes(rows, partial(training_part, cfg), classes, workspace, path)


def pretraining(cfg: Config) -> Experiment[pre.Kept]:
    """Everything about generator and discriminator."""
    return experiment_of(
        cfg, pre.stages, pre.evaluate, pre.export, pre.load, pre.embed, pre.plan, {"table": table}
    )


def export(cfg: Config, module: FineTune, folder: Path) -> None:
    """See `save_finetuned`."""
    save_finetuned(module.classifier, folder)


def load(cfg: Config, folder: Path) -> FineTune:
    """See `load_finetuned`.

    Raises:
        UserError: a classifier of other classes than the config's task.
    """
    classifier = load_finetuned(folder)
    if classifier.classes != cfg.data.glue_task.classes:
        raise UserError(
            f"{folder} tells {', '.join(classifier.classes)}, not the classes of"
            f" data.task={cfg.data.task}"
        )
    return FineTune(cfg, classifier)


def embed(cfg: Config, module: FineTune) -> dict[str, Tensor]:
    """Vectors and logits of two texts, compared after export and reload."""
    pair = module.task.num_texts == 2
    texts: list[Texts] = [(text, PROBES[0]) if pair else (text,) for text in PROBES]
    vectors = module.classifier.encode(texts)
    return {"vectors": vectors, "logits": module.classifier.score(texts)}


def plan(cfg: Config) -> Plan[FineTune]:
    """What `make check` reports on."""

    def forward(module: FineTune, batch_size: int) -> Tensor:
        ids = torch.ones(batch_size, cfg.model.max_length, dtype=torch.long)
        classifier = module.classifier
        logits: Tensor = classifier(input_ids=ids, attention_mask=torch.ones_like(ids))
        return logits.sum()

    count = _count(cfg)
    return Plan(
        lambda: FineTune(cfg, build_classifier(cfg, planned=is_dry())),
        count,
        forward,
        requirements(cfg, count),
    )


def requirements(cfg: Config, count: int) -> tuple[Requirement, ...]:
    """Weights and data that the config needs."""
    needs = [*weights_requirement(cfg.model.pretrained)]
    if cfg.model.tokenizer is not None:
        needs += weights_requirement(cfg.model.tokenizer)
    if cfg.data.source == "bundled":
        needs.append(bundled_requirement("sst2-sentences"))
    elif cfg.data.source != "synthetic":
        name = cfg.data.train_file or f"glue_data/{cfg.data.glue_task.files['train']}"
        where = str(data_root(cfg.data.root) / name)
        needs.append(Requirement(f"data: GLUE's {cfg.data.task}", where, bool(count), GLUE_FILES))
    return tuple(needs)


def _count(cfg: Config) -> int:
    """Training examples; 0 where they are not here."""
    try:
        return len(clean_part(cfg))
    except UserError:
        return 0
