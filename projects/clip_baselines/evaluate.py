"""Read-outs of the two heads: z (linear), h (MLP), nine convex combinations of their cosines."""

from collections.abc import Callable, Sequence
from itertools import chain
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from common.data.image.benchmarks import (
    IMAGE_SETS,
    LabelledImages,
    judged_as_imagenet,
    load_image_set,
)
from common.data.image.sources import CachedImages
from common.data.lookup import data_root
from common.encoders import modes
from common.engine.tracking import read_metrics
from common.engine.workspace import Workspace
from common.evaluation.gallery import retrieval_gallery
from common.evaluation.image_text.clip_templates import clip_templates
from common.evaluation.image_text.image_sets import require_image_sets
from common.evaluation.image_text.zeroshot import (
    LACLIP_TEMPLATES,
    class_embeddings,
    zeroshot_accuracy,
)
from common.evaluation.retrieval.cross_modal import relevant_ranks
from common.families.image_text.data import eval_transform
from common.families.image_text.drawings import (
    pool_images,
    pool_pairs,
    pool_picture,
    read_held_out,
)
from common.families.image_text.drawings_evaluation import (
    loss_gap,
    recall_both_ways,
    training_rows,
)
from common.families.image_text.evaluation import evaluate_synthetic
from common.families.image_text.photographs import (
    CLASSES,
    UNSEEN_PHOTO_TEMPLATES,
    photographs_to_judge,
)
from projects.clip_baselines.config import Config
from projects.clip_baselines.module import Rocket

WEIGHTS = tuple(w / 10 for w in range(1, 10))  # of z in the ensembles
Both = dict[str, Tensor]  # "z" and perhaps "h": unit rows


def combined(both: Both, weight: float) -> Tensor:
    """Unit vectors whose cosines are ``weight * cos_z + (1 - weight) * cos_h``.

    >>> a = {"z": torch.tensor([[1.0, 0.0]]), "h": torch.tensor([[0.0, 1.0]])}
    >>> b = {"z": torch.tensor([[1.0, 0.0]]), "h": torch.tensor([[1.0, 0.0]])}
    >>> round(float(combined(a, 0.3) @ combined(b, 0.3).T), 4)  # 0.3 * 1 + 0.7 * 0
    0.3
    """
    return torch.cat([weight**0.5 * both["z"], (1 - weight) ** 0.5 * both["h"]], dim=1)


def readouts(both: Both) -> Both:
    """All read-outs by name: ``z``, and with an MLP head ``h`` and ``ens_0.1`` ... ``ens_0.9``."""
    vectors = dict(both)
    if "h" in both:
        vectors |= {f"ens_{w}": combined(both, w) for w in WEIGHTS}
    return vectors


def headline(cfg: Config, both: Both) -> Tensor:
    """The read-out that is judged: a fixed ensemble, z where there is one head only."""
    return combined(both, cfg.eval.ensemble) if "h" in both else both["z"]


def class_weights(module: Rocket, names: Sequence[str], templates: Sequence[str]) -> Both:
    """Class vectors of each head: normalised mean over prompts of unit embeddings."""
    keys = ("z", "h") if module.heads.local else ("z",)

    def of(key: str) -> Callable[[list[str]], Tensor]:
        return lambda texts: module.embed_texts(texts)[key].cpu()

    return {key: class_embeddings(of(key), names, templates) for key in keys}


def zeroshot(images: Both, classes: Both, labels: Tensor, name: str = "top1") -> dict[str, float]:
    """A metric of `class_metric` for every read-out."""
    weights = readouts(classes)
    return {
        key: class_metric(rows, labels, weights[key], name)
        for key, rows in readouts(images).items()
    }


