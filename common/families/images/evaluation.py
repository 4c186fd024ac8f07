"""Frozen features of a config's image parts, the probes on them, and their pictures."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from common.data.image.parts import ImagePart
from common.engine.workspace import Workspace
from common.evaluation.features.frozen import frozen_metrics, knn_correct, source_features
from common.evaluation.features.linear_probe import linear_probe_correct
from common.evaluation.figures import class_gallery, embedding_map
from common.families.images.data import ImageConfig, check_neighbours, eval_transform
from common.families.images.validation import validation_curve


class Frozen(NamedTuple):
    """Frozen features of one part, without images that cannot be read."""

    features: Tensor  # (K, F) float32
    labels: Tensor  # (K,) int64
    rows: Tensor  # (K,) int64, items of the part

    @property
    def labelled(self) -> tuple[Tensor, Tensor]:
        """Features and labels."""
        return self.features, self.labels


class FrozenParts(NamedTuple):
    """What probes are fitted on, and what they classify."""

    bank: Frozen
    test: Frozen


def frozen_parts(
    cfg: ImageConfig,
    encoder: nn.Module,
    bank: ImagePart,
    test: ImagePart,
    workspace: Workspace,
) -> FrozenParts:
    """Features of both parts before the projector.

    Raises:
        UserError: fewer bank images than ``eval.items_k``.
    """
    check_neighbours(cfg, len(bank.labels))

    def frozen(part: ImagePart) -> Frozen:
        features, rows = source_features(
            encoder,
            part.source(eval_transform(cfg.data)),
            batch_size=cfg.eval.batch_size,
            num_workers=cfg.data.num_workers,
            progress=workspace.progress,
        )
        return Frozen(features, part.labels[rows], rows)

    return FrozenParts(frozen(bank), frozen(test))


def probes(cfg: ImageConfig, parts: FrozenParts, *, linear: bool | None = None) -> dict[str, float]:
    """Vote of the nearest neighbours, linear probe and geometry.

    Args:
        cfg: the experiment's config.
        parts: frozen features.
        linear: whether to fit the linear probe, the slowest part; None: as the config says.
    """
    return frozen_metrics(
        parts.bank.labelled,
        parts.test.labelled,
        num_classes=_num_classes(parts),
        ks=cfg.eval.ks,
        temperature=cfg.eval.knn_temperature,
        probe=cfg.eval.linear_probe if linear is None else linear,
        l2_grid=cfg.eval.probe_l2,
        seed=cfg.seed,
    )


def knn_items(cfg: ImageConfig, parts: FrozenParts) -> dict[str, Tensor]:
    """Which test images the vote of ``eval.items_k`` neighbours finds, (M,) bool by metric name.

    Raises:
        UserError: fewer bank images than that, without the ones that cannot be read.
    """
    check_neighbours(cfg, len(parts.bank.features))
    k = cfg.eval.items_k
    correct = knn_correct(*parts.bank.labelled, *parts.test.labelled, k=k)
    return {f"knn{k}_top1": torch.tensor(correct).bool()}


def linear_items(parts: FrozenParts, metrics: dict[str, float]) -> dict[str, Tensor]:
    """Which test images the linear probe of `probes` finds; nothing if none was fitted."""
    if "linear_probe_l2" not in metrics:
        return {}
    right = linear_probe_correct(
        *parts.bank.labelled,
        *parts.test.labelled,
        l2=metrics["linear_probe_l2"],
        num_classes=_num_classes(parts),
    )
    return {"linear_probe_top1": right}


def show_features(
    workspace: Workspace, parts: FrozenParts, bank: ImagePart, test: ImagePart, title: str
) -> None:
    """Nearest bank images of some test images, a map of the test features, validation curves."""
    rows = class_gallery(
        parts.test.labelled,
        parts.bank.labelled,
        lambda i: test.picture(int(parts.test.rows[i])),
        lambda i: bank.picture(int(parts.bank.rows[i])),
    )
    workspace.gallery("nearest neighbours", rows)
    workspace.figure("map", embedding_map(*parts.test.labelled, test.class_names, title))
    validation_curve(workspace)


def _num_classes(parts: FrozenParts) -> int:
    return int(max(parts.bank.labels.max(), parts.test.labels.max())) + 1
