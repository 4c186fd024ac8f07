"""Teacher, its logits, student: the stages of an experiment."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from common.config import UserError, to_dict
from common.data.lookup import own_file
from common.data.module import ContrastiveData
from common.data.offline import content_digest
from common.data.text.pairs.readers import PairSet
from common.encoders.modes import untrained
from common.encoders.state_dict import weights_digest
from common.engine import checkpoint as ckpt
from common.engine.experiment import Stage
from common.engine.lifecycle.kept_weights import keep_weights, kept_path
from common.engine.trainer import run_precision
from projects.dse.config import Config
from projects.dse.module import DSE, first_student
from projects.dse.pair_batches import EvaluationPairs, TowerPairs
from projects.dse.pair_classifier import (
    PairClassifier,
    binary_logit,
    build_classifier,
    classifier_optim,
    classifier_stage,
    label_order,
    task_pairs,
)
from projects.dse.pair_scores import ScorePairs, joined, read_scores, stored_scores

TRAINED_BY = (
    "precision",
    "gradient_clip_val",
    "deterministic",
    "devices",
    "num_nodes",
    "ema_decay",
)


def stages(cfg: Config) -> Iterator[Stage]:
    """The teacher if one is needed and not finished, its logits, then the student.

    A teacher of equal settings that another run has trained is loaded instead. When the student is
    built nothing of the teacher is left but its logits.
    """
    if cfg.train == "teacher":
        yield from teacher_stage(cfg, teacher_module(cfg))
        return
    logits = None
    if cfg.distill.alpha > 0:
        if cfg.distill.scores is None:
            yield from _stored(cfg)
        logits = teacher_logits(cfg, "train", task_pairs(cfg.data, "train", cfg.seed))
    student = first_student(cfg)
    yield Stage("student", student, student_data(cfg, student, logits), {}, _monitor(cfg))


def _stored(cfg: Config) -> Iterator[Stage]:
    """Train the teacher and store its logits of the training part and of what is evaluated."""
    module = teacher_module(cfg)
    if cfg.teacher.head == "new":
        yield from teacher_stage(cfg, module)
    for part in ("train", *cfg.eval.parts):
        store_logits(cfg, module, part, task_pairs(cfg.data, part, cfg.seed))


def student_data(cfg: Config, student: DSE, logits: Tensor | None) -> ContrastiveData:
    """Shuffled pairs with labels and logits; incomplete batches are dropped."""
    train = TowerPairs(
        task_pairs(cfg.data, "train", cfg.seed),
        student.task.kind,
        student.scorer.encoder.tokenizer,
        max_length=cfg.data.max_length,
        teacher=logits,
    )
    val: dict[str, Dataset[Any]] = {}
    if _monitor(cfg):
        val["dev"] = EvaluationPairs(task_pairs(cfg.data, cfg.eval.dev, cfg.seed))
    return ContrastiveData(
        train,
        batch_size=cfg.data.batch_size,
        seed=cfg.seed,
        num_workers=cfg.data.num_workers,
        val=val,
        eval_batch_size=cfg.eval.batch_size,
    )


def _monitor(cfg: Config) -> str | None:
    return None if cfg.trainer.val_every_n_steps is None else "val/pair_score"


# -- the teacher ---------------------------------------------------------------------------------


def teacher_module(cfg: Config) -> PairClassifier:
    """The cross-encoder of the config, before training if it is to be trained."""
    task = cfg.data.pair_task
    classifier = untrained(lambda: build_classifier(cfg.teacher, task), cfg.seed).train()
    optim = classifier_optim(cfg.teacher, cfg.optim)
    return PairClassifier(optim, classifier, task, cfg.eval.thresholds, cfg.teacher.length_groups)


def teacher_stage(cfg: Config, module: PairClassifier) -> Iterator[Stage]:
    """Fine-tuning, or the weights of a run that did the same."""
    weights = teacher_path(cfg)
    dev = cfg.eval.dev if _monitor(cfg) else None
    stage = classifier_stage(cfg.teacher, module, cfg.data, cfg.seed, dev)
    yield replace(stage, weights=weights if weights.is_file() else None)
    keep_weights(weights, module)


def teacher_path(cfg: Config) -> Path:
    """Where a trained teacher of these settings, this seed and this code is kept for other runs."""
    plain = to_dict(cfg)
    parts: dict[str, Any] = {name: plain[name] for name in ("data", "teacher", "optim", "seed")}
    for name in ("batch_size", "num_workers", "max_length"):  # of the student
        parts["data"].pop(name)
    for name in ("score_batch_size", "chunk_size"):
        parts["teacher"].pop(name)
    parts["optim"] = {name: parts["optim"][name] for name in ("name", "betas", "eps", "momentum")}
    parts["trainer"] = {name: plain["trainer"][name] for name in TRAINED_BY}
    if cfg.data.task == "file":  # a corrected file is another training set
        used = ["train", *([cfg.eval.dev] if _monitor(cfg) else [])]
        files = [
            own_file(name, cfg.data.root, "pairs") for part in used for name in cfg.data.files(part)
        ]
        parts["files"] = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    if _monitor(cfg):
        parts["dev"] = [cfg.eval.dev, plain["trainer"]["val_every_n_steps"], cfg.eval.thresholds]
    return kept_path(Path(cfg.runs_dir) / "dse" / "offline", "teacher", "dse", parts)


def load_teacher(cfg: Config) -> PairClassifier:
    """A finished teacher for a task: the one that is kept as it is, or one that a run has trained.

    Raises:
        UserError: no run has trained it yet.
    """
    module = teacher_module(cfg)
    if cfg.teacher.head == "new":
        path = teacher_path(cfg)
        if not path.is_file():
            raise UserError(
                f"no trained teacher {path}: run `make train PROJECT=dse train=teacher` with the "
                "same settings first, or give a finished classifier with teacher.pretrained and "
                "teacher.head=keep"
            )
        ckpt.load_weights(module, path)
    return module.eval()


def logits_folder(cfg: Config, pairs: PairSet) -> Path:
    """Where the teacher's logits of these pairs are stored."""
    texts = content_digest(text for pair in pairs.pairs for text in pair)[:16]
    return teacher_path(cfg).with_suffix("") / texts


