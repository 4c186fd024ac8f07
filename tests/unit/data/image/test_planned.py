"""Views of files: read once, cropped as bytes, finished anywhere, as torchvision makes them."""

import io
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import avg_pool2d
from torchvision.transforms import v2
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from common.config import UserError
from common.data.deferred import Deferred, finished
from common.data.image import opened
from common.data.image.multi_view import MultiViews, ViewStack
from common.data.image.opened import OpenedImage
from common.data.image.simclr import SimCLRTransform
from common.data.image.sources import CachedImages, EvalTransform, ImageFiles, TrainTransform
from common.data.module import ContrastiveData
from common.data.samplers import sample_rng
from tests.pretended import pretended_device

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
COLOUR = SimCLRTransform(24, blur_prob=0.5, solarise_prob=0.3)
DRAWS, KS = (
    1500,
    2.23 * (2 / 1500) ** 0.5,
)  # distance that equal distributions exceed once in 10,000


def photograph(height: int, width: int, seed: int = 0) -> Image.Image:
    """Smooth structure of several scales, as in a photograph."""
    generator = torch.Generator().manual_seed(seed)
    layers = [
        F.resize(torch.rand(3, n, n, generator=generator), [height, width]) / (i + 1)
        for i, n in enumerate((4, 16, 40))
    ]
    pixels = torch.stack(layers).sum(0)
    return F.to_pil_image(pixels / pixels.max())


@pytest.fixture
def files(tmp_path):
    for i in range(6):
        photograph(60 + 8 * i, 80 - 4 * i, i).save(tmp_path / f"{i}.jpg", quality=95)
    return lambda index: tmp_path / f"{index}.jpg"


def rngs(count: int) -> list[np.random.Generator]:
    return [sample_rng(0, 0, index) for index in range(count)]


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_a_crop_of_a_file_equals_that_of_torchvision(files, mode):
    way = InterpolationMode(mode)
    transform = TrainTransform(16, (0.2, 1.0), flip_prob=0.5, interpolation=way, **PLAIN)
    actual, _ = ImageFiles(files, 6, transform).load(range(6), rngs(6))
    for i, rng in enumerate(rngs(6)):
        image = Image.open(files(i))
        *box, flip = transform.box(rng, image.height, image.width)
        crop = F.resized_crop(image, *box, [16, 16], transform.interpolation, antialias=True)
        expected = F.pil_to_tensor(F.horizontal_flip(crop) if flip else crop)
        assert (255 * actual[i] - expected).abs().max() < 1.5  # levels: the two round otherwise


def test_a_view_depends_on_its_file_and_generator_alone(files, tmp_path):
    """Whatever else is in the batch, unreadable files too, and wherever it is finished."""
    data = MultiViews(
        ImageFiles(files, 7, ViewStack((COLOUR, TrainTransform(24), COLOUR)), max_corrupt=1.0),
        ImageFiles(files, 7, ViewStack((SimCLRTransform(12),))),
        seed=0,
    )
    (tmp_path / "6.jpg").write_bytes(files(0).read_bytes()[:900])
    keys = [(4, 1), (6, 1), (0, 1), (2, 1)]
    whole = data[keys]
    assert whole["ids"].tolist() == [4, 0, 2]
    assert whole["skipped"] == 1
    assert whole["views"].shape == (3, 3, 3, 24, 24)
    moved = finished(pickle.loads(pickle.dumps(data.deferred(keys))))  # as between processes
    alone = data[[(2, 1)]]
    for name in ("views", "local_views"):
        assert torch.equal(moved[name], whole[name])
        torch.testing.assert_close(alone[name][:, 0], whole[name][:, 2], atol=1e-5, rtol=0)
    assert not torch.equal(data[[(2, 2)]]["views"], alone["views"])


def test_a_file_is_read_once_for_all_views_and_crosses_processes_as_bytes(files, monkeypatch):
    decoded = []
    real = opened.decode_jpeg
    monkeypatch.setattr(opened, "decode_jpeg", lambda *a, **k: decoded.append(1) or real(*a, **k))
    stack = ViewStack((COLOUR,) * 4)
    batch = MultiViews(ImageFiles(files, 6, stack), seed=0).deferred([(i, 0) for i in range(6)])
    assert len(decoded) == 6
    assert isinstance(batch["views"], Deferred)
    assert batch["views"].pixels.dtype == torch.uint8


