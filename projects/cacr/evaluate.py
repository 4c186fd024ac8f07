"""CACR's evaluation: frozen features by class frequency, and the contrast within the groups."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from common.data.image.labelled import LabelledPixels
from common.data.samplers import sample_rng
from common.encoders.modes import evaluated, untrained
from common.engine.workspace import Workspace, write_json
from common.evaluation.features import geometry
from common.families.images.evaluation import (
    frozen_parts,
    item_scores,
    probes,
    show_features,
)
from common.losses.functional.geometry import pairwise_squared_distance
from projects.cacr.config import Config
from projects.cacr.data import image_part, tail_classes, view_transforms
from projects.cacr.diagnostics import positive_distances, repulsion_weights, weight_diagnostics
from projects.cacr.module import CACR
from projects.cacr.probe import adam_probe
from projects.cacr.unlabelled import evaluate_unlabelled

DIAGNOSED_IMAGES, DIAGNOSED_VIEWS = 512, 5  # test images and views of the mechanism table
VIEW_STREAM = 25


def evaluate(cfg: Config, module: CACR, workspace: Workspace) -> dict[str, float]:
    """Probes of the frozen encoder, the untrained encoder alongside them, and the mechanism."""
    if cfg.eval.judge == "none":
        with evaluated(module, cfg.trainer.accelerator):
            return evaluate_unlabelled(cfg, module, workspace)
    bank, test = image_part(cfg, "bank"), image_part(cfg, "test")
    with evaluated(module, cfg.trainer.accelerator):
        parts = frozen_parts(cfg, module.network.encoder, bank, test, workspace)
        scores = probes(cfg, parts)
        metrics, correct = scores.metrics, item_scores(cfg, scores)
        if cfg.eval.adam_probe_epochs:
            trained, right = adam_probe(cfg, module.network.encoder, bank, parts.test)
            metrics, correct = metrics | trained, correct | {"adam_probe_top1": right}
        if isinstance(test.data, LabelledPixels):
            metrics |= mechanism(cfg, module, test.data)
        if cfg.eval.untrained and isinstance(test.data, LabelledPixels):
            raw = untrained(lambda: CACR(cfg), cfg.seed, like=module).network.encoder
            raw_scores = probes(cfg, frozen_parts(cfg, raw, bank, test, workspace))
            before = item_scores(cfg, raw_scores)
            metrics |= {f"untrained_{name}": _mean(values) for name, values in before.items()}
    for name, values in correct.items():
        workspace.items(name, values.double().tolist())
    names = test.class_names
    tail = tail_classes(cfg, names)
    if tail is not None:
        metrics |= by_frequency(correct, parts.test.labels, tail)
    if isinstance(test.data, LabelledPixels):
        report = per_class(correct, parts.test.labels, names)
        write_json(workspace.folder(".") / "per_class.json", report)
        workspace.figure("per class", per_class_figure(report))
    title = f"test features, {cfg.method.loss} ({cfg.method.weighting}), {cfg.data.imbalance}"
    show_features(workspace, parts, bank, test, title)
    return metrics


def _mean(correct: Tensor) -> float:
    return float(correct.double().mean())


# -- classes by frequency ------------------------------------------------------------------------


def by_frequency(correct: dict[str, Tensor], labels: Tensor, tail: Tensor) -> dict[str, float]:
    """Accuracy on the rare and on the frequent half of the classes.

    Args:
        correct: metric name (``..._top1``) -> (M,) bool.
        labels: (M,) int64 in [0, C).
        tail: (C,) bool, the rare classes, see `tail_classes`.

    Returns:
        ``..._tail_top1``, ``..._head_top1`` and ``..._gap``, head minus tail.

    >>> hits, tail = {"knn_top1": torch.tensor([True, False])}, torch.tensor([True, False])
    >>> by_frequency(hits, torch.tensor([0, 1]), tail)
    {'knn_tail_top1': 1.0, 'knn_head_top1': 0.0, 'knn_gap': -1.0}
    """
    rare = tail[labels]
    accuracies = {}
    for name, values in correct.items():
        stem = name.removesuffix("_top1")
        for half, rows in (("tail", rare), ("head", ~rare)):
            accuracies[f"{stem}_{half}_top1"] = float(values[rows].double().mean())
        accuracies[f"{stem}_gap"] = (
            accuracies[f"{stem}_head_top1"] - accuracies[f"{stem}_tail_top1"]
        )
    return accuracies


def per_class(
    correct: dict[str, Tensor], labels: Tensor, names: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Accuracy by metric and class name, rarest class of an imbalanced subset first."""
    return {
        metric: {
            name: float(values[labels == c].double().mean())
            for c, name in enumerate(names)
            if bool((labels == c).any())
        }
        for metric, values in correct.items()
    }


def per_class_figure(report: dict[str, dict[str, float]]) -> Any:
    """Bars: one group for each class."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3))
    axes = figure.subplots()
    width = 0.8 / len(report)
    for number, (metric, accuracies) in enumerate(report.items()):
        places = [c + number * width for c in range(len(accuracies))]
        axes.bar(places, list(accuracies.values()), width, label=metric)
    first = next(iter(report.values()))
    if len(first) <= 20:
        axes.set_xticks(range(len(first)), list(first), rotation=45, ha="right")
    axes.set_ylabel("accuracy")
    axes.legend(fontsize=7)
    return figure


# -- mechanism -----------------------------------------------------------------------------------


def mechanism(cfg: Config, module: CACR, test: LabelledPixels) -> dict[str, float]:
    """What the paper's weights see in the embeddings, equal for every loss and host.

    Five augmented views of the same test images: entropy of the conditional weights and their rank
    correlation with the distance, mean distance of the farthest positive and of the nearest
    negative, alignment and uniformity; ``same_class_weight``, the part of pi- that repels images of
    the query's own class (uniform weights: their share).
    """
    z, labels = views_of_test_images(cfg, module, test)
    metrics = weight_diagnostics(z[0], z[1:], z[1], module.tau_pos, module.tau_neg)
    unit = F.normalize(z, dim=-1)
    far = positive_distances(unit[0], unit[1:])
    pushed = repulsion_weights(unit[0], unit[1], module.tau_neg)
    same = labels[:, None] == labels
    metrics["same_class_weight"] = float((pushed * same).sum(1).mean())
    near = pairwise_squared_distance(unit[0], unit[1])
    near.fill_diagonal_(torch.inf)
    metrics["positive_distance"] = float(far.mean())
    metrics["farthest_positive_distance"] = float(far.amax(1).mean())
    metrics["nearest_negative_distance"] = float(near.amin(1).mean())
    metrics["alignment"] = geometry.alignment(z[0], z[1])
    metrics["projection_uniformity"] = geometry.uniformity(z[0])
    return metrics


def views_of_test_images(cfg: Config, module: CACR, test: LabelledPixels) -> tuple[Tensor, Tensor]:
    """Raw embeddings (5, N, D) float64 of views of evenly spaced test images, and labels (N,)."""
    total = len(test.labels)
    rows = torch.linspace(0, total - 1, min(total, DIAGNOSED_IMAGES)).long()
    images = test.images[rows]
    rngs = [sample_rng(0, 0, i, VIEW_STREAM) for i in range(len(images))]
    views = view_transforms(cfg.data, DIAGNOSED_VIEWS).batch(images, rngs).transpose(0, 1)
    device = next(module.parameters()).device
    parts = torch.split(views.flatten(0, 1), cfg.eval.batch_size)
    embedded = torch.cat([module.network(part.to(device)).cpu() for part in parts])
    return embedded.double().view(*views.shape[:2], -1), test.labels[rows]
