"""The bundled pool of drawings: training images with their texts, held-out rows with queries."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.config import UserError
from common.data.image import sources as im
from common.data.image_text.captions import CaptionFiles, CaptionLists, TextSource
from common.data.lookup import bundled
from common.data.packed import PackedImages
from common.data.samplers import sample_rng
from common.data.tables import read_jsonl
from common.families.image_text.config import ImageTextData
from common.families.image_text.protocol import ImageTextConfig

POOL = "drawings"  # folder of the pool's texts below data/
SUBSET_STREAM = 21
# sentences that no training text of the pool or of the synthetic set is made from
UNSEEN_TEMPLATES = (
    "a sketch of the {}.",
    "one can make out a {} in this figure.",
    "my favourite {} emblem.",
)


def pool_pairs(
    cfg: ImageTextConfig, transform: im.ImageTransform
) -> tuple[im.ViewSource, TextSource]:
    """Training drawings and their texts; the seed draws the share of them that is trained on."""
    data = cfg.data
    folder = bundled(POOL, data.root)
    further = [folder / f"train_{source}.txt" for source in data.text_sources]
    files = CaptionFiles(folder / "train.csv", further, root="")
    rng = sample_rng(cfg.seed, 0, 0, SUBSET_STREAM)
    size = round(data.train_fraction * len(files))
    rows = sorted(int(i) for i in rng.permutation(len(files))[:size])
    images = pool_images([str(files.path(i)) for i in rows], data)
    texts = CaptionLists([files.texts(i) for i in rows])
    return im.CachedImages(images, transform), texts


def pool_size(data: ImageTextData) -> int:
    """Training drawings of an epoch."""
    files = CaptionFiles(bundled(POOL, data.root) / "train.csv", root="")
    return round(data.train_fraction * len(files))


def pool_images(names: Sequence[str], data: ImageTextData) -> Tensor:
    """Drawings ``<set>/<row>.jpg`` as (N, 3, cache_size, cache_size) uint8, in the given order."""
    places = [(Path(name).parent.name, int(Path(name).stem)) for name in names]
    return decode_drawings(places, data.cache_size, data.root)


def decode_drawings(places: Sequence[tuple[str, int]], size: int, root: str | None) -> Tensor:
    """Drawings as (N, 3, size, size) uint8, in the given order.

    Args:
        places: set and row of each drawing.
        size: height and width in pixels.
        root: ``cfg.data.root``.
    """
    images = torch.empty(len(places), 3, size, size, dtype=torch.uint8)
    for folder in sorted({folder for folder, _ in places}):
        positions = torch.tensor([i for i, (name, _) in enumerate(places) if name == folder])
        rows = torch.tensor([places[i][1] for i in positions.tolist()])
        packed = PackedImages(bundled(f"{folder}/images.npz", root), max_corrupt=0.0)
        unique, inverse = torch.unique(rows, return_inverse=True)
        images[positions] = packed.decode(size, unique).images[inverse]
    return images


def pool_picture(name: str, data: ImageTextData) -> Any:
    """One drawing as a PIL image in its full size."""
    folder, row = Path(name).parent.name, int(Path(name).stem)
    return PackedImages(bundled(f"{folder}/images.npz", data.root))[row]


def read_train_names(data: ImageTextData, count: int) -> tuple[Tensor, list[str]]:
    """Cached images and names of about `count` evenly spaced training drawings."""
    files = CaptionFiles(bundled(POOL, data.root) / "train.csv", root="")
    rows = range(0, len(files), max(1, len(files) // count))
    images = pool_images([str(files.path(i)) for i in rows], data)
    return images, [files.texts(i)[0] for i in rows]


def read_held_out(cfg: ImageTextConfig) -> list[dict[str, Any]]:
    """Held-out drawings of the pool with name, keyword query and noun."""
    path = bundled(f"{POOL}/test.jsonl.gz", cfg.data.root)
    rows = read_jsonl(path, ["image", "split", "name", "query", "noun"])
    rows = [row for row in rows if row["split"] == cfg.eval.split]
    if not rows:
        raise UserError(f"{path} has no rows of split '{cfg.eval.split}'")
    return rows


def class_nouns(data: ImageTextData) -> list[str]:
    """Nouns of at least four training drawings."""
    text = bundled(f"{POOL}/classes.txt", data.root).read_text(encoding="utf-8")
    return [noun for noun in text.split("\n") if noun]
