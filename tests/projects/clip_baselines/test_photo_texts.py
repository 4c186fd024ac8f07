"""Captions of photographs, and their mixture with drawings."""

import numpy as np
import torch

from common.data.image_text.captions import CaptionLists
from common.families.image_text.photographs import CLASSES, TEMPLATES, UNSEEN_PHOTO_TEMPLATES
from projects.clip_baselines.photo_texts import JoinedTexts, Mixture, PhotoTexts


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
