"""Modules on labelled pairs: the cross-encoder as teacher, as scorer, or by itself."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.config import OptimConfig
from common.data.module import ContrastiveData
from common.data.text.pairs.readers import PairSet, limited, read_pairs
from common.data.text.pairs.tasks import PairTask
from common.distributed.process import gather_objects
from common.encoders.length_groups import in_length_groups
from common.encoders.text.cross_encoder import CrossEncoder, cross_encoder
from common.engine.experiment import Stage
from common.engine.module import ContrastiveModule
from projects.dse.pair_batches import EvaluationPairs, SequencePairs
from projects.dse.pair_config import ClassifierConfig, PairData
from projects.dse.pair_task_losses import pair_task_loss
from projects.dse.pair_tasks import main_score, score_pair_task

Pair = tuple[str, str]


class PairModule(ContrastiveModule):
    """Anything that gives logits to pairs of texts; validated on a development part.

    A subclass implements `pair_logits`. Validation logs ``val/pair_score``, see `main_score`.

    Args:
        optim: optimiser section of the config.
        task: what pairs are labelled with.
        thresholds: see `score_pair_task`.
    """

    in_batch_negatives = False

    def __init__(
        self, optim: OptimConfig, task: PairTask, thresholds: Sequence[float] = (0.5,)
    ) -> None:
        super().__init__(optim)
        self.task, self.thresholds = task, list(thresholds)
        self._seen: list[tuple[list[Pair], Tensor]] = []

    def pair_logits(self, pairs: Sequence[Pair], batch_size: int = 128) -> Tensor:
        """Logits (N, C) of pairs in evaluation mode, float32 on the CPU."""
        raise TypeError(f"{type(self).__name__} must implement pair_logits(pairs)")

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Collect; all pairs are scored together, so that each distinct text is read once."""
        first, second, labels = batch
        self._seen.append((list(zip(first, second, strict=True)), labels))

    def on_validation_epoch_end(self) -> None:
        """Log the score over the pairs of all ranks."""
        pairs = [pair for part, _ in self._seen for pair in part]
        labels = torch.cat([labels for _, labels in self._seen]).float().cpu()
        self._seen = []
        gathered = gather_objects((self.pair_logits(pairs).numpy(), labels.numpy()))
        logits, gold = (
            torch.cat([torch.as_tensor(x) for x in side]).numpy()
            for side in zip(*gathered, strict=True)
        )
        metrics = score_pair_task(logits, gold, self.task.kind, self.thresholds)
        self.log("val/pair_score", main_score(metrics, self.task.kind))


