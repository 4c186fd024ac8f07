"""Fine-tuning: plain or adversarial, then self-calibration, then transductive rounds."""

from collections.abc import Generator, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from common.config import OptimConfig, UserError
from common.data.module import ContrastiveData
from common.data.text.labelled.batches import ClassBatches, EvaluationTexts
from common.data.text.labelled.readers import LabelledSet, Texts
from common.encoders.modes import evaluated
from common.engine.experiment import Stage
from common.engine.trainer import stage_config, total_steps
from projects.vega.config import Config
from projects.vega.glue.pseudo_labels import (
    calibrated,
    class_shares,
    folds,
    pseudo_labelled,
    united,
)
from projects.vega.glue.ranking import PremiseBatches
from projects.vega.glue.reading import Unlabelled, drawn, flipped, read_inputs, read_part
from projects.vega.module import FineTune
from projects.vega.network import first_classifier


def stages(cfg: Config) -> Iterator[Stage]:
    """Each fine-tuning starts from the same weights.

    A transductive round goes on from what is there.

    Raises:
        UserError: files that are not there, or random weights without ``model.random_start``.
    """
    if cfg.model.pretrained == "random" and not cfg.model.random_start:
        raise UserError(
            "fine-tuning would begin with random weights: set model.pretrained=FOLDER"
            " model.size=null model.tokenizer=null with an encoder that was pre-trained (make"
            " export PROJECT=vega CONFIG=paper_pretrain writes one), or model.random_start=true for"
            " a dry run"
        )
    rounds = cfg.transductive.enabled and cfg.transductive.rounds
    target = target_texts(cfg) if rounds else []  # absent files are told before anything is trained
    module, train = yield from first_stages(cfg, training_part(cfg))
    if rounds:
        yield from _transductive(cfg, train, module, target)


def first_stages(
    cfg: Config, train: LabelledSet
) -> Generator[Stage, None, tuple[FineTune, LabelledSet]]:
    """Up to the transductive rounds.

    Returns the trained module and the targets that it was trained on.
    """
    calibration = cfg.self_calibration
    if (
        not calibration.enabled or not calibration.mu
    ):  # mu = 0 would train on the labels as they are
        module = _module(cfg)
        yield _stage(cfg, "finetune", module, train)
        return module, train
    if calibration.k == 1:  # the model re-reads what it was trained on
        first = _module(cfg)
        yield _stage(cfg, "finetune", first, train)
        seen = predicted(cfg, first, train.texts)
    else:  # models that have not seen the label; nobody reads a model of all examples here
        seen = np.zeros((len(train), len(train.classes)), dtype=np.float32)
        for number, (outside, inside) in enumerate(folds(len(train), calibration.k, cfg.seed)):
            part = _module(cfg)
            yield _stage(cfg, f"fold_{number}", part, train.subset(outside))
            seen[inside] = predicted(cfg, part, [train.texts[i] for i in inside])
    targets, flagged = calibrated(train, seen, calibration.threshold, calibration.mu)
    module = _module(cfg)
    module.note(flagged_share=float(flagged.mean()))
    if flagged.any() and cfg.data.noise:
        wrong = train.labels != clean_part(cfg).labels
        module.note(flagged_precision=float(wrong[flagged].mean()))
    yield _stage(cfg, "calibrated", module, targets)
    return module, targets  # the rounds continue with these: hard labels would undo the calibration


def _transductive(
    cfg: Config, train: LabelledSet, module: FineTune, target: list[Texts]
) -> Iterator[Stage]:
    """Rounds on training examples and pseudo labels of the inputs, which come without labels."""
    settings = cfg.transductive
    for number in range(settings.rounds):
        predictions = predicted(cfg, module, target)
        pseudo = pseudo_labelled(
            target, predictions, train.classes, settings.threshold, settings.soft
        )
        classes = len(train.classes)
        if classes > 1 and pseudo is not None:
            pairs = zip(class_shares(pseudo, classes), class_shares(train, classes), strict=True)
            module.note(pseudo_drift=max(abs(a - b) for a, b in pairs))
        module.note(pseudo_share=0.0 if pseudo is None else len(pseudo) / len(target))
        following = FineTune(cfg, module.classifier, round_optim(cfg))
        following.record.copy_(module.record)
        module = following
        yield _stage(
            cfg, f"transductive_{number + 1}", module, united(train, pseudo), settings.epochs
        )


