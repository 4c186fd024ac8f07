"""``eval.own`` of image projects: images in class folders, judged by votes and linear probes."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from common.data.image.class_folders import class_counts, readable_classes
from common.data.image.parts import ImagePart
from common.encoders.modes import evaluated, untrained
from common.engine.workspace import Workspace
from common.evaluation.features.trivial import majority_class
from common.evaluation.figures import class_gallery
from common.evaluation.search import search
from common.families.images.data import ImageConfig
from common.families.images.evaluation import (
    FrozenParts,
    frozen_parts,
    probes,
    save_items,
    show_features,
)

FEW = 5  # neighbours of a small bank
SHOWN = 6  # images of a gallery, and neighbours of each


def judge_class_folders(
    cfg: Any, encoder: nn.Module, build: Callable[[], nn.Module], workspace: Workspace, folder: Path
) -> dict[str, float]:
    """Vote of neighbours and linear probe on a user's classes; the same untrained, on pixels, and chance.

    Args:
        cfg: the experiment's config.
        encoder: trained, from normalised images to (B, F) features.
        build: makes the encoder before training, under ``cfg.seed``.
        workspace: takes items, gallery and map.
        folder: see `class_folders`.

    Returns:
        ``num_images``, ``num_bank_images``, ``num_classes``, ``num_skipped``; ``knn<k>_top1`` and
        ``linear_probe_top1`` with ``_chance``, ``untrained_*`` and ``raw_pixels_*``.

    Raises:
        UserError: fewer than two classes, or too many images that can't be read.
    """
    bank_files, test_files, skipped, bad = readable_classes(folder, workspace.say)
    bank, test = ImagePart(bank_files), ImagePart(test_files)
    few = _fitting(cfg, len(bank.labels))

    def measured(network: nn.Module, placed: AbstractContextManager[Any]) -> FrozenParts:
        with placed:
            return frozen_parts(few, network, bank, test, workspace)

    accelerator = cfg.trainer.accelerator
    parts = measured(encoder, evaluated(encoder, accelerator))
    linear = None if min(class_counts(bank_files).values()) >= 2 else False
    scores = probes(few, parts, linear=linear)
    save_items(few, scores, workspace)
    show_features(workspace, parts, bank, test, f"images of {folder.name}")
    show_extremes(workspace, parts, bank, test)
    metrics = {
        "num_images": float(len(parts.test.labels)),
        "num_bank_images": float(len(parts.bank.labels)),
        "num_classes": float(len(bank.class_names)),
        "num_skipped": float(skipped + bad),
        **scores.metrics,
    }
    level = majority_class(bank.labels.tolist(), test.labels.tolist())
    for name in _accuracies(scores.metrics):
        metrics[f"{name}_chance"] = sum(level) / len(level)
    raw = untrained(build, cfg.seed, like=encoder)
    rows = {
        "untrained": measured(raw, evaluated(raw, accelerator)),
        "raw_pixels": measured(nn.Flatten(), nullcontext()),
    }
    for row, features in rows.items():
        values = probes(few, features, linear=linear).metrics
        metrics |= {f"{row}_{name}": values[name] for name in _accuracies(values)}
    return metrics


def show_extremes(
    workspace: Workspace, parts: FrozenParts, bank: ImagePart, test: ImagePart
) -> None:
    """Galleries of the test images with the most and the fewest neighbours of their class."""
    near = search(parts.test.features, parts.bank.features, min(SHOWN, len(parts.bank.labels)))
    right = (parts.bank.labels[near.indices] == parts.test.labels[:, None]).double().mean(1)
    order = right.argsort(stable=True)
    for title, rows in (("best images", order.flip(0)), ("worst images", order)):
        chosen = rows[:SHOWN]
        gallery = class_gallery(
            (parts.test.features[chosen], parts.test.labels[chosen]),
            parts.bank.labelled,
            lambda i, chosen=chosen: test.picture(int(parts.test.rows[chosen[i]])),  # type: ignore[misc]
            lambda i: bank.picture(int(parts.bank.rows[i])),
        )
        workspace.gallery(title, gallery)


def _accuracies(metrics: dict[str, float]) -> list[str]:
    return [name for name in metrics if name.endswith("_top1")]


def _fitting(cfg: Any, num_bank: int) -> ImageConfig:
    """The config with numbers of neighbours that a bank has."""
    ks = [k for k in cfg.eval.ks if k <= num_bank // 2] or [max(1, min(FEW, num_bank // 2))]
    items_k = cfg.eval.items_k if cfg.eval.items_k in ks else ks[0]
    changed: ImageConfig = replace(cfg, eval=replace(cfg.eval, ks=ks, items_k=items_k))
    return changed
