"""Photographs of ten classes with made-up captions, most of which say nothing or lie."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from common.config import UserError
from common.data.image.labelled import hold_out, load_cifar10
from common.data.lookup import bundled
from common.data.packed import Packed
from common.data.samplers import Rng, sample_rng
from common.families.image_text.config import ImageTextData

Part = Literal["train", "dev", "test"]
DEV_PER_CLASS = 100  # of the bundled training images
PAIR_STREAM, CAPTION_STREAM = 23, 24
FRAMES = (
    "{0} in the {1}",
    "the {1} with {0}",
    "my {1} and {0}",
    "{0}, {1}, last summer",
    "we saw {0} near the {1}",
    "{0} {1} picture",
    "look at {0} by the {1}",
    "old {1}, {0}",
)
PLACES = (
    "morning",
    "afternoon",
    "evening",
    "north",
    "south",
    "village",
    "harbour",
    "garden",
    "yard",
    "corner",
    "album",
    "holiday",
    "weekend",
    "archive",
    "distance",
    "rain",
    "snow",
    "sunshine",
)
NEUTRAL = ("something", "it", "one of them", "this", "number seven", "another", "the usual", "mine")


class CaptionedImages(NamedTuple):
    """Photographs with one caption each.

    Attributes:
        images: (N, 3, 32, 32) uint8.
        texts: N captions.
        labels: (N,) int64 classes, which no caption has to agree with.
        named: (N,) int64 class that the caption names, -1 for none.
        class_names: C names.
    """

    images: Tensor
    texts: list[str]
    labels: Tensor
    named: Tensor
    class_names: list[str]


def captioned_cifar(data: ImageTextData, part: Part, seed: int) -> CaptionedImages:
    """Bundled CIFAR-10 photographs with captions drawn by the seed.

    A caption holds the word of the picture's class (share `right_words`), that of another class
    (`wrong_words`) or none. No class word is in a frame.

    Args:
        data: shares, and `num_samples` of the training part (None: all 9,000).
        part: train; dev, 100 images of each class held out of it; or test.
        seed: draws the training subset and all captions.

    Raises:
        UserError: more pairs than there are images.
    """
    whole = load_cifar10(data.root, "test" if part == "test" else "train")
    if part != "test":
        fit, held_out = hold_out(whole, DEV_PER_CLASS)
        whole = fit if part == "train" else held_out
    if part == "train" and data.num_samples is not None:
        if data.num_samples > len(whole.images):
            raise UserError(f"data.num_samples={data.num_samples}: at most {len(whole.images)}")
        rows = sample_rng(seed, 0, 0, PAIR_STREAM).permutation(len(whole.images))
        whole = whole.rows(torch.from_numpy(rows[: data.num_samples].copy()).sort().values)
    place = ("train", "dev", "test").index(part)
    texts, named = [], []
    for row, label in enumerate(whole.labels.tolist()):
        rng = sample_rng(seed, place, row, CAPTION_STREAM)
        word = drawn_class(label, len(whole.class_names), data, rng)
        named.append(word)
        texts.append(caption(f"a {whole.class_names[word]}" if word >= 0 else None, rng))
    return CaptionedImages(
        whole.images, texts, whole.labels, torch.tensor(named), whole.class_names
    )


def num_photographs(data: ImageTextData) -> int:
    """Photographs of the training part with `num_samples` of None, without decoding them."""
    packed = Packed(bundled("cifar10/train.npz", data.root))
    return len(packed) - DEV_PER_CLASS * len(packed.array("class_names"))


def drawn_class(label: int, num_classes: int, data: ImageTextData, rng: Rng) -> int:
    """Class that a caption names: the right one, another one, or -1 for none."""
    u = rng.random()
    if u < data.right_words:
        return label
    if u < data.right_words + data.wrong_words:
        return (label + 1 + int(rng.integers(num_classes - 1))) % num_classes
    return -1


def caption(thing: str | None, rng: Rng) -> str:
    """A sentence about a thing, or about nothing in particular."""
    frame, place = FRAMES[int(rng.integers(len(FRAMES)))], PLACES[int(rng.integers(len(PLACES)))]
    return frame.format(thing or NEUTRAL[int(rng.integers(len(NEUTRAL)))], place)
