"""Zero-shot accuracy, template sweep, retrieval and structure transfer of the image-text pair."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from common.data.image.benchmarks import judged_as_imagenet, load_image_set
from common.data.lookup import data_root
from common.encoders import modes
from common.engine.workspace import Workspace
from common.evaluation.features.frozen import frozen_features, source_features
from common.evaluation.gallery import retrieval_gallery
from common.evaluation.image_text.zeroshot import (
    LACLIP_TEMPLATES,
    OPENAI_TEMPLATES,
    class_embeddings,
    zeroshot_accuracy,
)
from common.evaluation.retrieval.cross_modal import image_text_retrieval
from common.families.image_text.class_captions import captioned_cifar
from common.families.image_text.config import ORIGINAL
from common.families.image_text.data import eval_transform, official_files, synthetic_set
from common.families.image_text.drawings import UNSEEN_TEMPLATES
from common.families.image_text.embedding import encode_images, encode_texts
from projects.cwcl.config import Config
from projects.cwcl.locked_towers import given_part, tower_features
from projects.cwcl.module import ImageTextCWCL
from projects.cwcl.structure import linear_cka, structure_spearman
from projects.cwcl.template_sweep import template_sweep
from projects.cwcl.weights import weight_statistics

WEIGHT_BATCH = 500  # training images whose targets are looked at


def evaluate_pairs(
    cfg: Config,
    module: ImageTextCWCL,
    workspace: Workspace,
    build: Callable[[], ImageTextCWCL],
) -> dict[str, float]:
    """Metrics alongside those of the family, for the sources that have held-out data.

    Args:
        cfg: the experiment's config.
        module: trained.
        workspace: gets items and a gallery.
        build: makes the module before its training.
    """
    metrics: dict[str, float] = {}
    with modes.evaluated(module, cfg.trainer.accelerator):
        if cfg.data.source == "cifar10":
            metrics |= photographs(cfg, module, workspace)
            raw = photographs(cfg, untrained(cfg, module, build), None)
            kept = ("zeroshot_top1", "structure_spearman", "retrieval_recall_at_10")
            metrics |= {f"untrained_{name}": raw[name] for name in kept}
            metrics |= training_weights(cfg, module)
        if cfg.data.source == "synthetic":
            pairs = synthetic_set(cfg.data)
            images, texts = encode_images(cfg, module, pairs.images), [t[0] for t in pairs.texts]
            metrics |= pair_metrics(cfg, images, encode_texts(cfg, module, texts))
            metrics |= sweep(cfg, module, images, pairs.labels, pairs.class_names, UNSEEN_TEMPLATES)
        for name in cfg.eval.datasets:
            metrics |= {f"{name}_{k}": v for k, v in set_sweep(cfg, module, name).items()}
        if cfg.eval.pairs is not None:
            metrics |= pair_metrics(cfg, *held_out_pairs(cfg, module))
    return metrics


def photographs(
    cfg: Config, module: ImageTextCWCL, workspace: Workspace | None
) -> dict[str, float]:
    """CIFAR-10 classes by name, and held-out pairs; a workspace gets items and a gallery.

    Held-out captions all name the class of their picture: noise would hide what was learnt.
    """
    part = captioned_cifar(cfg.data, cfg.eval.split, cfg.seed)
    images = encode_images(cfg, module, part.images)
    classes = class_embeddings(module.encode_texts, part.class_names, LACLIP_TEMPLATES).cpu()
    metrics = {
        f"zeroshot_{k}": v for k, v in zeroshot_accuracy(images, part.labels, classes).items()
    }
    metrics |= sweep(cfg, module, images, part.labels, part.class_names, LACLIP_TEMPLATES)
    right_captions = replace(
        cfg.data, right_words=1.0, wrong_words=0.0
    )  # captions that name what is shown
    captions = captioned_cifar(right_captions, cfg.eval.split, cfg.seed).texts
    texts = encode_texts(cfg, module, captions)
    metrics |= pair_metrics(cfg, images, texts)
    if workspace is not None:
        correct = (images @ classes.T).argmax(1) == part.labels
        workspace.items("zeroshot_top1", correct.double().tolist())
        shown = _pictures(part.images[:200])
        places, rows = list(range(200)), texts[:200] @ images[:200].T
        workspace.gallery(
            "captions to photographs", retrieval_gallery(rows, captions[:200], shown, places)
        )
    return metrics


def pair_metrics(cfg: Config, images: Tensor, texts: Tensor) -> dict[str, float]:
    """Retrieval in both directions and structure transfer between U (images) and V (texts).

    Args:
        cfg: says how many pairs the similarity matrices have.
        images: (N, D) held-out embeddings of the frozen modality.
        texts: (N, D), row i belongs to image i.
    """
    retrieval = image_text_retrieval(images, texts, torch.arange(len(images)))
    metrics = {name: value for name, value in retrieval.items() if "recall_at" in name}
    for name in ("recall_at_10", "recall_at_10_chance"):
        sides = [retrieval[f"{way}_{name}"] for way in ("image_to_text", "text_to_image")]
        metrics[f"retrieval_{name}"] = sum(sides) / 2
    u, v = images[: cfg.eval.structure_pairs], texts[: cfg.eval.structure_pairs]
    if len(u) < len(images):
        metrics["structure_num_pairs"] = float(len(u))
    metrics["structure_spearman"] = structure_spearman(u, v)
    metrics["structure_cka"] = linear_cka(u, v)
    return metrics


def sweep(
    cfg: Config,
    module: ImageTextCWCL,
    images: Tensor,
    labels: Tensor,
    names: Sequence[str],
    templates: Sequence[str],
) -> dict[str, float]:
    """Zero-shot top-1 against the number of templates, for the counts that there are."""
    counts = [count for count in cfg.eval.sweep if count <= len(templates)]
    if not counts:
        return {}
    accuracies = template_sweep(images, labels, module.encode_texts, names, templates, counts)
    return {f"zeroshot_{name}": value for name, value in accuracies.items()}


def set_sweep(cfg: Config, module: ImageTextCWCL, name: str) -> dict[str, float]:
    """The same on a labelled set from disk."""
    if not cfg.eval.sweep:
        return {}
    root = data_root(cfg.eval.root or cfg.data.root)
    data = load_image_set(name, root, eval_transform(cfg.data))
    templates_of_config = OPENAI_TEMPLATES if cfg.eval.templates == "openai" else LACLIP_TEMPLATES
    templates = templates_of_config if judged_as_imagenet(name) else data.templates
    device = module.logit_scale.log_scale.device
    loader = torch.utils.data.DataLoader(
        data, cfg.eval.batch_size, num_workers=cfg.data.num_workers, collate_fn=data.collate
    )
    rows = [
        (module.encoder.encode_image(b["images"].to(device)).cpu(), b["labels"]) for b in loader
    ]
    images, labels = (torch.cat(column) for column in zip(*rows, strict=True))
    return sweep(cfg, module, images, labels, data.class_names, templates)


def held_out_pairs(cfg: Config, module: ImageTextCWCL) -> tuple[Tensor, Tensor]:
    """Embeddings of the pairs of ``eval.pairs``."""
    data = replace(cfg.data, source="csv", captions=cfg.eval.pairs, texts=[ORIGINAL])
    images, captions = official_files(data, eval_transform(cfg.data), "")
    features, kept = source_features(
        _ImageSide(module), images, batch_size=cfg.eval.batch_size, num_workers=data.num_workers
    )
    texts = [captions.texts(int(i))[0] for i in kept]
    return F.normalize(features, dim=1), encode_texts(cfg, module, texts)


class _ImageSide(torch.nn.Module):
    """The image side alone, images (B, 3, H, W) -> embeddings (B, D)."""

    def __init__(self, module: ImageTextCWCL) -> None:
        super().__init__()
        self.encoder = module.encoder

    def forward(self, images: Tensor) -> Tensor:
        return self.encoder.encode_image(images)


def untrained(
    cfg: Config, module: ImageTextCWCL, build: Callable[[], ImageTextCWCL]
) -> ImageTextCWCL:
    """The module before its first step, with the same mean feature."""
    fresh = modes.untrained(build, cfg.seed, module)
    if cfg.model.centred:
        fresh.set_mean(given_part(module.encoder).mean)  # type: ignore[arg-type]
    return fresh


def training_weights(cfg: Config, module: ImageTextCWCL) -> dict[str, float]:
    """What the targets of one batch of training images say; see `weight_statistics`."""
    if cfg.data.source != "cifar10":
        return {}
    part = captioned_cifar(cfg.data, "train", cfg.seed)
    rows = torch.arange(0, len(part.images), max(1, len(part.images) // WEIGHT_BATCH))
    features = image_features(cfg, module, part.images[rows[:WEIGHT_BATCH]])
    if not module.raw_weights and cfg.model.centred:
        features = features - given_part(module.encoder).mean.cpu()  # type: ignore[operator]
    return weight_statistics(features, part.labels[rows[:WEIGHT_BATCH]])


def image_features(cfg: Config, module: ImageTextCWCL, images: Tensor) -> Tensor:
    """Tower features (N, F) of uint8 images, on the CPU; never centred."""
    return frozen_features(_Tower(module), images, eval_transform(cfg.data).batch)


class _Tower(torch.nn.Module):
    """The given tower alone."""

    def __init__(self, module: ImageTextCWCL) -> None:
        super().__init__()
        self.encoder = module.encoder

    def forward(self, images: Tensor) -> Tensor:
        return tower_features(self.encoder, images)


def _pictures(images: Tensor) -> list[Any]:
    from PIL import Image

    return [Image.fromarray(image.permute(1, 2, 0).numpy()).resize((96, 96)) for image in images]