def store_logits(cfg: Config, module: PairClassifier, part: str, pairs: PairSet) -> Tensor:
    """The teacher's logits of a part in the pairs' order, computed where they are not stored.

    Raises:
        UserError: the folder belongs to another teacher.
    """
    build, settings = scoring(cfg, module)
    settings["part"] = part
    return stored_scores(
        build, pairs.pairs, logits_folder(cfg, pairs), settings, cfg.teacher.chunk_size
    )


def scoring(cfg: Config, module: PairClassifier) -> tuple[Any, dict[str, Any]]:
    """What makes the row function of a teacher, and the settings that its rows depend on."""
    teacher, classifier = cfg.teacher, module.classifier
    order, bf16 = label_order(classifier, module.task), run_precision(cfg.trainer) == "bf16-mixed"
    row = ScorePairs(classifier, order, teacher.score_batch_size, cfg.trainer.accelerator, bf16)
    settings = {
        "teacher": weights_digest(classifier),
        "order": order,
        "bf16": bf16,
        "max_length": classifier.max_length,
    }
    return partial(_same, row), settings


def _same(row: ScorePairs) -> ScorePairs:
    return row


def teacher_logits(cfg: Config, part: str, pairs: PairSet) -> Tensor:
    """Logits (N, C) of a part, one column for a binary task; no teacher is loaded.

    Raises:
        UserError: nothing is stored for these pairs, or what is there belongs to others.
    """
    place = logits_folder(cfg, pairs) if cfg.distill.scores is None else Path(cfg.distill.scores)
    scores = joined(pairs.pairs, read_scores(place), place)
    try:
        return binary_logit(scores, cfg.data.pair_task)
    except ValueError as error:
        raise UserError(f"{place} ({part}): {error}") from error
