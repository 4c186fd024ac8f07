"""Scores of a classifier on the parts with public labels, and what the tricks did."""

import numpy as np
import torch
from torch import Tensor

from common.encoders.modes import evaluated
from common.encoders.text.tuned.perturbation import EmbeddingPerturbation, first_perturbation
from common.engine.workspace import Workspace
from common.evaluation.text.glue import glue_metrics
from projects.vega.config import Config
from projects.vega.module import FineTune
from projects.vega.stages import chance, labelled_part

NOISE_TEXTS = 256  # on which logits are compared under noise


def parts_of(cfg: Config) -> list[str]:
    """The parts that are scored: of MNLI both, matched and mismatched."""
    other = f"{cfg.eval.part}_mm"
    both = other in cfg.data.glue_task.files and cfg.data.source != "file"
    return [cfg.eval.part, *([other] if both else [])]


def evaluate(cfg: Config, module: FineTune, workspace: Workspace) -> dict[str, float]:
    """``<part>_<metric>`` and ``<part>_score`` by GLUE's protocol; numbers of the tricks.

    Raises:
        UserError: a part whose labels are hidden.
    """
    metrics: dict[str, float] = {}
    for part in parts_of(cfg):
        data = labelled_part(cfg, part)
        with evaluated(module.classifier, cfg.trainer.accelerator):
            logits = module.classifier.score(data.texts, cfg.eval.batch_size).numpy()
        metrics |= score_part(cfg, part, logits, data.labels, workspace)
    if cfg.eval.noise:
        metrics["logit_change"] = logit_change(cfg, module)
    return {**metrics, **module.noted()}


def score_part(cfg: Config, part: str, logits: np.ndarray, labels: np.ndarray, workspace: Workspace) -> dict[str, float]:  # fmt: skip
    """Metrics of logits (N, C), with the items of the accuracy or the correlation."""
    task = cfg.data.glue_task
    if task.is_regression:
        told = logits[:, 0]
        workspace.rank_items(f"{part}_spearman", told.tolist(), labels.tolist())
        more: dict[str, float] = {}
    else:
        told = logits.argmax(1)
        right = told == labels
        workspace.items(f"{part}_accuracy", right.astype(float).tolist())
        # majority classes have no correlation: beside Matthews' one the accuracy is of use
        more = {"accuracy": float(right.mean()), "accuracy_chance": chance(labels)}
    found = {**more, **glue_metrics(task.name, told, labels)}
    return {f"{part}_{name}": value for name, value in found.items()}


def logit_change(cfg: Config, module: FineTune) -> float:
    """Mean distance of log-probabilities (or scores) when N(0, noise^2) is added to the embeddings."""
    classifier = module.classifier
    texts = labelled_part(cfg, cfg.eval.part).texts[:NOISE_TEXTS]
    changes = EmbeddingPerturbation(classifier.backbone, cfg.sift.layer)
    with torch.random.fork_rng(), evaluated(classifier, cfg.trainer.accelerator):
        torch.manual_seed(0)  # the same noise for all strategies
        inputs = {k: v.to(classifier.device) for k, v in classifier.pad(classifier.rows(texts)).items()}  # fmt: skip
        with changes.clean():
            before = _read(module, classifier(**inputs))
        deltas = [first_perturbation(noted, cfg.eval.noise) for noted in changes.noted]
        with changes.changed(deltas):
            after = _read(module, classifier(**inputs))
    return float((after - before).norm(dim=1).mean())


def _read(module: FineTune, logits: Tensor) -> Tensor:
    return logits if module.task.is_regression else logits.float().log_softmax(1)