class PairClassifier(PairModule):
    """A cross-encoder on pairs: [CLS] A [SEP] B [SEP] -> one logit a class, or a score.

    Two classes have two logits and cross-entropy, as every classifier of transformers has.

    Source: Devlin et al. 2019, section 4.1, arXiv 1810.04805.

    Args:
        optim: optimiser settings.
        classifier: what is trained.
        task: what pairs are labelled with.
        thresholds: see `score_pair_task`.
        length_groups: passes over a training batch, see `in_length_groups`.

    Distributed: local.
    """

    def __init__(
        self,
        optim: OptimConfig,
        classifier: CrossEncoder,
        task: PairTask,
        thresholds: Sequence[float] = (0.5,),
        length_groups: int = 1,
    ) -> None:
        super().__init__(optim, task, thresholds)
        self.classifier, self.length_groups = classifier, length_groups

    def losses(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Loss, and accuracy of classes."""
        logits = in_length_groups(self.classifier, self.length_groups, **batch["pairs"]).float()
        labels = batch["labels"]
        if self.task.kind == "regression":
            return {"loss": pair_task_loss(logits, labels, "regression")}
        classes = labels if labels.ndim == 1 else labels[:, 0].long()
        loss = pair_task_loss(logits, classes, "multiclass")
        return {"loss": loss, "accuracy": logits.argmax(1).eq(classes).float().mean()}

    def pair_logits(self, pairs: Sequence[Pair], batch_size: int = 128) -> Tensor:
        """Logits (N, C) with one column for two classes, see `binary_logit`."""
        logits = self.classifier.score(pairs, batch_size).float()
        return binary_logit(logits if logits.ndim == 2 else logits[:, None], self.task)


def binary_logit(logits: Tensor, task: PairTask) -> Tensor:
    """Logits (N, C) of a classifier as a task wants them: of two classes the difference t_1 - t_0.

    sigmoid of the difference is the softmax's probability of class 1.

    Source: Barkan et al. 2020, released code, arXiv 1908.05161.

    Args:
        logits: one column a class; or a single one, which stays as it is.
        task: kind.

    Raises:
        ValueError: logits that do not belong to the task.

    >>> from common.data.text.pairs.tasks import TASKS
    >>> binary_logit(torch.tensor([[1.0, 4.0]]), TASKS["mrpc"])
    tensor([[3.]])
    """
    if task.kind == "binary" and logits.shape[1] == 2:
        return logits[:, 1:] - logits[:, :1]
    if logits.shape[1] != task.num_logits:
        raise ValueError(
            f"{logits.shape[1]} logits a pair; the task {task.name} has {task.num_logits}"
        )
    return logits


def build_classifier(
    cfg: ClassifierConfig, task: PairTask, max_length: int | None = None
) -> CrossEncoder:
    """The cross-encoder of a config, before training if it is to be trained.

    Raises:
        UserError: see `cross_encoder`; weights that are to be kept and have another number of
            classes.
    """
    classifier = cross_encoder(
        cfg.pretrained,
        num_labels=task.num_teacher_logits,
        head=cfg.head,
        config=cfg.config,
        attention=cfg.attention,
        max_length=max_length or cfg.max_length,
        cut="longest",
        pooling=cfg.pooling,
    )
    if cfg.head == "new" and task.labels:
        names = dict(enumerate(task.labels))
        classifier.model.config.id2label, classifier.model.config.label2id = (
            names,
            {v: k for k, v in names.items()},
        )
    return classifier


def label_order(classifier: CrossEncoder, task: PairTask) -> list[int]:
    """Columns of a classifier's logits in the order of the task's labels, by its own label names.

    A classifier whose names are others (LABEL_0, ...) is taken to have the task's order.
    """
    named = getattr(classifier.model.config, "label2id", None) or {}
    place_of = {_plain(str(name)): int(place) for name, place in named.items()}
    asked = [_plain(label) for label in task.labels]
    if asked and all(label in place_of for label in asked):
        return [place_of[label] for label in asked]
    return list(range(classifier.num_labels))


def _plain(label: str) -> str:
    return label.lower().replace("-", "_")


def task_pairs(data: PairData, part: str, seed: int) -> PairSet:
    """A part of the config's task; the training part cut to ``data.limit``.

    Raises:
        UserError: see `read_pairs`.
    """
    pairs = read_pairs(data.pair_task, part, data.root, data.files(part))
    return limited(pairs, data.limit, seed) if part == "train" else pairs


def classifier_stage(
    cfg: ClassifierConfig,
    module: PairClassifier,
    data: PairData,
    seed: int,
    dev: str | None = None,
    name: str = "teacher",
) -> Stage:
    """Fine-tuning of a cross-encoder.

    Args:
        cfg: steps, batch size.
        module: what is trained; its learning rate is that of `classifier_optim`.
        data: pairs.
        seed: of their order and choice.
        dev: part that selects the checkpoint; None: the last step stays.
        name: of the stage.
    """
    pairs = SequencePairs(task_pairs(data, "train", seed), module.task.kind, module.classifier)
    val: dict[str, Dataset[Any]] = {}
    if dev is not None:
        val["dev"] = EvaluationPairs(task_pairs(data, dev, seed))
    loader = ContrastiveData(
        pairs,
        batch_size=cfg.batch_size,
        seed=seed,
        num_workers=data.num_workers,
        val=val,
        eval_batch_size=cfg.score_batch_size,
    )
    length = {"max_steps": cfg.steps, "max_epochs": None if cfg.steps else cfg.epochs}
    steps = {**length, "accumulate_grad_batches": cfg.accumulate}
    if dev is None:
        steps["val_every_n_steps"] = None
    return Stage(name, module, loader, steps, None if dev is None else "val/pair_score")


def classifier_optim(cfg: ClassifierConfig, optim: OptimConfig) -> OptimConfig:
    """The config's optimiser with the classifier's own rate, decay and linear warm-up from zero."""
    warmup = round(cfg.warmup_share * cfg.steps) if cfg.steps else 0
    epochs = 0.0 if cfg.steps else cfg.warmup_share * cfg.epochs
    return replace(
        optim,
        lr=cfg.lr,
        weight_decay=cfg.weight_decay,
        schedule="linear",
        warmup_steps=warmup,
        warmup_epochs=epochs,
        warmup_start_lr=0.0,
        final_lr=0.0,
        decay_steps=0,
        lr_scaling="none",
    )
