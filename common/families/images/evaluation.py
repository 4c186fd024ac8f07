"""Frozen features of a config's image parts, the probes on them, and their pictures."""

from typing import NamedTuple

from torch import Tensor, nn

from common.data.image.parts import ImagePart
from common.engine.workspace import Workspace
from common.evaluation.features.frozen import frozen_probes, source_features
from common.evaluation.features.linear_probe import ProbeScores
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


def probes(cfg: ImageConfig, parts: FrozenParts, *, linear: bool | None = None) -> ProbeScores:
    """Vote of the nearest neighbours, linear probe and geometry.

    Args:
        cfg: the experiment's config.
        parts: frozen features.
        linear: whether to fit the linear probe, the slowest part; None: as the config says.

    Raises:
        UserError: fewer readable bank images than ``eval.items_k``.
    """
    check_neighbours(cfg, len(parts.bank.features))
    return frozen_probes(
        parts.bank.labelled,
        parts.test.labelled,
        num_classes=1 + int(max(parts.bank.labels.max(), parts.test.labels.max())),
        ks=cfg.eval.ks,
        temperature=cfg.eval.knn_temperature,
        probe=cfg.eval.linear_probe if linear is None else linear,
        l2_grid=cfg.eval.probe_l2,
        seed=cfg.seed,
    )


def item_scores(cfg: ImageConfig, scores: ProbeScores) -> dict[str, Tensor]:
    """What is compared image by image, (M,) bool: the primary vote, the linear probe if fitted."""
    names = (f"knn{cfg.eval.items_k}_top1", "linear_probe_top1")
    return {name: scores.correct[name] for name in names if name in scores.correct}


def save_items(cfg: ImageConfig, scores: ProbeScores, workspace: Workspace) -> None:
    """Write `item_scores` to the workspace."""
    for name, correct in item_scores(cfg, scores).items():
        workspace.items(name, correct.double().tolist())


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
