"""Scores on the parts with public labels, labels of the others, effects of the tricks."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from common.data.text.labelled.readers import LabelledSet, Texts
from common.encoders.modes import evaluated
from common.engine.workspace import Workspace
from common.files import write_text
from projects.vega.config import Config
from projects.vega.encoders.perturbation import EmbeddingPerturbation, first_perturbation
from projects.vega.glue.metrics import glue_metrics
from projects.vega.glue.reading import is_labelled
from projects.vega.glue.submission import submission_lines
from projects.vega.module import FineTune
from projects.vega.stages import chance, inputs_of, labelled_part, parts_of, target_parts

NOISE_TEXTS = 256  # on which logits are compared under noise


def scored_parts(cfg: Config, workspace: Workspace) -> Iterator[tuple[str, LabelledSet]]:
    """The parts that are evaluated on, but for those without labels, which are named."""
    data = cfg.data
    for part in parts_of(cfg, cfg.eval.part):
        if is_labelled(data.glue_task, part, data.root, data.source, data.file(part)):
            yield part, labelled_part(cfg, part)
        else:
            workspace.say(f"{data.task}: the part '{part}' has no labels, so it is not scored")


def evaluate(cfg: Config, module: FineTune, workspace: Workspace) -> dict[str, float]:
    """``<part>_<metric>`` and ``<part>_score`` by GLUE's protocol; numbers of the tricks.

    Parts that are evaluated on or adapted to without being scored leave predictions-<part>.tsv
    behind, and ``<part>_predicted``, the number of its lines.
    """
    metrics: dict[str, float] = {}
    scored = []
    for part, data in scored_parts(cfg, workspace):
        scored.append(part)
        metrics |= score_part(cfg, part, logits_of(cfg, module, data.texts), data.labels, workspace)
    for part in dict.fromkeys([*parts_of(cfg, cfg.eval.part), *target_parts(cfg)]):
        if part not in scored:
            inputs = inputs_of(cfg, part)
            logits = logits_of(cfg, module, inputs.texts)
            lines = submission_lines(module.task, inputs.index, logits)
            path = workspace.folder(".") / f"predictions-{part}.tsv"
            write_text(path, "\n".join(lines) + "\n")
            metrics[f"{part}_predicted"] = len(inputs.index)
            workspace.say(f"labels of the part '{part}': {path}")
    if cfg.eval.noise:
        metrics["logit_change"] = logit_change(cfg, module)
    return {**metrics, **module.noted()}


def logits_of(cfg: Config, module: FineTune, texts: list[Texts]) -> np.ndarray:
    """(N, C), float32."""
    with evaluated(module.classifier, cfg.trainer.accelerator):
        logits: np.ndarray = module.score(texts, cfg.eval.batch_size).numpy()
    return logits


def score_part(
    cfg: Config, part: str, logits: np.ndarray, labels: np.ndarray, workspace: Workspace
) -> dict[str, float]:
    """Metrics of logits (N, C), with the items of the accuracy or the correlation."""
    task = cfg.data.glue_task
    if task.is_regression:
        predicted = logits[:, 0]
        workspace.rank_items(f"{part}_spearman", predicted.tolist(), labels.tolist())
        more: dict[str, float] = {}
    else:
        predicted = logits.argmax(1)
        right = predicted == labels
        workspace.items(f"{part}_accuracy", right.astype(float).tolist())
        # majority classes have no correlation: alongside Matthews' one the accuracy is of use
        more = {"accuracy": float(right.mean()), "accuracy_chance": chance(labels)}
    metrics = {**more, **glue_metrics(task.name, predicted, labels)}
    return {f"{part}_{name}": value for name, value in metrics.items()}


def logit_change(cfg: Config, module: FineTune) -> float:
    """Mean change of log-probabilities (or scores) under N(0, noise^2) on the embeddings."""
    classifier = module.classifier
    texts = inputs_of(cfg, cfg.eval.part).texts[:NOISE_TEXTS]
    changes = EmbeddingPerturbation(classifier.backbone, cfg.sift.layer)
    with torch.random.fork_rng(), evaluated(classifier, cfg.trainer.accelerator):
        torch.manual_seed(0)  # the same noise for all strategies
        inputs = {
            k: v.to(classifier.device) for k, v in classifier.pad(classifier.rows(texts)).items()
        }
        with changes.clean():
            before = _read(module, classifier(**inputs))
        deltas = [first_perturbation(noted, cfg.eval.noise) for noted in changes.noted]
        with changes.changed(deltas):
            after = _read(module, classifier(**inputs))
    return float((after - before).norm(dim=1).mean())


def _read(module: FineTune, logits: Tensor) -> Tensor:
    return logits if module.task.is_regression else logits.float().log_softmax(1)
