"""Scores on the test part as it is and on altered copies of it, and how well the vectors tell classes apart."""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from common.data.text.labelled.readers import LabelledSet, Texts
from common.data.text.labelled.tasks import LabelledTask
from common.encoders.modes import evaluated
from common.encoders.text.tuned.classifier import TextClassifier
from common.engine.workspace import Workspace
from common.evaluation.text.classes import score_classes
from projects.peft_augmentation.augmentation.copies import text_rng
from projects.peft_augmentation.augmentation.eda import altered
from projects.peft_augmentation.classification.config import ClassifierEval
from projects.peft_augmentation.separation import class_separation

_log = logging.getLogger(__name__)

ALTERATION_SEED = 7  # of the altered test copies, which are the same for all runs


def altered_texts(data: LabelledSet, task: LabelledTask, alpha: float) -> list[Texts]:
    """The texts with a share of their words swapped and deleted, see `altered`.

    The same in every run.

    Of a pair only the texts that may be reworded are altered.
    """
    return [
        tuple(
            (
                altered(text, alpha, text_rng(ALTERATION_SEED, place, text))
                if place in task.reworded
                else text
            )
            for place, text in enumerate(texts)
        )
        for texts in data.texts
    ]


def copies_of(
    data: LabelledSet, task: LabelledTask, alphas: Sequence[float]
) -> dict[str, list[Texts]]:
    """The test texts by suffix of their metrics: "" as they are, ``_altered_0.3``, ..."""
    return {"": data.texts, **{f"_altered_{a:g}": altered_texts(data, task, a) for a in alphas}}


def evaluate_classifier(
    classifier: TextClassifier,
    data: LabelledSet,
    task: LabelledTask,
    options: ClassifierEval,
    workspace: Workspace | None = None,
    accelerator: str = "cpu",
) -> dict[str, float]:
    """``<part>_<metric>`` on the texts as they are, ``<part>_<metric>_altered_<alpha>`` on their copies.

    ``robustness_<alpha>`` is accuracy(alpha) - accuracy of the texts as they are. What
    ``eval.separation`` adds is left out of texts of one class, or of as many classes as texts.

    Args:
        classifier: in any mode.
        data: what is scored.
        task: its kind.
        options: batch size, alterations, whether vectors are analysed.
        workspace: where the items of the accuracies are left; None: nowhere.
        accelerator: ``cfg.trainer.accelerator``.
    """
    metrics: dict[str, float] = {}
    labels = torch.as_tensor(data.labels)
    classes = len(set(labels.tolist()))
    separable = options.separation and 2 <= classes < len(labels)
    if options.separation and not separable:
        _log.warning(
            "eval.separation is left out: it needs two to N - 1 classes, and the %d texts have %d",
            len(labels),
            classes,
        )
    for suffix, texts in copies_of(data, task, options.alterations).items():
        with evaluated(classifier, accelerator):
            vectors = classifier.encode(texts, options.batch_size)
            told = classifier.logits_of(vectors).argmax(1)
        found = score_classes(told.numpy(), data.labels, len(data.classes))
        if separable:
            found |= class_separation(vectors, labels)
        metrics |= {f"{options.part}_{name}{suffix}": value for name, value in found.items()}
        if suffix:
            metrics[f"robustness{suffix.removeprefix('_altered')}"] = (
                found["accuracy"] - metrics[f"{options.part}_accuracy"]
            )
        if workspace is not None:
            workspace.items(f"{options.part}_accuracy{suffix}", told.eq(labels).float().tolist())
    metrics[f"{options.part}_accuracy_chance"] = float(labels.bincount().max() / len(labels))
    return metrics


def embedded(
    classifier: TextClassifier, texts: Sequence[Texts], accelerator: str, batch_size: int
) -> Tensor:
    """Sentence vectors (N, D) on the CPU."""
    with evaluated(classifier, accelerator):
        return classifier.encode(texts, batch_size)
