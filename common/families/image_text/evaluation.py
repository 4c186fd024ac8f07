"""Evaluation of two towers: held-out drawings of the pool, synthetic pairs, labelled image sets."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from common.data.lookup import data_root
from common.encoders import modes
from common.engine.workspace import Workspace
from common.evaluation import encoding
from common.evaluation.gallery import retrieval_gallery
from common.evaluation.image_text.image_sets import ImageSetProtocol
from common.evaluation.image_text.zeroshot import (
    LACLIP_TEMPLATES,
    OPENAI_TEMPLATES,
    class_embeddings,
    zeroshot_accuracy,
)
from common.evaluation.retrieval.cross_modal import image_text_retrieval, relevant_ranks
from common.families.image_text.data import eval_transform, synthetic_set
from common.families.image_text.drawings import (
    class_nouns,
    pool_images,
    pool_picture,
    read_held_out,
    read_train_names,
)
from common.families.image_text.module import ImageTextModule
from common.families.image_text.protocol import ImageTextConfig
from common.losses.image_text import ClipLoss

# sentences that no training text of the pool or of the synthetic set is made from
UNSEEN_TEMPLATES = (
    "a sketch of the {}.",
    "one can make out a {} in this figure.",
    "my favourite {} emblem.",
)
LOSS_BATCH = 128


def evaluate_image_text(
    cfg: ImageTextConfig,
    module: ImageTextModule,
    workspace: Workspace,
    build: Callable[[], ImageTextModule],
) -> dict[str, float]:
    """All metrics that the config asks for.

    Args:
        cfg: the experiment's config.
        module: trained.
        workspace: gets galleries and item values.
        build: makes the module before training, for the metrics ``untrained_*``, see `untrained`.
    """
    metrics = {"logit_scale": float(module.logit_scale())}
    with modes.evaluated(module, cfg.trainer.accelerator):
        if cfg.data.source == "pool":
            metrics |= evaluate_pool(cfg, module, workspace, build)
        elif cfg.data.source == "synthetic":
            metrics |= evaluate_synthetic(cfg, module)
        if cfg.eval.datasets:
            metrics |= protocol(cfg, module, workspace)(cfg.eval.datasets)
    return metrics


def protocol(
    cfg: ImageTextConfig, module: ImageTextModule, workspace: Workspace
) -> ImageSetProtocol:
    """ImageNet and the fifteen downstream sets with this model."""
    device = module.logit_scale.log_scale.device

    def embed(images: Tensor) -> tuple[Tensor, Tensor]:
        images = images.to(device)
        return module.encoder.encode_image(images), module.encoder.image_features(images)

    own = OPENAI_TEMPLATES if cfg.eval.templates == "openai" else LACLIP_TEMPLATES
    return ImageSetProtocol(
        embed,
        module.encode_texts,
        eval_transform(cfg.data),
        data_root(cfg.eval.root or cfg.data.root),
        protocols=cfg.eval.protocols,
        templates={"imagenet": own},
        batch_size=cfg.eval.batch_size,
        num_workers=cfg.data.num_workers,
        seed=cfg.seed,
        progress=workspace.progress,
    )


def encode_images(cfg: ImageTextConfig, module: ImageTextModule, images: Tensor) -> Tensor:
    """Unit embeddings (N, D) of uint8 images (N, 3, H, W), on the CPU."""
    transform, device = eval_transform(cfg.data), module.logit_scale.log_scale.device

    def encode(rows: list[int]) -> Tensor:
        batch = transform.batch(images[torch.tensor(rows)]).to(device)
        return module.encoder.encode_image(batch).float()

    order = list(range(len(images)))
    return F.normalize(encoding.encode(encode, order, batch_size=cfg.eval.batch_size), dim=1)


def encode_texts(cfg: ImageTextConfig, module: ImageTextModule, texts: Sequence[str]) -> Tensor:
    """Unit embeddings (N, D) of texts, on the CPU."""
    rows = encoding.encode_texts(module.encode_texts, list(texts), batch_size=cfg.eval.batch_size)
    return F.normalize(rows, dim=1)


def evaluate_pool(
    cfg: ImageTextConfig,
    module: ImageTextModule,
    workspace: Workspace,
    build: Callable[[], ImageTextModule],
) -> dict[str, float]:
    """Retrieval by keywords and zero-shot nouns on drawings that were not trained on.

    Retrieval uses the drawings whose keyword query is theirs alone and has two keywords or more;
    no query holds a word of the drawing's name. Zero-shot classes are the nouns with four training
    drawings and two held-out ones, in templates that were never trained on. The untrained model is
    evaluated alike; ``pair_loss_*`` on training and held-out names shows overfitting.
    """
    rows = read_held_out(cfg)
    pixels = pool_images([row["image"] for row in rows], cfg.data)
    raw = pool_metrics(cfg, modes.untrained(build, cfg.seed, module), rows, pixels)
    metrics = pool_metrics(cfg, module, rows, pixels, workspace)
    metrics |= {f"untrained_{k}": raw[k] for k in ("retrieval_recall_at_10", "zeroshot_top1")}
    train_images, train_names = read_train_names(cfg.data, len(rows))
    held_out = (pixels, [row["name"] for row in rows])
    for part, (images, names) in {"train": (train_images, train_names), "test": held_out}.items():
        embedded = encode_images(cfg, module, images), encode_texts(cfg, module, names)
        metrics[f"pair_loss_{part}"] = pair_loss(module, *embedded)
    return metrics


def pool_metrics(
    cfg: ImageTextConfig,
    module: ImageTextModule,
    rows: list[dict[str, Any]],
    pixels: Tensor,
    workspace: Workspace | None = None,
) -> dict[str, float]:
    """Retrieval and zero-shot metrics of one model; a workspace gets galleries and item values."""
    images = encode_images(cfg, module, pixels)
    times = Counter(row["query"] for row in rows)
    chosen = [i for i, r in enumerate(rows) if times[r["query"]] == 1 and ", " in r["query"]]
    own, queries = torch.arange(len(chosen)), [rows[i]["query"] for i in chosen]
    texts = encode_texts(cfg, module, queries)
    found = image_text_retrieval(images[chosen], texts, own)
    metrics = {key: value for key, value in found.items() if "recall_at" in key}
    for name in ("recall_at_1", "recall_at_1_chance", "recall_at_10", "recall_at_10_chance"):
        metrics[f"retrieval_{name}"] = _both_ways(found, name)
    names = encode_texts(cfg, module, [rows[i]["name"] for i in chosen])
    by_name = image_text_retrieval(images[chosen], names, own)
    metrics["name_recall_at_10"] = _both_ways(by_name, "recall_at_10")
    metrics["name_recall_at_10_chance"] = metrics["retrieval_recall_at_10_chance"]
    metrics |= zeroshot_nouns(cfg, module, images, [row["noun"] for row in rows])
    if workspace is not None:
        pictures = [pool_picture(rows[i]["image"], cfg.data) for i in chosen]
        show_retrieval(workspace, images[chosen], texts, pictures, queries)
    return metrics


def show_retrieval(
    workspace: Workspace, images: Tensor, texts: Tensor, pictures: list[Any], queries: list[str]
) -> None:
    """Save each item's value of the primary metric, and galleries in both directions."""
    own, scores = torch.arange(len(images)), images @ texts.T
    ranks = torch.stack([relevant_ranks(images, texts, own), relevant_ranks(texts, images, own)])
    workspace.items("retrieval_recall_at_10", (ranks <= 10).double().mean(0).tolist())
    right = own.tolist()
    workspace.gallery("keywords to drawings", retrieval_gallery(scores.T, queries, pictures, right))
    workspace.gallery("drawing to keywords", retrieval_gallery(scores, pictures, queries, right))