def round_optim(cfg: Config) -> OptimConfig:
    """Optimiser of a round: a lower rate, and a warm-up that is shorter as the epochs are fewer.

    Where lengths are in steps (``trainer.max_steps``) the warm-up is that of the other stages.
    """
    settings, optim = cfg.transductive, cfg.optim
    share = 1.0 if cfg.trainer.max_epochs is None else settings.epochs / cfg.trainer.max_epochs
    return replace(
        optim,
        lr=optim.lr * settings.lr_scale,
        warmup_steps=round(optim.warmup_steps * share),
        warmup_epochs=optim.warmup_epochs * share,
    )


def predicted(cfg: Config, module: FineTune, texts: list[Texts]) -> np.ndarray:
    """Probabilities (N, C), or scores (N, 1) of a regression."""
    with evaluated(module.classifier, cfg.trainer.accelerator):
        logits = module.score(texts, cfg.eval.batch_size)
    shares: np.ndarray = (logits if module.task.is_regression else logits.softmax(1)).numpy()
    return shares


def clean_part(cfg: Config) -> LabelledSet:
    """Training examples with the labels of the files."""
    own = cfg.data
    whole = read_part(own.glue_task, "train", own.root, own.source, own.file("train"))
    return drawn(whole, own.limit, cfg.seed)


def training_part(cfg: Config) -> LabelledSet:
    """Training examples, a share of whose labels may be flipped; the same for all strategies."""
    return flipped(clean_part(cfg), cfg.data.noise, cfg.seed)


def labelled_part(cfg: Config, part: str) -> LabelledSet:
    """A part with public labels, as it is."""
    data = cfg.data
    return read_part(data.glue_task, part, data.root, data.source, data.file(part))


def parts_of(cfg: Config, part: str) -> list[str]:
    """A part, of MNLI both: matched and mismatched."""
    other = f"{part}_mm"
    both = other in cfg.data.glue_task.files and cfg.data.source != "file"
    return [part, *([other] if both else [])]


def target_parts(cfg: Config) -> list[str]:
    """Parts that are to be labelled: those that are evaluated on, or ``transductive.part``.

    One alone.
    """
    return parts_of(cfg, cfg.transductive.part or cfg.eval.part)


def inputs_of(cfg: Config, part: str) -> Unlabelled:
    """Inputs of a part, or of ``data.target_file`` alongside any source; no label is looked at."""
    data = cfg.data
    source = "file" if part == "target" else data.source
    return read_inputs(data.glue_task, part, data.root, source, data.file(part))


def target_texts(cfg: Config) -> list[Texts]:
    """Inputs that a transductive round labels and trains on."""
    return [texts for part in target_parts(cfg) for texts in inputs_of(cfg, part).texts]


def training_data(cfg: Config, module: FineTune, train: LabelledSet) -> ContrastiveData:
    """Shuffled training examples; the development part as it is, if the config validates."""
    val: dict[str, Dataset[Any]] = {}
    if _validates(cfg):
        val["dev"] = DevTexts(labelled_part(cfg, "dev"))
    batches = PremiseBatches if cfg.data.ranks_candidates else ClassBatches
    return ContrastiveData(
        batches(train, module.classifier, seed=cfg.seed),
        batch_size=cfg.data.batch_size,
        seed=cfg.seed,
        num_workers=cfg.data.num_workers,
        val=val,
        eval_batch_size=cfg.eval.batch_size,
    )


class DevTexts(EvaluationTexts):
    """Texts for validation, whose labels may be scores."""

    def __getitem__(self, index: int) -> tuple[Texts, Any]:
        return self.data.texts[index], self.data.labels[index].item()


def _module(cfg: Config) -> FineTune:
    return FineTune(cfg, first_classifier(cfg))


def _stage(
    cfg: Config, name: str, module: FineTune, train: LabelledSet, epochs: float | None = None
) -> Stage:
    length = {} if epochs is None else {"max_epochs": epochs, "max_steps": None}
    monitor = "val/score" if _validates(cfg) else None
    stage = Stage(name, module, training_data(cfg, module, train), length, monitor)
    if monitor is None or cfg.trainer.val_every_n_steps is not None:
        return stage
    # whole steps an epoch: the last step, at the end of the schedule, is validated too
    steps, per_epoch = total_steps(stage_config(cfg.trainer, stage), stage)
    times = max(1, round(steps / per_epoch))
    every = max(1, round(steps / times))
    own = {"max_steps": every * times, "max_epochs": None, "val_every_n_steps": every}
    return replace(stage, trainer=own)


def _validates(cfg: Config) -> bool:
    return cfg.trainer.val_every_n_steps is not None or cfg.eval.every_epoch


def chance(labels: np.ndarray) -> float:
    """Share of the most frequent class."""
    return float(torch.as_tensor(labels).bincount().max() / len(labels))
