"""SimCLR's augmentation: equal to torchvision image by image, seeded by image."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as F

from common.data.image import simclr
from common.data.image.simclr import SimCLRTransform, gaussian_blur, jitter_colours, shift_hue
from common.data.samplers import sample_rng

OPERATIONS = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def pictures(count: int, size: int = 16) -> torch.Tensor:
    """Random images; the first are grey, black, and equal in two channels."""
    images = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))
    images[0], images[1] = 0.5, 0.0
    images[2, 0] = images[2, 1]
    return images


def rngs(count: int, epoch: int = 0) -> list[np.random.Generator]:
    return [sample_rng(0, epoch, index) for index in range(count)]


def test_every_order_of_the_colour_operations_equals_torchvision():
    images, orders = pictures(24), torch.from_numpy(simclr._ORDERS)
    generator = torch.Generator().manual_seed(1)
    factors = 1.8 * torch.rand(24, 4, generator=generator)
    factors[:, 3] = torch.rand(24, generator=generator) - 0.5
    actual = jitter_colours(images.clone(), factors, orders)
    assert len({tuple(order) for order in orders.tolist()}) == 24
    for i in range(24):
        expected = images[i]
        for kind in orders[i].tolist():
            expected = OPERATIONS[kind](expected, float(factors[i, kind]))
        torch.testing.assert_close(actual[i], expected, atol=2e-6, rtol=0)


def test_hue_of_a_whole_turn_changes_nothing_and_of_half_a_turn_does():
    images = pictures(6)
    torch.testing.assert_close(shift_hue(images, torch.ones(6)), images, atol=1e-5, rtol=0)
    assert (shift_hue(images, torch.full((6,), 0.5))[3:] - images[3:]).abs().max() > 0.1


@pytest.mark.parametrize(("size", "kernel"), [(16, 3), (96, 9)])
def test_blur_equals_torchvision_with_each_image_s_own_width(size, kernel):
    images, sigma = pictures(4, size), torch.tensor([0.2, 0.7, 1.3, 2.0])
    actual = gaussian_blur(images, sigma)
    for i in range(4):
        expected = F.gaussian_blur(images[i], [kernel, kernel], [float(sigma[i])] * 2)
        torch.testing.assert_close(actual[i], expected, atol=1e-5, rtol=0)


def test_a_view_depends_on_its_own_generator_alone():
    transform = SimCLRTransform(16, blur_prob=0.5)
    images = (pictures(8) * 255).byte()
    whole = transform.batch(images, rngs(8))
    single = transform.batch(images[5:6], rngs(8)[5:6])
    torch.testing.assert_close(whole[5:6], single, atol=1e-5, rtol=0)
    again = transform.batch(images, rngs(8))
    assert torch.equal(whole, again)
    assert not torch.equal(whole, transform.batch(images, rngs(8, epoch=1)))


def test_large_batches_run_in_parts_of_any_size(monkeypatch):
    transform, images = SimCLRTransform(16, blur_prob=0.5), (pictures(11) * 255).byte()
    whole = transform.batch(images, rngs(11))
    monkeypatch.setattr(simclr, "_CHUNK_PIXELS", 5 * 16**2)
    torch.testing.assert_close(transform.batch(images, rngs(11)), whole, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="one generator for each of the 11 images"):
        transform.batch(images, rngs(10))
    with pytest.raises(ValueError, match="share a generator"):
        transform.batch(images[:2], rngs(1) * 2)


def test_hue_equals_the_modulo_formula():
    """The fast modulo against torch.remainder, also for shifts beyond a turn."""
    images = pictures(9)
    turns = torch.tensor([-1.0, -0.5, -1 / 6, 0.0, 1e-7, 1 / 6, 1 / 3, 0.5, 1.0])
    value, low = images.amax(1), images.amin(1)
    safe = torch.where(value > low, value - low, 1.0)
    red, green, blue = images.unbind(1)
    hue = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    k = (
        torch.tensor([5.0, 3.0, 1.0]).view(3, 1, 1) + (hue + 6 * turns[:, None, None])[:, None]
    ) % 6
    expected = value[:, None] - (value - low)[:, None] * torch.minimum(k, 4 - k).clamp(0, 1)
    torch.testing.assert_close(shift_hue(images, turns), expected, atol=1e-6, rtol=0)


def test_without_any_augmentation_the_image_stays():
    off = SimCLRTransform(
        16,
        scale=(1.0, 1.0),
        ratio=(1.0, 1.0),
        flip_prob=0.0,
        jitter_prob=0.0,
        grey_prob=0.0,
        **PLAIN,
    )
    images = (pictures(4) * 255).byte()
    actual = off.batch(images, rngs(4))
    torch.testing.assert_close(actual, images.float() / 255, atol=1e-5, rtol=0)


def test_coins_fall_with_their_probabilities():
    count = 600
    images = torch.randint(0, 256, (1, 3, 8, 8), dtype=torch.uint8).expand(count, -1, -1, -1)
    transform = SimCLRTransform(8, jitter_prob=0.0, grey_prob=0.3, **PLAIN)
    views = transform.batch(images, rngs(count))
    grey = (views[:, 0] == views[:, 1]).all(-1).all(-1)
    assert abs(float(grey.float().mean()) - 0.3) < 0.06


def test_strengths_bound_the_factors():
    transform = SimCLRTransform(8, jitter=(0.4, 1.5, 0.0, 0.1))
    uniform = np.stack([np.zeros(4), np.ones(4)])
    factors = transform._factors(uniform, torch.tensor([True, True]))
    expected = torch.tensor([[0.6, 0.0, 1.0, -0.1], [1.4, 2.5, 1.0, 0.1]])
    torch.testing.assert_close(factors, expected)
    off = transform._factors(uniform, torch.tensor([False, False]))
    assert torch.equal(off, torch.tensor([[1.0, 1.0, 1.0, 0.0]] * 2))


def test_one_image_of_any_size_takes_the_same_path():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8))
    transform = SimCLRTransform(24, blur_prob=1.0)
    view = transform.one(image, sample_rng(0, 0, 0))
    assert view.shape == (3, 24, 24)
    assert torch.isfinite(view).all()
    assert torch.equal(view, transform.one(image, sample_rng(0, 0, 0)))


def test_wrong_settings_and_missing_generators_are_refused():
    with pytest.raises(ValueError, match="hue <= 0.5"):
        SimCLRTransform(8, jitter=(0.4, 0.4, 0.4, 0.6))
    with pytest.raises(ValueError, match="one generator for each"):
        SimCLRTransform(8).batch(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), None)
