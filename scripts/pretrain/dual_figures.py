"""Figures of the small dual encoder: zero-shot classes, retrieval, and its modality gap."""

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from common.data.image.sources import EvalTransform
from common.data.lookup import bundled
from common.data.tables import read_jsonl
from common.encoders import modes
from common.encoders.image_text.open_clip_dual import OpenClipDualEncoder
from common.evaluation.image_text.zeroshot import class_embeddings, zeroshot_accuracy
from common.evaluation.retrieval.cross_modal import image_text_retrieval
from common.evaluation.retrieval.runs import tfidf_vectors
from common.families.image_text.config import ImageTextData
from common.families.image_text.drawings import POOL, pool_images
from common.families.image_text.photographs import (
    CLASSES,
    UNSEEN_PHOTO_TEMPLATES,
    photographs,
)
from scripts.pretrain.drawings import training_drawings

BATCH = 256
PIXELS, NEAREST = 16, 10  # of the retrieval without a model: height and width, drawings


def encode_pictures(encoder: OpenClipDualEncoder, images: Tensor) -> Tensor:
    """Unit embeddings (N, D) of uint8 images (N, 3, H, W)."""
    transform = EvalTransform(encoder.image_size)
    rows = [encoder.encode_image(transform.batch(part)) for part in images.split(BATCH)]
    return F.normalize(torch.cat(rows).float(), dim=1)


def encode_words(encoder: OpenClipDualEncoder, texts: list[str]) -> Tensor:
    """Unit embeddings (N, D) of texts."""
    parts = [texts[i : i + BATCH] for i in range(0, len(texts), BATCH)]
    rows = [encoder.encode_text(encoder.tokenizer(part)) for part in parts]
    return F.normalize(torch.cat(rows).float(), dim=1)


def held_out(root: str | None, split: str) -> list[dict[str, Any]]:
    """Rows of one side of the held-out drawings."""
    path = bundled(f"{POOL}/test.jsonl.gz", root)
    rows = read_jsonl(path, ("image", "split", "name", "query", "noun"))
    return [row for row in rows if row["split"] == split]


def asked(rows: list[dict[str, Any]]) -> tuple[list[int], list[str]]:
    """Rows whose keywords are several and those of no other row, and their keywords."""
    times = Counter(row["query"] for row in rows)
    kept = [i for i, r in enumerate(rows) if times[r["query"]] == 1 and ", " in r["query"]]
    return kept, [rows[i]["query"] for i in kept]


@torch.inference_mode()
def dual_metrics(
    encoder: OpenClipDualEncoder, root: str | None, *, photographs: bool = True, split: str = "test"
) -> dict[str, float]:
    """Retrieval among held-out drawings by name and by keywords, zero-shot classes, cosines.

    Args:
        encoder: towers.
        root: ``cfg.data.root``.
        photographs: also those of CIFAR-10's test images.
        split: of the drawings, test or dev.

    Returns:
        ``name_recall_at_k``, ``keyword_recall_at_10`` (means of both directions), ``cifar_top1``,
        and per set the mean cosine of pairs, of other pairs and of two texts, with the length of
        the difference of the two modalities' means.
    """
    rows = held_out(root, split)
    kept, queries = asked(rows)
    with modes.evaluated(encoder, "cpu"):
        size = encoder.image_size
        data = ImageTextData(source="pool", root=root, cache_size=size)
        images = encode_pictures(encoder, pool_images([row["image"] for row in rows], data))
        names = encode_words(encoder, [row["name"] for row in rows])
        found: dict[str, float] = {}
        own = torch.arange(len(rows))
        for key, value in _both(images, names, own).items():
            found[f"name_{key}"] = value
        words = encode_words(encoder, queries)
        by_keyword = _both(images[kept], words, torch.arange(len(kept)))
        found["keyword_recall_at_10"] = by_keyword["recall_at_10"]
        found |= {f"drawings_{k}": v for k, v in cosines(images, names).items()}
        if photographs:
            found |= photograph_metrics(encoder, root)
    return found


def pixel_metrics(root: str | None, split: str = "test") -> dict[str, float]:
    """The same retrieval without a model.

    A picture is known by the words of the ten training drawings whose pixels are nearest, which is
    what the development split chooses among 1, 10, 20 and 40; texts meet by TF-IDF.
    """
    rows, known = held_out(root, split), training_drawings(root, PIXELS)
    data = ImageTextData(source="pool", root=root, cache_size=PIXELS)
    images = pool_images([row["image"] for row in rows], data)
    near = torch.cdist(_flat(images), _flat(known.images)).topk(NEAREST, largest=False).indices
    texts = [" ".join([n, *more]) for n, more in zip(known.names, known.phrasings, strict=True)]
    vectors, encode = tfidf_vectors(texts)

    def dense(found: Any) -> Tensor:
        return torch.from_numpy(found.toarray()).float()

    pictures = F.normalize(dense(vectors)[near].mean(1), dim=1)
    kept, queries = asked(rows)
    names = _both(pictures, dense(encode([r["name"] for r in rows])), torch.arange(len(rows)))
    words = _both(pictures[kept], dense(encode(queries)), torch.arange(len(kept)))
    return {
        "name_recall_at_10_pixels": names["recall_at_10"],
        "keyword_recall_at_10_pixels": words["recall_at_10"],
        "keyword_recall_at_10_chance": words["recall_at_10_chance"],
    }


def _flat(images: Tensor) -> Tensor:
    return images.flatten(1).float() / 255


def photograph_metrics(encoder: OpenClipDualEncoder, root: str | None) -> dict[str, float]:
    """Zero-shot accuracy on CIFAR-10 in templates that were not trained on, and its cosines."""
    pixels, labels = photographs(root, "test", None, encoder.image_size)
    images = encode_pictures(encoder, pixels)
    weights = class_embeddings(
        lambda texts: encode_words(encoder, texts), CLASSES, UNSEEN_PHOTO_TEMPLATES
    )
    accuracy = zeroshot_accuracy(images, labels, weights, ks=(1,))["top1"]
    texts = encode_words(encoder, [f"a photo of a {CLASSES[i]}." for i in labels.tolist()])
    return {"cifar_top1": accuracy} | {f"cifar_{k}": v for k, v in cosines(images, texts).items()}


def cosines(images: Tensor, texts: Tensor) -> dict[str, float]:
    """Mean cosines of unit rows that belong together, of others, of two texts.

    Offset of the means.
    """
    count = len(images)
    scores = images @ texts.T
    paired = float(scores.diagonal().mean())
    within = texts @ texts.T
    return {
        "cosine_paired": paired,
        "cosine_unpaired": float((scores.sum() - scores.trace()) / (count * (count - 1))),
        "cosine_texts": float((within.sum() - within.trace()) / (count * (count - 1))),
        "offset": float((images.mean(0) - texts.mean(0)).norm()),
    }


def _both(images: Tensor, texts: Tensor, own: Tensor) -> dict[str, float]:
    found = image_text_retrieval(images, texts, own)
    return {
        f"recall_at_{k}": (
            (found[f"image_to_text_recall_at_{k}"] + found[f"text_to_image_recall_at_{k}"]) / 2
        )
        for k in (1, 10)
    } | {"recall_at_10_chance": found["image_to_text_recall_at_10_chance"]}
