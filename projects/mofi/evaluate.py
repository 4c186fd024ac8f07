"""Retrieval, zero-shot and probes of one model in one report."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image

from common.data.image.labelled import LabelledPixels, balanced_subset, load_cifar10, resized
from common.data.splits import clipart_key
from common.encoders.modes import evaluated
from common.engine.workspace import Workspace
from common.evaluation.features.knn import knn_accuracy
from common.evaluation.features.linear_probe import linear_probe
from common.evaluation.gallery import same_class_gallery
from common.evaluation.image_text.zeroshot import (
    class_embeddings,
    zeroshot_accuracy,
)
from common.families.image_text.data import synthetic_set
from common.families.image_text.drawings import (
    UNSEEN_TEMPLATES,
    pool_images,
    pool_picture,
    read_held_out,
)
from common.families.image_text.embedding import encode_images
from common.families.image_text.evaluation import protocol
from common.families.image_text.photographs import (
    CLASSES,
    UNSEEN_PHOTO_TEMPLATES,
    photographs_to_judge,
)
from projects.mofi.bundled import training_drawings
from projects.mofi.class_retrieval import average_precisions, class_retrieval
from projects.mofi.config import Config
from projects.mofi.gpr1200 import gpr1200_metrics, gpr_folder
from projects.mofi.module import MOFI, QUALITY

JUDGED_PHOTOS, PROBED_PHOTOS = 1000, 2000
LEFT_OUT = "flag"  # a quarter of all drawings
HEAD = 8  # training drawings from which a noun counts as frequent
L2_GRID = (1e-4, 1e-3, 1e-2, 1e-1)


class HeldOut(NamedTuple):
    """What the pool is judged on."""

    photos: LabelledPixels
    drawings: Tensor  # (N, 3, S, S) uint8
    names: list[str]  # of these images
    nouns: list[str]


def evaluate(cfg: Config, module: MOFI, workspace: Workspace) -> dict[str, float]:
    """All metrics that the config asks for."""
    metrics = {"logit_scale": float(module.logit_scale())}
    if module.quality[0] >= 0:
        metrics |= dict(zip(QUALITY, module.quality.tolist(), strict=True))
    with evaluated(module, cfg.trainer.accelerator):
        if cfg.data.source == "pool":
            metrics |= evaluate_pool(cfg, module, workspace)
        elif cfg.data.source == "synthetic":
            metrics |= evaluate_synthetic(cfg, module)
        if cfg.eval.datasets:
            metrics |= protocol(cfg, module, workspace)(cfg.eval.datasets)
        if (folder := gpr_folder(cfg)) is not None:
            metrics |= gpr1200_metrics(cfg, module, folder, workspace)
    return metrics


def held_out(cfg: Config) -> HeldOut:
    """1,000 photographs, and drawings of nouns that two of them have, without near-copies.

    Of drawings that are variants of each other (pixel correlation above `eval.near_copy`, or one
    title but for its last word) the first one stays; flags are left out.
    """
    data = cfg.data
    judged = photographs_to_judge(data.root, cfg.eval.split, data.image_size)
    photos = balanced_subset(judged, JUDGED_PHOTOS)
    rows = [r for r in read_held_out(cfg) if r["noun"] and r["noun"] != LEFT_OUT]
    pixels = pool_images([row["image"] for row in rows], data)
    same = torch.tensor(near_copies(pixels, [row["name"] for row in rows], cfg.eval.near_copy))
    fresh = [i for i in range(len(rows)) if not bool(same[i, :i].any())]
    times = Counter(rows[i]["noun"] for i in fresh)
    kept = [i for i in fresh if times[rows[i]["noun"]] >= 2]
    chosen = [rows[i] for i in kept]
    names, nouns = [r["image"] for r in chosen], [r["noun"] for r in chosen]
    return HeldOut(photos, pixels[kept], names, nouns)


def near_copies(pixels: Tensor, titles: Sequence[str], bound: float) -> list[list[bool]]:
    """(N, N) whether two images are variants of each other."""
    grey = resized(pixels, 16).float().mean(1).flatten(1)
    grey = torch.nn.functional.normalize(grey - grey.mean(1, keepdim=True), dim=1)
    keys = [clipart_key(title) for title in titles]
    equal = torch.tensor([[a == b for b in keys] for a in keys])
    copies: list[list[bool]] = ((grey @ grey.T > bound) | equal).tolist()
    return copies


def evaluate_pool(
    cfg: Config, module: MOFI, workspace: Workspace | None = None
) -> dict[str, float]:
    """Photographs and drawings that were not trained on; see `pool_retrieval`.

    Zero-shot classes of the photographs are in templates that no caption is made from; kNN and
    linear probe learn from training photographs with their true labels.
    """
    judged = held_out(cfg)
    photos, drawings = (
        encode_images(cfg, module, x) for x in (judged.photos.images, judged.drawings)
    )
    metrics = pool_retrieval(cfg, judged, photos, drawings, workspace)
    labels = judged.photos.labels
    classes = class_embeddings(module.encode_texts, CLASSES, UNSEEN_PHOTO_TEMPLATES).cpu()
    accuracy = zeroshot_accuracy(photos, labels, classes, ks=(1,))
    metrics |= {f"zeroshot_{name}": value for name, value in accuracy.items()}
    if workspace is not None:
        right = (photos @ classes.T).argmax(1) == labels
        workspace.items("zeroshot_top1", right.double().tolist())
    references = load_cifar10(cfg.data.root, "train", size=cfg.data.image_size, limit=PROBED_PHOTOS)
    train = encode_images(cfg, module, references.images), references.labels
    metrics |= knn_accuracy(*train, photos, labels, ks=(cfg.eval.knn,))
    if cfg.eval.probe:
        metrics |= linear_probe(*train, photos, labels, l2_grid=L2_GRID, seed=cfg.seed)
    return metrics


def pool_retrieval(
    cfg: Config,
    judged: HeldOut,
    photos: Tensor,
    drawings: Tensor,
    workspace: Workspace | None = None,
) -> dict[str, float]:
    """GPR1200-style mAP of any features of the held-out images.

    ``cifar_map`` over photographs; ``drawings_map_macro`` over nouns; ``head_map`` and ``tail_map``
    over drawings whose noun eight training drawings have or fewer.
    """
    metrics = {f"cifar_{k}": v for k, v in class_retrieval(photos, judged.photos.labels).items()}
    nouns = sorted(set(judged.nouns))
    labels = torch.tensor([nouns.index(noun) for noun in judged.nouns])
    times = Counter(noun for _, _, noun in training_drawings(cfg.data.root))
    parts = {
        "head": [i for i, noun in enumerate(nouns) if times[noun] >= HEAD],
        "tail": [i for i, noun in enumerate(nouns) if times[noun] < HEAD],
    }
    retrieval = class_retrieval(drawings, labels, {k: v for k, v in parts.items() if v})
    metrics |= {f"drawings_{name}": value for name, value in retrieval.items()}
    if workspace is not None:
        by_photo = average_precisions(photos, judged.photos.labels)
        workspace.items("cifar_map", by_photo.tolist())
        by_drawing = average_precisions(drawings, labels)
        means = [float(by_drawing[labels == c].mean()) for c in range(len(nouns))]
        workspace.items("drawings_map_macro", means)
        shown = [to_pil_image(image) for image in judged.photos.images]
        rows = same_class_gallery(photos @ photos.T, shown, judged.photos.labels.tolist())
        workspace.gallery("photographs to photographs", rows)
        pictures = [pool_picture(name, cfg.data) for name in judged.names]
        rows = same_class_gallery(drawings @ drawings.T, pictures, labels.tolist())
        workspace.gallery("drawings to drawings", rows)
    return metrics


def evaluate_synthetic(cfg: Config, module: MOFI) -> dict[str, float]:
    """Retrieval and zero-shot accuracy on the synthetic images."""
    pairs = synthetic_set(cfg.data)
    images = encode_images(cfg, module, pairs.images)
    classes = class_embeddings(module.encode_texts, pairs.class_names, UNSEEN_TEMPLATES).cpu()
    accuracy = zeroshot_accuracy(images, pairs.labels, classes, ks=(1,))
    probed = linear_probe(images, pairs.labels, images, pairs.labels, l2_grid=(1e-2,))
    return (
        class_retrieval(images, pairs.labels)
        | {f"zeroshot_{name}": value for name, value in accuracy.items()}
        | {"linear_probe_top1": probed["linear_probe_top1"]}
    )
