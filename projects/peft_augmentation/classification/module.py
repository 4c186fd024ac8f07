"""Parts of the data, the classifier of a config, and the Lightning module that a project gives a loss."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from common.config import OptimConfig, UserError
from common.data.text.labelled.readers import LabelledSet, Texts, distinct, read_labelled
from common.data.text.labelled.subsets import low_resource
from common.data.text.labelled.tasks import LabelledTask
from common.distributed.process import gather_objects
from common.encoders.modes import untrained
from common.encoders.pretrained import ARCHITECTURES, stand_in
from common.encoders.text.tuned.classifier import TextClassifier, Tuning, text_classifier
from common.engine.module import ContrastiveModule
from common.evaluation.text.classes import score_classes
from projects.peft_augmentation.classification.config import LabelledData, TuningConfig
from projects.peft_augmentation.classification.protocol import ClassificationConfig


class ClassifierModule(ContrastiveModule):
    """A text classifier with the loss of a project; validated by the task's metric.

    Args:
        optim: optimiser section of the config.
        classifier: what is trained, evaluated and exported.
        task: decides the metric that selects a checkpoint.

    Distributed: local, unless the project's loss says otherwise.
    """

    in_batch_negatives = False

    def __init__(self, optim: OptimConfig, classifier: TextClassifier, task: LabelledTask) -> None:
        super().__init__(optim)
        self.classifier, self.task = classifier, task
        self._seen: list[tuple[list[Texts], Tensor]] = []

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Collect."""
        self._seen.append(batch)

    def on_validation_epoch_end(self) -> None:
        """Log the metric over the texts of all ranks, as ``val/score``."""
        texts = [row for part, _ in self._seen for row in part]
        labels = torch.cat([labels for _, labels in self._seen]).cpu()
        self._seen = []
        found = gather_objects((self.classifier.score(texts).argmax(1), labels))
        told, gold = (torch.cat(list(side)).numpy() for side in zip(*found, strict=True))
        metrics = score_classes(told, gold, len(self.classifier.classes))
        self.log("val/score", metrics[self.task.metric])


def labelled_parts(data: LabelledData, seed: int) -> tuple[LabelledSet, LabelledSet | None]:
    """Training and development examples of a config: both of the training part, without a common row.

    Raises:
        UserError: see `read_labelled` and `low_resource`.
    """
    pool = read_labelled(data.labelled_task, "train", data.root, data.files("train"))
    if data.examples is None and not data.dev_examples:
        return pool, None
    pool = distinct(pool)
    train = len(pool) - data.dev_examples if data.examples is None else data.examples
    first, second = low_resource(pool.labels, train, data.dev_examples, seed, data.balance)
    return pool.subset(first), pool.subset(second) if len(second) else None


def scored_part(cfg: ClassificationConfig) -> LabelledSet:
    """What is reported on: the test part (of GLUE the development part, whose labels are public).

    With ``eval.part=dev`` the development examples, so that pilots leave the test part alone.

    Raises:
        UserError: no development examples, or a label of an own test file that training has not;
            see `read_labelled`.
    """
    data, task = cfg.data, cfg.data.labelled_task
    if cfg.eval.part == "test":
        if task.name == "file":  # the logits have the order of the training file's classes
            task = replace(task, labels=class_names(data))
        return read_labelled(task, task.test_part, data.root, data.files("test"))
    dev = labelled_parts(data, cfg.seed)[1]
    if dev is None:
        raise UserError("eval.part=dev needs data.dev_examples")
    return dev


def class_names(data: LabelledData) -> tuple[str, ...]:
    """Classes in the order of the logits; read from the data where the task names none."""
    own = data.labelled_task.labels
    return own or read_labelled(data.labelled_task, "train", data.root, data.files("train")).classes


def tuning_of(cfg: TuningConfig) -> Tuning:
    """The config's tuning."""
    return Tuning(
        cfg.kind,
        cfg.prefix_length,
        cfg.projection_dim,
        cfg.prefix_dropout,
        cfg.shift_positions,
        cfg.rank,
        cfg.alpha,
        cfg.lora_dropout,
        tuple(cfg.targets),
    )


def build_classifier(cfg: ClassificationConfig, planned: bool = False) -> TextClassifier:
    """The classifier before training, from the global random state.

    Args:
        cfg: the experiment's config.
        planned: stand in random weights of the same shape where the weights are not here.

    Raises:
        UserError: see `text_classifier`.
    """
    own = cfg.model
    absent = stand_in(own.pretrained, ARCHITECTURES) if planned else None
    return text_classifier(
        own.pretrained if absent is None else "random",
        class_names(cfg.data),
        tuning_of(cfg.tuning),
        config=own.config if absent is None else absent,
        layers=own.layers,
        pooling=own.pooling,
        dropout=own.dropout,
        head_dropout=own.head_dropout,
        attention=own.attention,
        max_length=own.max_length,
    )


def first_classifier(cfg: ClassificationConfig) -> TextClassifier:
    """The classifier as training begins, in training mode, whatever was drawn before it."""
    return untrained(lambda: build_classifier(cfg), cfg.seed).train()