@pytest.mark.parametrize("cached", [True, False])
def test_views_are_finished_on_another_device(files, cached, monkeypatch):
    pixels = torch.stack([F.resize(F.pil_to_tensor(photograph(30, 30, i)), [30]) for i in range(6)])
    stack = ViewStack((COLOUR, COLOUR, TrainTransform(24)))
    source = CachedImages(pixels, stack) if cached else ImageFiles(files, 6, stack)
    (batch,), _ = source.views(range(6), [(stack, rngs(6))])
    expected = batch.finish()
    with monkeypatch.context() as patch, pretended_device(patch) as device:
        there = batch.to(device).finish()
        assert there.device == device
        torch.testing.assert_close(there.cpu(), expected, atol=1e-5, rtol=0)


def test_loaders_leave_views_to_a_device_that_is_not_the_cpu(files):
    class Trainer:
        global_rank, world_size, max_steps, accumulate_grad_batches = 0, 1, 3, 1

        class strategy:
            root_device = torch.device("cpu")

        class precision_plugin:
            convert_input = staticmethod(lambda batch: batch)

    data = MultiViews(ImageFiles(files, 6, ViewStack((COLOUR, COLOUR))), seed=0)
    module = ContrastiveData(data, batch_size=3, seed=0)
    module.trainer = Trainer
    here = next(iter(module.train_dataloader()))
    assert isinstance(here["views"], torch.Tensor)
    assert module.on_after_batch_transfer(here, 0) is here
    Trainer.strategy.root_device = torch.device("cuda", 0)
    left = next(iter(module.train_dataloader()))
    assert isinstance(left["views"], Deferred)
    assert torch.equal(module.on_after_batch_transfer(left, 0)["views"], here["views"])


def test_a_large_jpeg_is_decoded_at_the_scale_that_its_crops_need():
    content = io.BytesIO()
    photograph(480, 640).save(content, "JPEG", quality=95)
    whole = TrainTransform(32, (1.0, 1.0), (4 / 3, 4 / 3), **PLAIN)
    plan = whole.plan(sample_rng(0, 0, 0), 480, 640)
    crops, sizes = [], []
    for factor in (3.9, 15.0, 4.0):
        with OpenedImage.open(content.getvalue()) as image:
            image.allow_reduction(factor)
            crops.append(whole.crops(image, plan).float())
            sizes.append(tuple(image.pixels().shape[1:]))
    assert sizes == [(480, 640), (120, 160), (240, 320)]
    for reduced in crops[1:]:
        assert (reduced - crops[0]).abs().mean() < 1  # levels of 255


@pytest.mark.parametrize("form", ["L", "CMYK", "P", "RGBA", "I;16"])
def test_files_of_every_mode_give_three_channels(form, tmp_path):
    if form == "I;16":
        image = Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20) * 100)
    else:
        image = photograph(20, 20).convert(form)
    path = tmp_path / ("image.jpg" if form in ("L", "CMYK") else "image.png")
    image.save(path)
    with OpenedImage.open(path) as read:
        assert torch.equal(read.pixels(), F.pil_to_tensor(Image.open(path).convert("RGB")))


def test_cut_off_files_are_refused_at_every_length(files):
    content = files(0).read_bytes()
    for end in range(0, len(content) - 2, 97):
        source = ImageFiles(files, 1, COLOUR)
        with pytest.raises(ValueError), OpenedImage.open(content[:end]) as image:  # noqa: PT011
            image.pixels()
        files(9).write_bytes(content[:end])
        with pytest.raises(UserError, match="no image of a batch"):
            source.load([9], rngs(1))


def distance(ours, theirs):
    """Largest difference of two empirical distribution functions (Kolmogorov and Smirnov)."""
    grid = np.sort(np.concatenate([ours, theirs]))
    places = [np.searchsorted(np.sort(x), grid, side="right") / len(x) for x in (ours, theirs)]
    return np.abs(places[0] - places[1]).max()


def planned_numbers(transform):
    plans = np.stack([transform.plan(sample_rng(3, 0, i), 375, 500) for i in range(DRAWS)])
    factors = transform._factors(plans[:, 9:13], torch.ones(DRAWS, dtype=torch.bool)).numpy()
    return np.concatenate([plans[:, :4], (plans[:, 2] * plans[:, 3])[:, None], factors], 1), plans


