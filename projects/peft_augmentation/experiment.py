"""Stages, evaluation, export and tasks put together."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor

from common.config import UserError
from common.data.layouts import Layout
from common.encoders.modes import evaluated, untrained
from common.encoders.text.tuned.classifier import TextClassifier, Texts
from common.engine.experiment import Experiment, experiment_of
from common.engine.own_classes import Probabilities, judge_classes
from common.engine.workspace import Workspace
from common.export.tuned_classifier import load_classifier, save_classifier
from projects.peft_augmentation import tasks
from projects.peft_augmentation.classification.evaluation import evaluate_classifier
from projects.peft_augmentation.classification.module import (
    build_classifier,
    labelled_parts,
    scored_part,
)
from projects.peft_augmentation.config import Config
from projects.peft_augmentation.copies import write_copies
from projects.peft_augmentation.module import PeftAugmentation
from projects.peft_augmentation.stages import plan, stages
from projects.peft_augmentation.table import table

PROBES = ("a small cat sleeps", "two men are repairing the roof of an old house")


def experiment(cfg: Config) -> Experiment[PeftAugmentation]:
    """Everything about the classifier."""
    base = experiment_of(
        cfg, stages, evaluate, export, load, embed, plan, {"copies": write_copies, "table": table}
    )
    further = {
        name: partial(task, cfg, experiment=base)
        for name, task in (("analyse", tasks.analyse), ("predict", tasks.predict))
    }
    judges = {Layout.LABELLED: partial(judge_texts, cfg)}
    return replace(base, tasks={**base.tasks, **further}, judges=judges)


def judge_texts(
    cfg: Config, module: PeftAugmentation, workspace: Workspace, path: Path
) -> dict[str, float]:
    """A user's labelled texts, see `judge_classes`.

    Raises:
        UserError: the task is about pairs of texts.
    """
    if module.task.num_texts == 2:
        raise UserError(f"data.task={cfg.data.task} tells pairs apart: eval.own takes single texts")

    def probabilities(classifier: TextClassifier) -> Probabilities:
        def predict(texts: list[Texts]) -> np.ndarray:
            with evaluated(classifier, cfg.trainer.accelerator):
                shares: np.ndarray = classifier.score(texts, cfg.eval.batch_size).softmax(1).numpy()
            return shares

        return predict

    raw = untrained(lambda: build_classifier(cfg), cfg.seed, module.classifier)
    rows = {"": probabilities(module.classifier), "untrained_": probabilities(raw)}
    train = partial(labelled_parts, cfg.data, cfg.seed)
    return judge_classes(rows, lambda: train()[0], module.classifier.classes, workspace, path)


def evaluate(cfg: Config, module: PeftAugmentation, workspace: Workspace) -> dict[str, float]:
    """Scores on the test part and its altered copies; parameters that were trained."""
    metrics = evaluate_classifier(
        module.classifier,
        scored_part(cfg),
        module.task,
        cfg.eval,
        workspace,
        cfg.trainer.accelerator,
    )
    return {**metrics, "trained_parameters": float(module.classifier.num_trained())}


def export(cfg: Config, module: PeftAugmentation, folder: Path) -> None:
    """See `save_classifier`."""
    save_classifier(module.classifier, folder, merge=cfg.export.merge)


def load(cfg: Config, folder: Path) -> PeftAugmentation:
    """See `load_classifier`."""
    return PeftAugmentation(cfg, load_classifier(folder))


def embed(cfg: Config, module: PeftAugmentation) -> dict[str, Tensor]:
    """Vectors and logits of two texts, compared after export and reload."""
    pair = module.task.num_texts == 2
    texts: list[Texts] = [(text, PROBES[0]) if pair else (text,) for text in PROBES]
    vectors = module.classifier.encode(texts)
    return {"vectors": vectors, "logits": module.classifier.score(texts)}