def evaluate(
    cfg: Config, module: Rocket, workspace: Workspace, build: Callable[[], Rocket]
) -> dict[str, float]:
    """All metrics that the config asks for, with speed and memory alongside them."""
    metrics = {"logit_scale": float(module.logit_scale()), **cost(workspace)}
    if module.local_scale is not None:
        metrics["local_scale"] = float(module.local_scale())
    with modes.evaluated(module, cfg.trainer.accelerator):
        if cfg.data.source == "synthetic":
            metrics |= evaluate_synthetic(cfg, module)
        elif cfg.data.source == "pool":
            metrics |= evaluate_pool(cfg, module, workspace)
            if cfg.eval.untrained:
                raw = evaluate_pool(cfg, modes.untrained(build, cfg.seed, module))
                kept = ("score", "cifar_top1", "name_recall_at_10")
                metrics |= {f"untrained_{key}": raw[key] for key in kept}
        for name in cfg.eval.datasets:
            metrics |= evaluate_image_set(cfg, module, name)
    return metrics


def cost(workspace: Workspace) -> dict[str, float]:
    """Samples per second (median over the logged steps) and peak memory of the training run."""
    path = workspace.curves
    curves = read_metrics(path) if path.exists() else {}
    costs = {}
    for name in ("samples_per_second", "peak_memory_mib"):
        values = [v for key, points in curves.items() if key.endswith(name) for _, v in points]
        if values:
            costs[name] = median(values) if name == "samples_per_second" else max(values)
    return costs


# -- drawings and photographs --------------------------------------------------------------------


def evaluate_pool(
    cfg: Config, module: Rocket, workspace: Workspace | None = None
) -> dict[str, float]:
    """Held-out drawings by their names, photographs by class in templates never trained on.

    ``score`` is the mean of ``name_recall_at_10`` (both directions) and ``cifar_top1`` in the
    headline read-out; ``<read-out>_<metric>`` are the others; ``loss_gap`` is the loss on held-out
    names minus that on training names.
    """
    rows = read_held_out(cfg)
    drawings = embed_pixels(cfg, module, pool_images([row["image"] for row in rows], cfg.data))
    names = [row["name"] for row in rows]
    words = embed_words(cfg, module, names)
    judged = photographs_to_judge(cfg.data.root, cfg.eval.split, cfg.data.image_size)
    photos, labels = embed_pixels(cfg, module, judged.images), judged.labels
    classes = class_weights(module, CLASSES, UNSEEN_PHOTO_TEMPLATES)
    accuracy = zeroshot(photos, classes, labels)
    metrics: dict[str, float] = {}
    texts = readouts(words)
    for key, images in readouts(drawings).items():
        metrics[f"{key}_cifar_top1"] = accuracy[key]
        metrics[f"{key}_name_recall_at_10"] = _recall(images, texts[key], names)
        metrics[f"{key}_score"] = _mean(metrics, f"{key}_")
    hits, chance = recall_both_ways(headline(cfg, drawings), headline(cfg, words), names)
    right = relevant_ranks(headline(cfg, photos), headline(cfg, classes), labels) == 1
    metrics["cifar_top1"] = float(right.double().mean())
    metrics["name_recall_at_10"] = float(hits.mean())
    metrics["score"] = _mean(metrics, "")
    metrics["cifar_top1_chance"] = 1 / len(CLASSES)
    metrics["name_recall_at_10_chance"] = chance
    metrics["score_chance"] = (1 / len(CLASSES) + chance) / 2
    metrics |= name_losses(cfg, module, drawings["z"], words["z"])
    if workspace is not None:
        workspace.items("name_recall_at_10", hits.tolist())
        workspace.items("cifar_top1", right.double().tolist())
        workspace.mean_items("score", ["name_recall_at_10", "cifar_top1"])
        pictures = [pool_picture(row["image"], cfg.data) for row in rows]
        scores = headline(cfg, drawings) @ headline(cfg, words).T
        place = list(range(len(rows)))
        workspace.gallery("name to drawings", retrieval_gallery(scores.T, names, pictures, place))
        workspace.gallery("drawing to names", retrieval_gallery(scores, pictures, names, place))
    return metrics


def embed_pixels(cfg: Config, module: Rocket, images: Tensor) -> Both:
    """Unit embeddings of uint8 images (N, 3, H, W), on the CPU."""
    transform, device = eval_transform(cfg.data), module.logit_scale.log_scale.device
    parts = torch.split(images, cfg.eval.batch_size)
    return _unit_rows(module.embed_images(transform.batch(part).to(device)) for part in parts)


