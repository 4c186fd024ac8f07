"""Photographs: splits that share nothing, captions, mixtures."""

import pytest
import torch

from common.families.image_text.photographs import (
    photographs_to_judge,
    photographs_to_train,
)


@pytest.mark.slow
def test_training_images_depend_on_the_seed_and_are_never_judged():
    train = photographs_to_train(None, 6000, 0, 32)
    assert torch.bincount(train.labels).tolist() == [600] * 10
    seen = {image.numpy().tobytes() for image in train.images}
    dev = photographs_to_judge(None, "dev", 32)
    assert len(dev.labels) == 2000
    assert not any(image.numpy().tobytes() in seen for image in dev.images)
    other = photographs_to_train(None, 6000, 1, 32)
    assert not torch.equal(train.images, other.images)
