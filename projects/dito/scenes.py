"""Scenes with known boxes: bundled drawings, or coloured shapes, pasted on a plain canvas."""

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from common.config import UserError
from common.data.image import sources as im
from common.data.image_text.scenes import without_background
from common.data.lookup import bundled
from common.data.packed import PackedImages
from common.data.samplers import Rng, sample_rng
from common.data.splits import stable_fraction
from common.data.tables import read_jsonl
from projects.dito.config import Config, DitoData

STREAMS = {"train": 61, "dev": 62, "test": 63, "transfer": 64}
SIDE = 64  # of a picture before it is pasted
COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (50, 70, 220),
    "black": (20, 20, 20),
}
SHAPES = ("circle", "square", "triangle")
WHITE = 244  # from here on, what touches the border is not a part of a drawing
OVERLAP = 0.3  # share of the smaller object that another one may cover
TRIES = 12
BASE_SHARE = 0.75  # names with boxes in the detector's training
TRANSFER_DRAWINGS = 2  # least drawings of a class of the other list


class Scenes(NamedTuple):
    """N scenes of K objects each."""

    images: Tensor  # (N, 3, S, S) uint8
    boxes: Tensor  # (N, K, 4) float32, x1, y1, x2, y2 in pixels
    labels: Tensor  # (N, K) int64, index of the name
    names: list[str]

    def caption(self, index: int) -> str:
        """Names of a scene's objects, as its only text."""
        return ", ".join(self.names[i] for i in self.labels[index].tolist())


def scenes_of(cfg: Config, part: str) -> Scenes:
    """Scenes of a part: train (drawn by the seed), dev, test, or transfer (clip art).

    Sources of pairs are judged on scenes of emoji.

    Raises:
        UserError: fewer pictures than `data.names`.
    """
    data = cfg.data
    count = data.scenes if part == "train" else data.eval_scenes
    seed = cfg.seed if part == "train" else 0
    return _cached(
        "shapes" if data.source == "shapes" else "emoji",
        data.root,
        part,
        seed,
        count,
        data.names,
        data.objects,
        tuple(data.object_scale),
        data.image_size,
    )


@lru_cache(maxsize=4)
def _cached(
    source: str,
    root: str | None,
    part: str,
    seed: int,
    count: int,
    names: int,
    objects: int,
    scale: tuple[float, float],
    size: int,
) -> Scenes:
    if part == "transfer":
        pictures, kinds = clipart_pictures(root)
    elif source == "emoji":
        pictures, kinds = emoji_pictures(names, root)
    else:
        pictures, kinds = shape_pictures(names)
    labels = list(kinds)
    classes = sorted(set(labels))
    place = {name: i for i, name in enumerate(classes)}
    if len(classes) < objects:
        raise UserError(f"data.objects={objects} different names, but there are {len(classes)}")
    images = torch.empty(count, 3, size, size, dtype=torch.uint8)
    boxes, marks = torch.empty(count, objects, 4), torch.empty(count, objects, dtype=torch.long)
    for i in range(count):
        rng = sample_rng(seed, 0, i, STREAMS[part])
        chosen = _different(rng, labels, objects)
        picture, placed = compose([pictures[c] for c in chosen], size, scale, rng)
        images[i] = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        boxes[i] = torch.from_numpy(placed)
        marks[i] = torch.tensor([place[labels[c]] for c in chosen])
    return Scenes(images, boxes, marks, classes)


def _different(rng: Rng, labels: Sequence[str], count: int) -> list[int]:
    chosen: list[int] = []
    while len(chosen) < count:
        i = int(rng.integers(len(labels)))
        if labels[i] not in {labels[c] for c in chosen}:
            chosen.append(i)
    return chosen


def compose(
    pictures: Sequence[Image.Image], size: int, scale: tuple[float, float], rng: Rng
) -> tuple[Image.Image, np.ndarray]:
    """Paste pictures, turned, resized and recoloured, on a pale canvas.

    Args:
        pictures: RGBA.
        size: side of the scene in pixels.
        scale: least and largest side of an object over `size`.
        rng: of this scene.

    Returns:
        The scene, and the visible rectangle (K, 4) float32 of each object before later ones cover
        it.
    """
    canvas = Image.new("RGB", (size, size), tuple(int(v) for v in rng.integers(200, 256, 3)))
    boxes: list[tuple[int, int, int, int]] = []
    for picture in pictures:
        turned = picture.rotate(float(rng.uniform(-25, 25)), Image.Resampling.BILINEAR, expand=True)
        cut = turned.getbbox()  # of what is not transparent
        turned = turned.crop(cut)
        side = size * float(rng.uniform(*scale))
        ratio = side / max(turned.size)
        w, h = (max(2, round(v * ratio)) for v in turned.size)
        small = turned.resize((w, h), Image.Resampling.BILINEAR)
        pixels = np.asarray(small).astype(np.float32)
        pixels[..., :3] = (pixels[..., :3] * rng.uniform(0.75, 1.2, 3)).clip(0, 255)
        small = Image.fromarray(pixels.astype(np.uint8), "RGBA")
        places = [
            (int(rng.integers(size - w + 1)), int(rng.integers(size - h + 1))) for _ in range(TRIES)
        ]
        x, y = min(
            places, key=lambda p: max(0.0, _covered((*p, p[0] + w, p[1] + h), boxes) - OVERLAP)
        )
        canvas.paste(small, (x, y), small)
        boxes.append((x, y, x + w, y + h))
    return canvas, np.array(boxes, dtype=np.float32)