def embed_words(cfg: Config, module: Rocket, texts: list[str]) -> Both:
    """Unit embeddings of texts, on the CPU."""
    step = cfg.eval.batch_size
    return _unit_rows(module.embed_texts(texts[i : i + step]) for i in range(0, len(texts), step))


def _unit_rows(batches: Any) -> Both:
    first, *others = list(batches)
    return {
        key: F.normalize(torch.cat([part[key].cpu() for part in chain([first], others)]), dim=1)
        for key in first
    }


def _recall(images: Tensor, texts: Tensor, names: Sequence[str]) -> float:
    return float(recall_both_ways(images, texts, names)[0].mean())


def _mean(metrics: dict[str, float], prefix: str) -> float:
    return (metrics[f"{prefix}cifar_top1"] + metrics[f"{prefix}name_recall_at_10"]) / 2


def name_losses(cfg: Config, module: Rocket, images: Tensor, texts: Tensor) -> dict[str, float]:
    """`loss_gap` of plain CLIP on the clean pair.

    Args:
        cfg: its seed draws the drawings that were trained on.
        module: trained.
        images: (N, E) unit rows of the held-out drawings.
        texts: (N, E) of their names.
    """
    source, captions = pool_pairs(cfg, eval_transform(cfg.data))
    assert isinstance(source, CachedImages)
    training, rows = None, training_rows(len(captions), len(images))
    if rows:
        pixels = embed_pixels(cfg, module, source.images[rows])["z"]
        training = pixels, embed_words(cfg, module, [captions.texts(i)[0] for i in rows])["z"]
    return loss_gap(module, training, (images, texts))


# -- labelled image sets -------------------------------------------------------------------------


def evaluate_image_set(cfg: Config, module: Rocket, name: str) -> dict[str, float]:
    """Zero-shot metric of a labelled set for every read-out, ``<set>_<read-out>_<metric>``.

    ``<set>_<metric>`` is that of the headline read-out.
    """
    root = data_root(cfg.eval.root or cfg.data.root)
    require_image_sets([name], root)
    data = load_image_set(name, root, eval_transform(cfg.data))
    loader = DataLoader(
        data, cfg.eval.batch_size, num_workers=cfg.data.num_workers, collate_fn=data.collate
    )
    device = module.logit_scale.log_scale.device
    parts, labels = [], []
    for batch in loader:
        parts.append(module.embed_images(batch["images"].to(device)))
        labels.append(batch["labels"])
    classes = class_weights(module, data.class_names, templates_of(cfg, name, data))
    metric = metric_of(name)
    images, truth = _unit_rows(parts), torch.cat(labels)
    values = zeroshot(images, classes, truth, metric)
    judged = class_metric(headline(cfg, images), truth, headline(cfg, classes), metric)
    read_outs = {f"{name}_{key}_{metric}": value for key, value in values.items()}
    return {f"{name}_{metric}": judged} | read_outs


def metric_of(name: str) -> str:
    """The official metric of a set."""
    if IMAGE_SETS[name].roc_auc:
        return "roc_auc"
    return "mean_per_class" if IMAGE_SETS[name].mean_per_class else "top1"


def class_metric(rows: Tensor, labels: Tensor, classes: Tensor, metric: str) -> float:
    """A metric of unit rows (N, E) and class vectors (C, E).

    ``roc_auc`` ranks by the difference of the two cosines, as the release does.
    """
    if metric != "roc_auc":
        return zeroshot_accuracy(rows, labels, classes, ks=(1,))[metric]
    from sklearn.metrics import roc_auc_score

    first, second = (rows @ classes.T).unbind(1)
    return float(roc_auc_score(labels.numpy(), (second - first).numpy()))


def templates_of(cfg: Config, name: str, data: LabelledImages) -> Sequence[str]:
    """Sentences of a set: with ``eval.templates=openai`` the whole list of CLIP's."""
    if cfg.eval.templates == "openai":
        return clip_templates(name)
    return LACLIP_TEMPLATES if judged_as_imagenet(name) else data.templates
