"""Photographs: splits that share nothing, captions, mixtures."""

import numpy as np
import torch

from common.data.image_text.captions import CaptionLists
from common.families.image_text.photographs import (
    CLASSES,
    TEMPLATES,
    UNSEEN_PHOTO_TEMPLATES,
    JoinedTexts,
    Mixture,
    PhotoTexts,
    photographs_to_judge,
    photographs_to_train,
)


def test_training_images_depend_on_the_seed_and_are_never_judged():
    train = photographs_to_train(None, 6000, 0, 32)
    assert torch.bincount(train.labels).tolist() == [600] * 10
    seen = {image.numpy().tobytes() for image in train.images}
    dev = photographs_to_judge(None, "dev", 32)
    assert len(dev.labels) == 2000
    assert not any(image.numpy().tobytes() in seen for image in dev.images)
    other = photographs_to_train(None, 6000, 1, 32)
    assert not torch.equal(train.images, other.images)


def test_captions_of_a_photograph_and_of_joined_sources():
    photos = PhotoTexts(torch.tensor([3, 0]))
    joined = JoinedTexts([CaptionLists([["one"], ["two"], ["three"]]), photos])
    assert len(joined) == 5
    assert [joined.texts(i)[0] for i in range(5)] == [
        "one",
        "two",
        "three",
        "a photo of a cat.",
        "a photo of a airplane.",
    ]
    assert len(joined.texts(4)) == len(TEMPLATES)
    assert not set(TEMPLATES) & set(UNSEEN_PHOTO_TEMPLATES)
    assert len(CLASSES) == 10


def test_mixture_passes_the_first_set_once():
    mixture = Mixture(30, 7, 0.25)
    rng = np.random.default_rng(0)
    rows = [mixture(i, rng) for i in range(len(mixture))]
    assert len(rows) == 40
    assert rows[:30] == list(range(30))
    assert set(rows[30:]) <= set(range(30, 37))
    assert len(Mixture(30, 0, 0.25)) == 30