def test_numbers_of_a_view_are_distributed_as_torchvision_s():
    transform = SimCLRTransform(224, solarise_prob=0.2)
    ours, plans = planned_numbers(transform)
    torch.manual_seed(0)
    image, jitter = torch.empty(3, 375, 500), v2.ColorJitter(0.8, 0.8, 0.8, 0.2)
    crop = v2.RandomResizedCrop(224, (0.08, 1.0))
    rows = []
    for _ in range(DRAWS):
        box, colour = crop.make_params([image]), jitter.make_params([image])
        places = [box[k] for k in ("top", "left", "height", "width")]
        names = ("brightness_factor", "contrast_factor", "saturation_factor", "hue_factor")
        rows.append([*places, places[2] * places[3], *(float(colour[n]) for n in names)])
    theirs = np.array(rows)
    for column in range(ours.shape[1]):
        assert distance(ours[:, column], theirs[:, column]) < KS, column
    flips, colours = plans[:, 4], plans[:, 5:8]
    assert abs(flips.mean() - 0.5) < 4 * 0.5 / DRAWS**0.5
    assert (np.abs((colours < 0.8).mean(0) - 0.8) < 4 * 0.4 / DRAWS**0.5).all()
    orders = np.bincount((plans[:, 8] * 24).astype(int), minlength=24)
    assert ((orders - DRAWS / 24) ** 2 / (DRAWS / 24)).sum() < 60  # chi squared, 23 degrees


def test_other_ranges_are_seen_by_the_distances():
    ours, _ = planned_numbers(SimCLRTransform(224))
    other, _ = planned_numbers(SimCLRTransform(224, (0.2, 1.0), jitter=(0.6, 0.8, 0.8, 0.2)))
    assert distance(ours[:, 4], other[:, 4]) > KS
    assert distance(ours[:, 5], other[:, 5]) > KS


# means of the quarters of channel 0, of a picture that is computed: view by view
GOLDEN = {
    "crop": [
        [0.5364, -0.8335, 0.5364, -0.8335],
        [0.5792, -1.0476, 0.5792, -1.0476],
        [0.3652, -1.3473, 0.3652, -1.3473],
    ],
    "simclr": [
        [0.0655, -0.5339, 0.0655, -0.5339],
        [-1.8676, -0.3936, -1.9061, -0.4705],
        [-0.4889, -1.4395, 1.3305, 0.4161],
    ],
    "stack": [
        [-1.8434, -0.8919, -0.7678, 0.305],
        [-1.2617, 0.6221, -1.2617, 0.6221],
        [-0.5863, -0.0682, 0.5166, 1.0346],
        [-0.6195, 0.8361, -0.6195, 0.8361],
        [-1.6388, -0.4682, 0.116, 1.3863],
        [-0.8764, 0.7505, -0.8764, 0.7505],
    ],
}


@pytest.mark.parametrize("name", ["crop", "simclr", "stack"])
def test_views_of_a_picture_stay_as_they_are(name):
    transform = {
        "crop": TrainTransform(16, flip_prob=0.5),
        "simclr": SimCLRTransform(16, blur_prob=0.5, solarise_prob=0.3),
        "stack": ViewStack((SimCLRTransform(16), TrainTransform(16))),
    }[name]
    y, x = torch.meshgrid(torch.arange(24), torch.arange(24), indexing="ij")
    picture = torch.stack([10 * x, 10 * y, 5 * (x + y)]).byte()
    cached = CachedImages(picture.repeat(3, 1, 1, 1), transform).load(range(3), rngs(3))[0]
    actual = avg_pool2d(cached.flatten(0, -4)[:, 0], 8).flatten(1)
    torch.testing.assert_close(actual, torch.tensor(GOLDEN[name]), atol=2e-4, rtol=0)


def test_a_fixed_transform_of_files_is_as_it_was(files):
    transform = EvalTransform(16)
    (batch,), kept = ImageFiles(files, 6, transform).views(range(6), [(transform, rngs(6))])
    assert kept == list(range(6))
    assert torch.equal(batch, torch.stack([transform.one(Image.open(files(i))) for i in range(6)]))