def zeroshot_nouns(
    cfg: ImageTextConfig, module: ImageTextModule, images: Tensor, nouns: Sequence[str]
) -> dict[str, float]:
    """Zero-shot accuracy over the nouns of the pool that occur at least twice."""
    times = Counter(nouns)
    classes = [noun for noun in class_nouns(cfg.data) if times[noun] >= 2]
    kept = [i for i, noun in enumerate(nouns) if noun in classes]
    labels = torch.tensor([classes.index(nouns[i]) for i in kept])
    weights = class_embeddings(module.encode_texts, classes, UNSEEN_TEMPLATES).cpu()
    found = zeroshot_accuracy(images[kept], labels, weights)
    majority = max(Counter(labels.tolist()).values()) / len(labels)
    return {f"zeroshot_{k}": v for k, v in found.items()} | {"zeroshot_majority_class": majority}


def pair_loss(module: ImageTextModule, images: Tensor, texts: Tensor) -> float:
    """Mean contrastive loss of matching rows in fixed batches."""
    loss, scale = ClipLoss(gather=False), module.logit_scale().detach().cpu()
    batches = zip(torch.split(images, LOSS_BATCH), torch.split(texts, LOSS_BATCH), strict=True)
    values = [float(loss(i, t, scale).loss) for i, t in batches if len(i) == LOSS_BATCH]
    return sum(values) / max(1, len(values))


def evaluate_synthetic(cfg: ImageTextConfig, module: ImageTextModule) -> dict[str, float]:
    """Zero-shot accuracy on the synthetic images, in templates that were never trained on."""
    pairs = synthetic_set(cfg.data)
    images = encode_images(cfg, module, pairs.images)
    weights = class_embeddings(module.encode_texts, pairs.class_names, UNSEEN_TEMPLATES).cpu()
    found = zeroshot_accuracy(images, pairs.labels, weights, ks=(1,))
    return {f"zeroshot_{name}": value for name, value in found.items()}


def _both_ways(metrics: dict[str, float], name: str) -> float:
    return (metrics[f"image_to_text_{name}"] + metrics[f"text_to_image_{name}"]) / 2
