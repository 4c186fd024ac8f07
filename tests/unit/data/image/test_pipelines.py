"""Augmentation pipelines that draw from the global generators."""

import pickle

import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from common.data.image.pipelines import _MILD_OPERATIONS, mild_rand_augment, seeded
from common.data.samplers import sample_rng

HALF = ([0.5] * 3, [0.5] * 3)


def picture() -> Image.Image:
    pixels = torch.randint(0, 256, (24, 20, 3), generator=torch.Generator().manual_seed(0))
    return Image.fromarray(pixels.byte().numpy())


def test_mild_operations_are_those_of_the_list_and_travel_to_loader_processes():
    """As an instance of torchvision's class whose table is cut to the list, which cannot be
    pickled.
    """
    plain = mild_rand_augment(16, (0.5, 1.0), *HALF)
    again = pickle.loads(pickle.dumps(plain))
    cut = v2.RandAugment(num_ops=2, magnitude=7, num_magnitude_bins=11)
    cut._AUGMENTATION_SPACE = {name: cut._AUGMENTATION_SPACE[name] for name in _MILD_OPERATIONS}
    steps = list(plain.pipeline.transforms)
    steps[2] = cut
    wanted = v2.Compose(steps)
    for i in range(40):
        with seeded(sample_rng(0, i, 0)):
            expected = wanted(picture())
        for pipeline in (plain, again):
            assert torch.equal(pipeline.one(picture(), sample_rng(0, i, 0)), expected)


def test_generators_are_put_back_and_those_of_devices_are_not_touched(monkeypatch):
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("seeds the GPU"))
    seed = int(sample_rng(0, 0, 0).integers(2**32))
    before = torch.get_rng_state()
    with seeded(sample_rng(0, 0, 0)):
        drawn = torch.rand(5)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(drawn, torch.rand(5, generator=torch.Generator().manual_seed(seed)))
