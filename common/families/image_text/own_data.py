"""``eval.own`` of image-text projects: pairs of images and captions, and images in class folders."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.data.image.class_folders import readable_classes
from common.data.image.files import LabelledFiles
from common.data.tables import num_rows
from common.encoders.modes import evaluated, untrained
from common.engine.workspace import Workspace
from common.evaluation.gallery import class_extremes
from common.evaluation.image_text.zeroshot import (
    LACLIP_TEMPLATES,
    OPENAI_TEMPLATES,
    class_embeddings,
    zeroshot_accuracy,
)
from common.families.image_text.embedding import encode_texts
from common.families.image_text.module import ImageTextModule
from common.families.image_text.pairs import (
    encode_files,
    evaluate_pairs,
    read_pairs,
    recalls,
    small,
)
from common.families.image_text.protocol import ImageTextConfig

SHOWN_CLASSES, SHOWN_IMAGES = 6, 5  # of the gallery
Build = Callable[[], ImageTextModule]


def judge_captions(
    cfg: ImageTextConfig, module: ImageTextModule, build: Build, workspace: Workspace, file: Path
) -> dict[str, float]:
    """Retrieval in both directions on a user's CSV of images and captions.

    Returns:
        ``num_images``, ``num_captions``, ``num_skipped``; those of `evaluate_pairs`, and
        ``untrained_*``.

    Raises:
        UserError: see `read_pairs`.
    """
    pairs = read_pairs(cfg, str(file))
    metrics = {
        "num_images": float(len(pairs.paths)),
        "num_captions": float(len(pairs.texts)),
        "num_skipped": float(num_rows(file) - len(pairs.texts)),
    }
    with evaluated(module, cfg.trainer.accelerator):
        metrics |= evaluate_pairs(cfg, module, workspace, str(file))
    raw = untrained(build, cfg.seed, like=module)
    with evaluated(raw, cfg.trainer.accelerator):
        images = encode_files(cfg, raw, pairs.paths, workspace)
        before = recalls(images, encode_texts(cfg, raw, pairs.texts), pairs)
    kept = {name: value for name, value in before.items() if not name.endswith("_chance")}
    return metrics | {f"untrained_{name}": value for name, value in kept.items()}


def judge_class_folders(
    cfg: ImageTextConfig, module: ImageTextModule, build: Build, workspace: Workspace, folder: Path
) -> dict[str, float]:
    """Zero-shot accuracy on a user's classes, whose names are those of the folders.

    Underscores and hyphens in names are read as blanks. Of ``{train,val}/<class>`` the images of
    ``val`` count, else all.

    Returns:
        ``num_images``, ``num_classes``, ``num_skipped``; ``zeroshot_top1`` and
        ``zeroshot_mean_per_class`` with ``_chance``, and ``untrained_*``.

    Raises:
        UserError: fewer than two classes, or too many images that can't be read.
    """
    bank, test, skipped, bad = readable_classes(folder, workspace.say)
    parts = [test] if (folder / "train").is_dir() else [bank, test]
    paths = [part.path(i) for part in parts for i in range(len(part.paths))]
    labels = torch.cat([part.labels for part in parts])
    names = _words(test)
    metrics = {
        "num_images": float(len(paths)),
        "num_classes": float(len(names)),
        "num_skipped": float(skipped + bad),
    }
    with evaluated(module, cfg.trainer.accelerator):
        images, classes = _encoded(cfg, module, paths, names, workspace)
    metrics |= _zeroshot(images, classes, labels)
    correct = (images @ classes.T).argmax(dim=1) == labels
    workspace.items("zeroshot_top1", correct.double().tolist())
    workspace.gallery("class names to images", _gallery(images, classes, labels, names, paths))
    show_classes(workspace, images @ classes.T, labels, names, paths)
    raw = untrained(build, cfg.seed, like=module)
    with evaluated(raw, cfg.trainer.accelerator):
        before = _zeroshot(*_encoded(cfg, raw, paths, names, workspace), labels)
    kept = {name: value for name, value in before.items() if not name.endswith("_chance")}
    return metrics | {f"untrained_{name}": value for name, value in kept.items()}


def show_classes(
    workspace: Workspace, scores: Tensor, labels: Tensor, names: list[str], paths: list[Path]
) -> None:
    """Galleries of the images whose own class is furthest ahead of the others, and behind them."""
    best, worst = class_extremes(scores, labels, names, lambda i: small(paths[i]))
    workspace.gallery("best images", best)
    workspace.gallery("worst images", worst)


def _words(files: LabelledFiles) -> list[str]:
    return [name.replace("_", " ").replace("-", " ") for name in files.class_names]


def _encoded(
    cfg: ImageTextConfig,
    module: ImageTextModule,
    paths: list[Path],
    names: list[str],
    workspace: Workspace,
) -> tuple[Tensor, Tensor]:
    """Unit embeddings of images (N, D) and classes (C, D)."""
    templates = OPENAI_TEMPLATES if cfg.eval.templates == "openai" else LACLIP_TEMPLATES
    classes = class_embeddings(module.encode_texts, names, templates).cpu()
    return encode_files(cfg, module, paths, workspace), classes


def _zeroshot(images: Tensor, classes: Tensor, labels: Tensor) -> dict[str, float]:
    scores = zeroshot_accuracy(images, labels, classes, ks=(1,))
    return {f"zeroshot_{name}": value for name, value in scores.items()}


def _gallery(
    images: Tensor, classes: Tensor, labels: Tensor, names: list[str], paths: list[Path]
) -> list[dict[str, Any]]:
    """The images that are nearest to some class names."""
    rows = []
    for label, name in enumerate(names[:SHOWN_CLASSES]):
        best = (images @ classes[label]).topk(min(SHOWN_IMAGES, len(paths)))
        results = [
            {"item": small(paths[i]), "score": score, "correct": int(labels[i]) == label}
            for score, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]
        rows.append({"query": name, "results": results})
    return rows