def _covered(box: tuple[int, ...], others: Sequence[tuple[int, ...]]) -> float:
    """Largest intersection with one of the others over the smaller area."""
    worst = 0.0
    for other in others:
        w = min(box[2], other[2]) - max(box[0], other[0])
        h = min(box[3], other[3]) - max(box[1], other[1])
        areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (box, other)]
        worst = max(worst, max(0, w) * max(0, h) / min(areas))
    return worst


# -- pictures --------------------------------------------------------------------------------------


def emoji_pictures(count: int, root: str | None = None) -> tuple[list[Image.Image], list[str]]:
    """Emoji whose name is one word; half of those that are also words of clip art come first.

    Raises:
        UserError: fewer than `count`.
    """
    rows = read_jsonl(bundled("emoji-captions/captions.jsonl.gz", root), ["en"])
    first: dict[str, int] = {}
    for i, row in enumerate(rows):
        if re.fullmatch("[a-z]{3,}", row["en"]):
            first.setdefault(row["en"], i)
    words = Counter(word for _, word in _clipart_words(set(first), root))

    def last(name: str) -> bool:
        shared = words[name] >= TRANSFER_DRAWINGS and stable_fraction(f"transfer {name}") < 0.5
        return not shared

    order = sorted(first, key=lambda name: (last(name), stable_fraction(name)))
    if count > len(order):
        raise UserError(f"data.names={count}, but only {len(order)} emoji have a name of one word")
    names = order[:count]
    images = PackedImages(bundled("emoji-captions/images.npz", root))
    return [_cut_out(images[first[name]]) for name in names], names


def clipart_pictures(root: str | None = None) -> tuple[list[Image.Image], list[str]]:
    """Clip art whose title holds one word that names an emoji; words of at least two drawings.

    About half of its words are names in training, the others are new.
    """
    emoji = read_jsonl(bundled("emoji-captions/captions.jsonl.gz", root), ["en"])
    drawings = _clipart_words(
        {row["en"] for row in emoji if re.fullmatch("[a-z]{3,}", row["en"])}, root
    )
    counts = Counter(word for _, word in drawings)
    kept = [(i, word) for i, word in drawings if counts[word] >= TRANSFER_DRAWINGS]
    images = PackedImages(bundled("clipart/images.npz", root))
    return [_cut_out(images[i]) for i, _ in kept], [word for _, word in kept]


def _clipart_words(vocabulary: set[str], root: str | None) -> list[tuple[int, str]]:
    """Drawing and the only known word of its title."""
    drawings = []
    for i, row in enumerate(read_jsonl(bundled("clipart/meta.jsonl.gz", root), ["title"])):
        words = set(re.findall("[a-z]+", row["title"].lower())) & vocabulary
        if len(words) == 1:
            drawings.append((i, words.pop()))
    return drawings


def _cut_out(image: Image.Image) -> Image.Image:
    return without_background(image.resize((SIDE, SIDE)), white=WHITE, specks=0, blur=0)


def shape_pictures(count: int) -> tuple[list[Image.Image], list[str]]:
    """Coloured shapes, drawn here; their names have two words.

    Raises:
        UserError: more than there are.
    """
    shapes = [(f"{c} {s}", rgb, s) for c, rgb in COLOURS.items() for s in SHAPES][:count]
    if count > len(COLOURS) * len(SHAPES):
        raise UserError(f"data.names: there are {len(COLOURS) * len(SHAPES)} coloured shapes")
    return [_shape(rgb, s) for _, rgb, s in shapes], [name for name, _, _ in shapes]


def _shape(colour: tuple[int, int, int], shape: str) -> Image.Image:
    image = Image.new("RGBA", (SIDE, SIDE))
    draw, edge = ImageDraw.Draw(image), (4, 4, SIDE - 4, SIDE - 4)
    if shape == "circle":
        draw.ellipse(edge, fill=(*colour, 255))
    elif shape == "square":
        draw.rectangle(edge, fill=(*colour, 255))
    else:
        draw.polygon([(SIDE // 2, 4), (4, SIDE - 4), (SIDE - 4, SIDE - 4)], fill=(*colour, 255))
    return image


def is_base(name: str) -> bool:
    """Whether the detector is trained with boxes of a name, by its hash."""
    return stable_fraction(f"base {name}") < BASE_SHARE


def transform_of(data: DitoData) -> im.EvalTransform:
    """Resize and CLIP's normalisation."""
    return im.EvalTransform(data.image_size, im.CLIP_MEAN, im.CLIP_STD)
