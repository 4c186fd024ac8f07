"""Scenes of two bundled drawings with several texts each, rendered from a seed.

A scene has two objects, each small or big, in one of four relations, on a plain or softly textured
background. The nouns are emoji of the training split. Two nouns that meet in a held-out scene never
meet in a training scene, and `clipart` draws the same nouns in renderings that no training scene
shows. Every scene has one caption in the style of an alt-text, `NUM_REWRITES` rewrites that say the
same in other words, and a query in a wording that neither caption nor rewrites use.

>>> scenes = make_scenes(2, seed=1, size=48)
>>> scenes.images.shape, len(scenes.texts[0])
(torch.Size([2, 3, 48, 48]), 5)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from common.config import UserError
from common.data.lookup import bundled
from common.data.packed import PackedImages
from common.data.samplers import Rng, sample_rng
from common.data.splits import stable_fraction
from common.data.tables import read_jsonl

Split = Literal["train", "dev", "test"]
Drawings = Literal["emoji", "clipart"]

STREAMS = {"train": 71, "dev": 72, "test": 73}  # of random numbers, one for each split
DEV_SHARE, TEST_SHARE = 0.1, 0.25  # of all pairs of nouns

SIZES = {"small": 0.32, "big": 0.47}  # longer side of an object over that of the scene
OPPOSITES = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
BACKGROUNDS = {
    "blue": (178, 209, 247),
    "green": (190, 230, 190),
    "yellow": (252, 234, 160),
    "pink": (250, 200, 214),
    "gray": (205, 207, 212),
    "purple": (214, 198, 242),
}

# noun: what WordNet calls it as well, as far as a caption would
SYNONYMS: dict[str, tuple[str, ...]] = {
    "airplane": ("plane", "aeroplane"),
    "anchor": (),
    "backpack": ("rucksack", "knapsack"),
    "balloon": (),
    "banana": (),
    "bear": (),
    "bomb": ("explosive device",),
    "bread": (),
    "bucket": ("pail",),
    "bus": ("autobus",),
    "cactus": ("succulent",),
    "camera": (),
    "carrot": ("root vegetable",),
    "castle": (),
    "cat": ("feline", "true cat"),
    "cookie": ("biscuit",),
    "cow": (),
    "crocodile": ("crocodilian reptile",),
    "croissant": ("crescent roll",),
    "dog": ("domestic dog", "canine"),
    "dolphin": ("toothed whale",),
    "doughnut": ("donut",),
    "dragon": (),
    "eggplant": ("aubergine",),
    "elephant": ("pachyderm",),
    "flamingo": ("wading bird",),
    "frog": ("amphibian",),
    "helicopter": ("chopper", "whirlybird"),
    "horse": ("equine",),
    "house": ("dwelling", "home"),
    "kangaroo": ("marsupial",),
    "key": (),
    "laptop": ("laptop computer", "portable computer"),
    "lion": ("king of beasts",),
    "lobster": ("shellfish",),
    "mouse": ("rodent",),
    "mushroom": (),
    "octopus": (),
    "owl": (),
    "panda": ("giant panda", "panda bear"),
    "pie": ("pastry",),
    "pineapple": ("ananas",),
    "pizza": ("pizza pie",),
    "rocket": (),
    "rooster": (),
    "rose": (),
    "sailboat": ("sailing boat",),
    "scissors": ("pair of scissors",),
    "shark": (),
    "snake": ("serpent",),
    "snowman": (),
    "spider": ("arachnid",),
    "strawberry": ("berry",),
    "teapot": ("pot",),
    "telephone": ("phone",),
    "television": ("television set",),
    "tiger": (),
    "tomato": (),
    "tractor": (),
    "train": ("railroad train",),
    "tulip": (),
    "violin": ("fiddle",),
    "volcano": (),
    "watermelon": (),
    "wolf": (),
    "zebra": (),
}
NOUNS = tuple(SYNONYMS)

# noun: rows of the bundled clip art that show it
CLIPART: dict[str, tuple[int, ...]] = {
    "airplane": (1915,),
    "anchor": (2440,),
    "balloon": (434, 644, 883, 905, 2601, 2711),
    "banana": (2881,),
    "bear": (624, 2053, 2547),
    "bomb": (1931,),
    "bread": (2968,),
    "bus": (776, 1701, 1715),
    "cactus": (2319,),
    "camera": (93, 1412, 1612),
    "cat": (764, 987, 2720),
    "cookie": (1643,),
    "croissant": (153, 1882),
    "dog": (863, 1710, 2165),
    "dolphin": (150, 354),
    "elephant": (2822, 2831),
    "house": (58, 1699, 2427, 2902, 2978),
    "kangaroo": (314,),
    "key": (1576,),
    "laptop": (2673, 2808),
    "mushroom": (448, 967),
    "pie": (1738, 1787),
    "pineapple": (2181,),
    "pizza": (231, 831, 2408),
    "sailboat": (1848,),
    "scissors": (1781,),
    "snowman": (622,),
    "spider": (1490,),
    "strawberry": (744, 761, 2293),
    "teapot": (908, 1313),
    "television": (1510,),
    "tiger": (1489, 2542),
    "violin": (2497,),
    "watermelon": (797, 1943),
    "wolf": (463, 1462),
}


class Scene(NamedTuple):
    """What a scene shows, in the order of its caption."""

    nouns: tuple[str, str]
    sizes: tuple[str, str]  # small or big
    relation: str  # where the first object is, seen from the second
    background: str


@dataclass(frozen=True)
class Scenes:
    """N scenes.

    Attributes:
        scenes: what they show.
        images: (N, 3, S, S) uint8.
        texts: N lists: the caption, then `NUM_REWRITES` rewrites.
        queries: N texts in a wording that no caption and no rewrite has.
    """

    scenes: list[Scene]
    images: Tensor
    texts: list[list[str]]
    queries: list[str]

    def __len__(self) -> int:
        return len(self.scenes)


# -- scenes --------------------------------------------------------------------------------------


def make_scenes(
    count: int,
    *,
    split: Split = "train",
    seed: int = 0,
    size: int = 48,
    drawings: Drawings = "emoji",
    root: str | None = None,
) -> Scenes:
    """Scenes of a split; equal arguments give equal pixels and texts.

    A training scene may repeat a pair of nouns; held-out scenes each have a pair of their own.

    Args:
        count: number of scenes.
        split: of the pairs of nouns: 65 % train, 10 % dev, 25 % test.
        seed: of what is drawn, where it is put, and how it is said.
        size: height and width in pixels.
        drawings: emoji, or clip art of the same nouns, which no training scene may use.
        root: folder of the bundled data; None: the repository's.

    Raises:
        UserError: more held-out scenes than pairs of nouns, or clip art in training scenes.
    """
    if drawings == "clipart" and split == "train":
        raise UserError("drawings=clipart is held out: use split=dev or split=test")
    scenes = draw_scenes(count, split, seed, tuple(CLIPART) if drawings == "clipart" else NOUNS)
    rngs = [sample_rng(seed, 2, i, STREAMS[split]) for i in range(count)]
    images = torch.empty(count, 3, size, size, dtype=torch.uint8)
    for i, (scene, rng) in enumerate(zip(scenes, rngs, strict=True)):
        picture = render(scene, size, rng, drawings, root)
        images[i] = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    wordings = [sample_rng(seed, 3, i, STREAMS[split]) for i in range(count)]
    texts = [texts_of(scene, rng) for scene, rng in zip(scenes, wordings, strict=True)]
    queries = [query_of(scene, i) for i, scene in enumerate(scenes)]
    return Scenes(scenes, images, texts, queries)


def draw_scenes(count: int, split: Split, seed: int, nouns: Sequence[str] = NOUNS) -> list[Scene]:
    """What the scenes of a split show; see `make_scenes`."""
    pairs = [(a, b) for i, a in enumerate(nouns) for b in nouns[:i] if split_of_pair(a, b) == split]
    if split != "train" and count > len(pairs):
        raise UserError(f"{count} {split} scenes, but there are {len(pairs)} pairs of nouns")
    order = sample_rng(seed, 0, 0, STREAMS[split]).permutation(len(pairs))
    scenes = []
    for i in range(count):
        rng = sample_rng(seed, 1, i, STREAMS[split])
        pair = pairs[int(rng.integers(len(pairs))) if split == "train" else order[i]]
        first, second = pair if rng.random() < 0.5 else pair[::-1]
        sizes = _one_of(list(SIZES), rng), _one_of(list(SIZES), rng)
        relation, background = _one_of(list(OPPOSITES), rng), _one_of(list(BACKGROUNDS), rng)
        scenes.append(Scene((first, second), sizes, relation, background))
    return scenes


def split_of_pair(first: str, second: str) -> Split:
    """Split of the scenes that show two nouns, in whatever order.

    >>> split_of_pair("dog", "pizza") == split_of_pair("pizza", "dog")
    True
    """
    place = stable_fraction(" and ".join(sorted((first, second))))
    if place < TEST_SHARE:
        return "test"
    return "dev" if place < TEST_SHARE + DEV_SHARE else "train"


# -- pixels --------------------------------------------------------------------------------------


def render(
    scene: Scene, size: int, rng: Rng, drawings: Drawings = "emoji", root: str | None = None
) -> Image.Image:
    """RGB image of a scene; generators in the same state give the same layout at every size."""
    lengths = [SIZES[s] * float(rng.uniform(0.9, 1.05)) for s in scene.sizes]
    centres = _centres(scene.relation, lengths, rng)
    canvas = _canvas(BACKGROUNDS[scene.background], size, rng)
    for noun, length, centre in zip(scene.nouns, lengths, centres, strict=True):
        _paste(canvas, _cutouts(noun, drawings, root), length, centre, rng)
    return canvas


@lru_cache(maxsize=2)
def single_drawings(size: int, root: str | None = None, each: int = 8) -> tuple[Tensor, Tensor]:
    """Every noun alone on a background, for zero-shot classification.

    Args:
        size: height and width in pixels.
        root: as in `make_scenes`.
        each: images of a noun.

    Returns:
        Images (len(NOUNS) * each, 3, size, size) uint8 and their rows of `NOUNS`, int64.
    """
    images = []
    for i in range(len(NOUNS) * each):
        rng = sample_rng(0, 4, i, STREAMS["test"])
        length = SIZES[_one_of(list(SIZES), rng)]
        canvas = _canvas(BACKGROUNDS[_one_of(list(BACKGROUNDS), rng)], size, rng)
        x, y = rng.uniform(length / 2, 1 - length / 2, 2).tolist()
        _paste(canvas, _cutouts(NOUNS[i // each], "emoji", root), length, (x, y), rng)
        images.append(torch.from_numpy(np.array(canvas)).permute(2, 0, 1))
    return torch.stack(images), torch.arange(len(NOUNS)).repeat_interleave(each)


def _paste(
    canvas: Image.Image,
    cutouts: Sequence[Image.Image],
    length: float,
    centre: tuple[float, float],
    rng: Rng,
) -> None:
    """Put one of the drawings on a scene: mirrored or not, slightly turned.

    Args:
        canvas: square RGB image, changed in place.
        cutouts: RGBA drawings to choose from.
        length: longer side of the drawing over that of the scene.
        centre: x and y in [0, 1].
        rng: of this scene.
    """
    drawing = cutouts[int(rng.integers(len(cutouts)))]
    if rng.random() < 0.5:
        drawing = drawing.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    drawing = drawing.rotate(float(rng.uniform(-12, 12)), Image.Resampling.BILINEAR, expand=True)
    drawing = drawing.crop(drawing.getbbox())
    scale = length * canvas.width / max(drawing.size)
    w, h = (max(2, round(side * scale)) for side in drawing.size)
    drawing = drawing.resize((w, h), Image.Resampling.LANCZOS)
    x, y = (round(c * canvas.width - side / 2) for c, side in zip(centre, (w, h), strict=True))
    canvas.paste(drawing, (x, y), drawing)


def _centres(relation: str, lengths: Sequence[float], rng: Rng) -> list[tuple[float, float]]:
    """Centres (x, y) of the two objects in [0, 1], the objects inside the scene and apart."""
    first_leads = relation in ("left of", "above")
    lead, follow = lengths if first_leads else lengths[::-1]
    free = 1 - lead - follow
    before, between = sorted(rng.uniform(0, free, 2))
    along = [before + lead / 2, between + lead + follow / 2]
    middle = float(rng.uniform(lead / 2, 1 - lead / 2))
    shift = float(rng.uniform(-0.4, 0.4)) * (along[1] - along[0])
    across = [middle, min(max(middle + shift, follow / 2), 1 - follow / 2)]
    points = list(zip(along, across, strict=True))
    if relation in ("above", "below"):
        points = [(y, x) for x, y in points]
    return points if first_leads else points[::-1]


def _canvas(colour: tuple[int, int, int], size: int, rng: Rng) -> Image.Image:
    """A background: plain, striped, dotted, or shaded from one side to the other."""
    y, x = np.mgrid[0 : 1 : size * 1j, 0 : 1 : size * 1j]
    angle, kind = float(rng.uniform(0, np.pi)), int(rng.integers(4))
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    waves = 2 * np.pi * int(rng.integers(3, 7))
    pattern = (0 * u, np.sin(waves * u), np.sin(waves * u) * np.sin(waves * v), 2 * u - 1)[kind]
    shade = float(rng.uniform(0.95, 1.05)) + 0.05 * pattern
    pixels = np.array(colour)[None, None] * shade[..., None]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8), "RGB")


@lru_cache(maxsize=512)
def _cutouts(noun: str, drawings: Drawings, root: str | None) -> list[Image.Image]:
    """RGBA drawings of a noun."""
    rows = CLIPART[noun] if drawings == "clipart" else _emoji(root)[noun]
    packed = _packed("clipart" if drawings == "clipart" else "emoji-captions", root)
    return [without_background(packed[row]) for row in rows]


@lru_cache(maxsize=4)
def _packed(folder: str, root: str | None) -> PackedImages:
    return PackedImages(bundled(f"{folder}/images.npz", root))


@lru_cache(maxsize=4)
def _emoji(root: str | None) -> dict[str, tuple[int, ...]]:
    """Rows of the emoji that are named by a noun."""
    rows = read_jsonl(bundled("emoji-captions/captions.jsonl.gz", root), ["en"])
    return {row["en"]: (i,) for i, row in enumerate(rows) if row["en"] in SYNONYMS}


def without_background(
    image: Image.Image, *, white: int = 232, specks: int = 12, blur: float = 0.8
) -> Image.Image:
    """RGBA in which what is nearly white and touches the border is transparent.

    Args:
        image: RGB.
        white: least value of the darkest channel of a background pixel.
        specks: parts of fewer pixels, which compression leaves, are transparent as well.
        blur: radius in pixels of the soft edge, which lies inside the drawing; 0: a hard edge.
    """
    from scipy.ndimage import label

    pixels = np.asarray(image)
    parts, _ = label(pixels.min(-1) >= white)
    edge = np.unique(np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]]))
    outside = np.isin(parts, edge[edge > 0])
    shapes, _ = label(~outside, structure=np.ones((3, 3)))
    outside |= np.isin(shapes, np.flatnonzero(np.bincount(shapes.ravel()) < specks))
    if outside.mean() > 0.98:  # nothing would be left
        outside[:] = False
    alpha = np.where(outside, 0, 255).astype(np.uint8)
    if blur:
        soft = np.asarray(Image.fromarray(alpha).filter(ImageFilter.GaussianBlur(blur)))
        alpha = np.where(outside, 0, (2 * soft.astype(int) - 255).clip(0, 255)).astype(np.uint8)
    return Image.fromarray(np.dstack([pixels, alpha]), "RGBA")


# -- texts ---------------------------------------------------------------------------------------

TERSE_SHARE, NOISY_SHARE = 0.25, 0.25  # of the captions; all others are complete and tidy
NOISE = ("stock image {}", "img {}", "picture no {}", "clip {}")
SYNONYM_SHARE = 0.25  # of the nouns of rewrites that have a synonym

SIZE_WORDS = {"small": ("small", "little", "tiny"), "big": ("big", "large", "huge")}
RELATION_WORDS = {
    "left of": ("left of", "to the left of", "on the left of"),
    "right of": ("right of", "to the right of", "on the right of"),
    "above": ("above", "over", "higher than"),
    "below": ("below", "under", "beneath"),
}
BACKGROUND_WORDS = ("on {}", "against {}", "on a {} wall")
# {a} and {b}: the objects with article; {rel}: where a is, seen from b; {inv}: where b is; {bg}
REWRITES = (
    ("{a} is {rel} {b} {bg}", "there is {a} {rel} {b} {bg}", "{a} sits {rel} {b} {bg}"),
    ("{b} is {inv} {a} {bg}", "{b} with {a} {rel} it {bg}", "here {b} lies {inv} {a} {bg}"),
    ("{bg} we see {a} {rel} {b}", "drawing of {a} {bg} {rel} {b}", "{a} placed {rel} {b} {bg}"),
    ("someone put {a} {rel} {b} {bg}", "look, {a} {rel} {b} {bg}", "{b} {bg}, {a} stays {rel} it"),
)
NUM_REWRITES = len(REWRITES)
# as above; {n1}, {n2}: nouns, {s1}, {s2}: sizes, {bg}: colour. Content words are those of captions.
QUERIES = (
    "show me some {s1} {n1} that hangs {rel} this {s2} {n2}, {bg} behind both",
    "which card has the {s1} {n1} {rel} the {s2} {n2}, all in {bg}?",
    "our {s1} {n1} got painted {rel} your {s2} {n2}; the sheet was {bg}",
    "find every {bg} scene where one {s1} {n1} stands {rel} one {s2} {n2}",
    "for sale: print of {s1} {n1} {rel} {s2} {n2}, colour {bg}",
    "i want my {s1} {n1} {rel} my {s2} {n2} and {bg} everywhere else",
)


def texts_of(scene: Scene, rng: Rng) -> list[str]:
    """The caption of a scene, then one rewrite in each of four styles; no rewrite says more."""
    kind = float(rng.random())
    terse, noisy = kind < TERSE_SHARE, kind >= 1 - NOISY_SHARE
    first, second = scene.nouns if terse else _phrases(scene)
    caption = f"{first} {scene.relation} {second}"
    if not terse:
        caption += f", {scene.background}"
    if noisy:
        noise = NOISE[int(rng.integers(len(NOISE)))].format(int(rng.integers(1000, 100000)))
        caption = f"{noise}: {caption}"
    return [caption, *(_rewrite(scene, terse, forms, rng) for forms in REWRITES)]


def query_of(scene: Scene, index: int) -> str:
    """A scene in an unseen wording; the index chooses which."""
    (n1, n2), (s1, s2) = scene.nouns, scene.sizes
    return QUERIES[index % len(QUERIES)].format(
        n1=n1, n2=n2, s1=s1, s2=s2, rel=scene.relation, bg=scene.background
    )


def _phrases(scene: Scene) -> tuple[str, str]:
    (n1, n2), (s1, s2) = scene.nouns, scene.sizes
    return f"{s1} {n1}", f"{s2} {n2}"


def _rewrite(scene: Scene, terse: bool, forms: Sequence[str], rng: Rng) -> str:
    objects = []
    for noun, size in zip(scene.nouns, scene.sizes, strict=True):
        if SYNONYMS[noun] and rng.random() < SYNONYM_SHARE:
            noun = _one_of(SYNONYMS[noun], rng)
        objects.append(_with_article(noun if terse else f"{_one_of(SIZE_WORDS[size], rng)} {noun}"))
    background = "" if terse else _one_of(BACKGROUND_WORDS, rng).format(scene.background)
    text = _one_of(forms, rng).format(
        a=objects[0],
        b=objects[1],
        rel=_one_of(RELATION_WORDS[scene.relation], rng),
        inv=_one_of(RELATION_WORDS[OPPOSITES[scene.relation]], rng),
        bg=background,
    )
    return " ".join(text.replace(" ,", ",").split())


def _one_of(words: Sequence[str], rng: Rng) -> str:
    return words[int(rng.integers(len(words)))]


def _with_article(phrase: str) -> str:
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"
