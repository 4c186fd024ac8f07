"""K + 1 views of an image: independent, seeded by the image, equal in a batch and alone."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2.functional import to_pil_image

from common.data.image import simclr
from common.data.image.multi_view import MultiViews, ViewStack
from common.data.image.simclr import SimCLRTransform
from common.data.image.sources import CachedImages, ImageFiles, TrainTransform
from common.data.samplers import sample_rng

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
OFF = {
    "scale": (1.0, 1.0),
    "ratio": (1.0, 1.0),
    "flip_prob": 0.0,
    "jitter_prob": 0.0,
    "grey_prob": 0.0,
}


def images(count: int = 8, size: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


def test_views_are_independent_draws():
    """Crop positions of two views are uncorrelated; a view with itself is the negative twin."""
    ramp = torch.arange(32, dtype=torch.uint8).mul(8).expand(400, 3, 32, 32)
    stack = ViewStack((TrainTransform(16, (0.1, 0.3), **PLAIN),) * 3)
    rngs = [sample_rng(0, 0, i) for i in range(400)]
    place = stack.batch(ramp, rngs).mean((2, 3, 4)).T  # where each crop lies
    correlation = torch.corrcoef(place)
    assert (correlation - torch.eye(3)).abs().max() < 0.15
    assert place.std() > 0.1


def test_batch_equals_alone_and_epochs_differ():
    stack = ViewStack((SimCLRTransform(16, blur_prob=0.5),) * 4)
    data = MultiViews(CachedImages(images(), stack), seed=0)
    whole, alone = data[[(1, 0), (5, 0)]], data[[(5, 0)]]
    assert whole["views"].shape == (4, 2, 3, 16, 16)
    assert whole["ids"].tolist() == [1, 5]
    torch.testing.assert_close(whole["views"][:, 1:], alone["views"], atol=1e-5, rtol=0)
    assert not torch.equal(alone["views"], data[[(5, 1)]]["views"])
    assert len(data) == 8


@pytest.fixture(scope="module")
def four_views():
    """A data set, the keys of its 128 images, and their views, each image read alone."""
    blurred = SimCLRTransform(16, blur_prob=0.5)
    stack = ViewStack((SimCLRTransform(16), SimCLRTransform(16), blurred, SimCLRTransform(16)))
    data = MultiViews(CachedImages(images(128), stack), seed=0)
    keys = [(index, 3) for index in range(128)]
    return data, keys, torch.cat([data[[key]]["views"] for key in keys], dim=1)


@pytest.mark.parametrize("chunk", [4, 100, None])
@pytest.mark.parametrize("batch_size", [11, 61, 128])
def test_a_view_does_not_depend_on_its_place_in_the_batch(
    four_views, batch_size, chunk, monkeypatch
):
    """For every cut of the images into batches, and of batches into parts: the same views."""
    data, keys, alone = four_views
    if chunk is not None:
        monkeypatch.setattr(simclr, "_CHUNK_PIXELS", chunk * 16**2)
    order = torch.randperm(128, generator=torch.Generator().manual_seed(1)).tolist()
    for start in range(0, 128, batch_size):
        rows = order[start : start + batch_size]
        actual = data[[keys[row] for row in rows]]["views"]
        torch.testing.assert_close(actual, alone[:, rows], atol=1e-4, rtol=0)


def test_batches_and_files_draw_the_same_coins():
    """An image in memory and the same image read by itself are flipped and greyed alike."""
    coins = {**OFF, "flip_prob": 0.5, "grey_prob": 0.5, **PLAIN}
    stack = ViewStack((SimCLRTransform(16, **coins),) * 3)
    pixels = images(20)
    whole = stack.batch(pixels, [sample_rng(0, 0, i) for i in range(20)])
    for i, image in enumerate(pixels):
        one = stack.one(to_pil_image(image), sample_rng(0, 0, i))
        torch.testing.assert_close(one, whole[i], atol=1e-4, rtol=0)
    assert not torch.equal(whole[:, 0], whole[:, 1])


def test_each_view_has_its_own_transform():
    plain = SimCLRTransform(16, **OFF, **PLAIN)
    solarised = SimCLRTransform(16, **OFF, **PLAIN, solarise_prob=1.0)
    rngs = [sample_rng(0, 0, i) for i in range(8)]
    first, second, third = ViewStack((plain, solarised, plain)).batch(images(), rngs).unbind(1)
    pixels = images().float() / 255
    torch.testing.assert_close(first, pixels, atol=1e-5, rtol=0)
    torch.testing.assert_close(third, first)
    expected = torch.where(images() >= 128, 1 - pixels, pixels)
    assert ((second - expected).abs() < 1e-4).float().mean() > 0.99  # rounding at the threshold
    assert (second - first).abs().max() > 0.5


def test_local_views_lie_beside_the_others_and_files_are_left_out_alike(tmp_path):
    rng = np.random.default_rng(0)
    for index in range(3):
        pixels = rng.integers(0, 255, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    (tmp_path / "1.png").write_bytes(b"no picture")

    def source(size: int, count: int) -> ImageFiles:
        stack = ViewStack((SimCLRTransform(size),) * count)
        return ImageFiles(lambda i: tmp_path / f"{i}.png", 3, stack, max_corrupt=1.0)

    batch = MultiViews(source(16, 2), source(8, 3), seed=0)[[(0, 0), (1, 0), (2, 0)]]
    assert batch["views"].shape == (2, 2, 3, 16, 16)
    assert batch["local_views"].shape == (3, 2, 3, 8, 8)
    assert batch["ids"].tolist() == [0, 2]
    assert batch["skipped"] == 1
    views = [*batch["views"]]
    assert not torch.equal(views[0], views[1])


def test_transforms_of_different_sizes_and_missing_generators_are_refused():
    with pytest.raises(ValueError, match="all of the same size"):
        ViewStack((SimCLRTransform(16), SimCLRTransform(8)))
    with pytest.raises(ValueError, match="one generator for each"):
        ViewStack((SimCLRTransform(16),)).batch(images(), None)
