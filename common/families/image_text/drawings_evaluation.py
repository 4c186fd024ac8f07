"""Evaluations on the bundled pool of drawings: retrieval, zero-shot nouns, held-out sets.

# N pairs of a drawing and a text, D dimensions of an embedding
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from common.config import UserError
from common.encoders import modes
from common.engine.workspace import Workspace
from common.evaluation.gallery import retrieval_gallery
from common.evaluation.image_text.zeroshot import class_embeddings, zeroshot_accuracy
from common.evaluation.retrieval.cross_modal import (
    cross_modal_recall,
    image_text_retrieval,
    relevant_ranks,
)
from common.families.image_text.drawings import (
    UNSEEN_TEMPLATES,
    class_nouns,
    pool_images,
    pool_picture,
    read_held_out,
    read_train_names,
)
from common.families.image_text.embedding import encode_images, encode_texts
from common.families.image_text.module import ImageTextModule
from common.families.image_text.protocol import ImageTextConfig
from common.losses.image_text import ClipLoss

LOSS_BATCH = 128
CUT = 10  # of a ranking


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
    pairs, queries = torch.arange(len(chosen)), [rows[i]["query"] for i in chosen]
    texts = encode_texts(cfg, module, queries)
    scores = image_text_retrieval(images[chosen], texts, pairs)
    metrics = {key: value for key, value in scores.items() if "recall_at" in key}
    for name in ("recall_at_1", "recall_at_1_chance", "recall_at_10", "recall_at_10_chance"):
        metrics[f"retrieval_{name}"] = _both_ways(scores, name)
    names = encode_texts(cfg, module, [rows[i]["name"] for i in chosen])
    by_name = image_text_retrieval(images[chosen], names, pairs)
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
    pairs, scores = torch.arange(len(images)), images @ texts.T
    ranks = torch.stack(
        [relevant_ranks(images, texts, pairs), relevant_ranks(texts, images, pairs)]
    )
    workspace.items("retrieval_recall_at_10", (ranks <= 10).double().mean(0).tolist())
    right = pairs.tolist()
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
    scores = zeroshot_accuracy(images[kept], labels, weights)
    majority = max(Counter(labels.tolist()).values()) / len(labels)
    return {f"zeroshot_{k}": v for k, v in scores.items()} | {"zeroshot_majority_class": majority}


def pair_loss(module: ImageTextModule, images: Tensor, texts: Tensor) -> float:
    """Mean contrastive loss of matching rows in fixed batches."""
    loss, scale = ClipLoss(gather=False), module.logit_scale().detach().cpu()
    batches = zip(torch.split(images, LOSS_BATCH), torch.split(texts, LOSS_BATCH), strict=True)
    values = [float(loss(i, t, scale).loss) for i, t in batches if len(i) == LOSS_BATCH]
    return sum(values) / max(1, len(values))


def training_rows(num_training: int, num_held_out: int) -> list[int]:
    """Evenly spaced training drawings in whole batches of `pair_loss`, about as many as held-out.

    None twice; no row where there are fewer than one batch.

    >>> len(training_rows(1000, 300)), training_rows(100, 300)
    (256, [])
    """
    count = min(max(LOSS_BATCH, num_held_out), num_training) // LOSS_BATCH * LOSS_BATCH
    return [i * num_training // count for i in range(count)]


def loss_gap(
    module: ImageTextModule,
    training: tuple[Tensor, Tensor] | None,
    held_out: tuple[Tensor, Tensor],
) -> dict[str, float]:
    """Contrastive loss on held-out pairs and how much higher it is than on training pairs.

    Args:
        module: gives the scale.
        training: unit rows (N, D) of drawings and of their names, see `training_rows`; None: the
            held-out loss alone.
        held_out: the same of held-out drawings.
    """
    test = pair_loss(module, *held_out)
    if training is None:
        return {"pair_loss_test": test}
    train = pair_loss(module, *training)
    return {"pair_loss_train": train, "pair_loss_test": test, "loss_gap": test - train}


def recall_both_ways(images: Tensor, texts: Tensor, strings: Sequence[str]) -> tuple[Tensor, float]:
    """Recall@10 of each pair, mean of both directions, and its chance.

    Pairs with equal texts are correct answers for each other.

    Args:
        images: (N, D) unit rows.
        texts: (N, D) unit rows.
        strings: N texts.

    Returns:
        (N,) float64 in {0, 0.5, 1}, and the expectation of a random ranking.
    """
    answers = equal_texts(strings)
    ranks = relevant_ranks(images, texts, answers), relevant_ranks(texts, images, answers)
    chance = cross_modal_recall(images, texts, answers, (CUT,))[f"recall_at_{CUT}_chance"]
    return (torch.stack(ranks) <= CUT).double().mean(0), chance


def equal_texts(strings: Sequence[str]) -> list[list[int]]:
    """For each text the rows of all that equal it.

    >>> equal_texts(["a", "b", "a"])
    [[0, 2], [1], [0, 2]]
    """
    rows: dict[str, list[int]] = {}
    for i, text in enumerate(strings):
        rows.setdefault(text, []).append(i)
    return [rows[text] for text in strings]


# -- baselines -----------------------------------------------------------------------------------


def require_pool(cfg: ImageTextConfig) -> None:
    """Refuse the baselines of a config on other data.

    Raises:
        UserError: another ``data.source`` than pool.
    """
    if cfg.data.source != "pool":
        raise UserError(
            "this baseline needs the bundled drawings (data.source=pool), "
            f"and this config has data.source={cfg.data.source}"
        )


def chance_of(metrics: dict[str, float]) -> dict[str, float]:
    """The entries ``<name>_chance`` of evaluation metrics as ``<name>``.

    >>> chance_of({"top1": 0.5, "top1_chance": 0.1})
    {'top1': 0.1}
    """
    end = "_chance"
    return {name.removesuffix(end): v for name, v in metrics.items() if name.endswith(end)}


def _both_ways(metrics: dict[str, float], name: str) -> float:
    return (metrics[f"image_to_text_{name}"] + metrics[f"text_to_image_{name}"]) / 2
