import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from common.config import UserError
from common.data.image.files import LabelledFiles
from common.data.image.labelled import LabelledPixels
from common.data.image.parts import EvalImages, ImagePart
from common.data.image.simclr import SimCLRTransform
from common.data.image.sources import (
    CachedImages,
    EvalTransform,
    ImageFiles,
    TrainTransform,
    crop_box,
)
from common.data.samplers import sample_rng

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def rngs(n, epoch=0):
    return [sample_rng(0, epoch, i) for i in range(n)]


@pytest.fixture
def images():
    return torch.randint(0, 256, (6, 3, 16, 16), generator=torch.Generator().manual_seed(0)).byte()


def test_crop_boxes_lie_inside_and_cover_the_scale_range():
    boxes = [crop_box(sample_rng(0, 0, i), 40, 60, (0.5, 1.0), (0.75, 4 / 3)) for i in range(400)]
    areas = np.array([h * w / 2400 for _, _, h, w in boxes])
    assert all(t >= 0 and x >= 0 and t + h <= 40 and x + w <= 60 for t, x, h, w in boxes)
    assert areas.min() > 0.45
    assert areas.mean() < 0.8


def test_extreme_shape_falls_back_to_a_centred_box():
    assert crop_box(sample_rng(0, 0, 0), 10, 100, (0.9, 1.0), (0.75, 4 / 3)) == (0, 43, 10, 13)
    assert crop_box(sample_rng(0, 0, 0), 100, 9, (0.9, 1.0), (0.75, 4 / 3)) == (44, 0, 12, 9)


def test_batch_equals_sample_by_sample(images):
    transform = TrainTransform(12, flip_prob=0.5)
    together = transform.batch(images, rngs(6))
    alone = torch.cat([transform.batch(images[i : i + 1], [rng]) for i, rng in enumerate(rngs(6))])
    assert torch.equal(together, alone)
    assert not torch.equal(together, transform.batch(images, rngs(6, epoch=1)))


def test_crop_equals_cut_and_resize(images):
    """Where the crop is enlarged, antialiasing does nothing and torchvision gives the same
    pixels."""
    transform = TrainTransform(24, scale=(0.5, 0.6), **PLAIN)
    got = transform.batch(images, rngs(6)) * 255
    for i, rng in enumerate(rngs(6)):
        top, left, h, w = crop_box(rng, 16, 16, (0.5, 0.6), transform.ratio)
        want = F.resized_crop(images[i].float(), top, left, h, w, [24, 24], antialias=True)
        inner = slice(2, -2)  # at its edge a cut crop has no neighbours to interpolate with
        torch.testing.assert_close(
            got[i, :, inner, inner], want[:, inner, inner], rtol=0, atol=2e-3
        )


def test_full_crop_is_the_identity_and_a_flip_mirrors(images):
    whole = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0), **PLAIN}
    plain = TrainTransform(16, **whole).batch(images, rngs(6)) * 255
    torch.testing.assert_close(plain, images.float(), rtol=0, atol=1e-3)
    mirrored = TrainTransform(16, flip_prob=1.0, **whole).batch(images, rngs(6)) * 255
    torch.testing.assert_close(mirrored, images.float().flip(-1), rtol=0, atol=1e-3)


def test_single_image_path_uses_the_same_box_and_flip():
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16).repeat(3, 1, 1)
    transform = TrainTransform(16, scale=(1.0, 1.0), ratio=(1.0, 1.0), flip_prob=1.0, **PLAIN)
    one = transform.one(F.to_pil_image(pixels), sample_rng(0, 0, 0))
    torch.testing.assert_close(one * 255, pixels.float().flip(-1), rtol=0, atol=1e-3)


def test_aliasing_sizes_and_missing_generators_are_refused(images):
    with pytest.raises(ValueError, match="would alias at size 7"):
        TrainTransform(7).batch(images, rngs(6))
    with pytest.raises(ValueError, match="one generator for each of the 6"):
        TrainTransform(12).batch(images, rngs(5))
    with pytest.raises(ValueError, match="needs a generator"):
        TrainTransform(12).one(Image.new("RGB", (9, 9)))


def test_eval_transform_resizes_crops_and_normalises():
    image = Image.new("L", (40, 20), 255)  # grey images become RGB
    one = EvalTransform(10).one(image)
    assert one.shape == (3, 10, 10)
    torch.testing.assert_close(
        one[:, 5, 5],
        (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225]),
    )
    batch = EvalTransform(10).batch(torch.full((2, 3, 20, 40), 255).byte())
    torch.testing.assert_close(batch[1], one)


def test_cached_images_check_their_input(images):
    source = CachedImages(images, EvalTransform(16, **PLAIN))
    loaded, kept = source.load([4, 1])
    assert kept == [0, 1]
    assert torch.equal(loaded * 255, images[[4, 1]].float())
    with pytest.raises(ValueError, match=r"\(N, 3, H, W\) uint8"):
        CachedImages(images.float(), EvalTransform(16))


def test_image_files_stop_when_nothing_or_too_much_is_unreadable(tmp_path):
    for i in range(200):
        (tmp_path / f"{i}.png").write_bytes(b"broken")
    Image.new("RGB", (8, 8)).save(tmp_path / "good.png")

    def path(i):
        return tmp_path / (f"{i}.png" if i % 8 == 0 else "good.png")

    source = ImageFiles(path, 200, EvalTransform(8), max_corrupt=0.1)
    source.load(range(96))  # 12 of 96, too few to judge
    with pytest.raises(UserError, match="13 of 100 samples are corrupt"):
        source.load(range(96, 116))
    with pytest.raises(UserError, match="no image of a batch of 1"):
        ImageFiles(path, 200, EvalTransform(8)).load([0])


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_the_centres_of_a_box_are_where_its_pixels_come_from(flip):
    """A ramp says at every pixel where it lies; boxes touch no border, where values are
    repeated."""
    size = 32
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    ramp = torch.stack([y, x, 0 * x]).byte()[None]
    transform = TrainTransform(16, (0.3, 0.5), flip_prob=flip, mean=(0.0,) * 3, std=(1 / 255,) * 3)
    for index in range(5):
        box = transform.box(sample_rng(0, 0, index), size, size)
        crop = transform.batch(ramp, [sample_rng(0, 0, index)])[0, :2]
        actual = torch.nn.functional.avg_pool2d(crop, 4).permute(1, 2, 0) + 0.5
        torch.testing.assert_close(actual, box.centres(4, 4), atol=0.25, rtol=0)
        assert box.flip == bool(flip)


def test_an_unreadable_image_is_left_out_of_a_validation(tmp_path):
    """It stopped the run, whatever fraction is tolerated."""
    for name in ("a.png", "c.png"):
        Image.new("RGB", (8, 8), (255, 0, 0)).save(tmp_path / name)
    (tmp_path / "b.png").write_bytes(b"none")
    files = LabelledFiles(
        tmp_path, ["a.png", "b.png", "c.png"], torch.tensor([0, 1, 2]), list("abc")
    )
    data = EvalImages(ImagePart(files), EvalTransform(4, **PLAIN))
    batch = data.collate([data[i] for i in range(3)])
    assert batch["labels"].tolist() == [0, 2]
    assert batch["images"].shape == (2, 3, 4, 4)
    assert (data.source.counter.seen, data.source.counter.skipped) == (3, 1)
    with pytest.raises(UserError, match="no image of a validation batch of 1"):
        data.collate([None])
    data.source.counter.min_seen = 1
    with pytest.raises(UserError, match="more than the tolerated"):
        data[1]


def test_images_in_memory_are_validated_one_by_one(images):
    data = EvalImages(ImagePart(LabelledPixels(images, torch.arange(6), [])), EvalTransform(16))
    batch = data.collate([data[i] for i in (4, 0)])
    assert batch["labels"].tolist() == [4, 0]
    assert torch.equal(batch["images"], EvalTransform(16).batch(images[[4, 0]]))


def test_eval_transform_resizes_before_it_crops():
    """The usual protocol of ImageNet: shorter side to 256, then the inner 224 pixels."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    for mode in ("bilinear", "bicubic"):
        way = InterpolationMode(mode)
        own = EvalTransform(16, interpolation=way, resize=20)
        expected = F.center_crop(F.resize(image, [20], way, antialias=True), [16, 16])
        expected = F.to_dtype(F.to_image(expected), torch.float32, scale=True)
        expected = F.normalize(expected, own.mean, own.std)
        torch.testing.assert_close(own.one(image), expected)
        pixels = F.to_image(image)[None]
        assert (own.batch(pixels)[0] - expected).abs().max() < 0.2  # tensors round otherwise
        assert (EvalTransform(16, interpolation=way).one(image) - expected).abs().max() > 0.5
    already = torch.randint(0, 256, (1, 3, 16, 16), dtype=torch.uint8)
    enlarged = EvalTransform(16, resize=20).batch(already)
    assert not torch.equal(enlarged, EvalTransform(16).batch(already))  # CIFAR: 36, then 32
    with pytest.raises(ValueError, match="cannot cut"):
        EvalTransform(16, resize=15)


def test_training_crops_are_bicubic_where_they_are_to_be():
    """open_clip's and the improved CLIP baselines' crops."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    cubic, linear = (
        TrainTransform(16, interpolation=InterpolationMode(mode))
        for mode in ("bicubic", "bilinear")
    )
    for take in (
        lambda t: t.one(image, sample_rng(0, 0, 0)),
        lambda t: t.batch(F.to_image(image)[None], [sample_rng(0, 0, 0)])[0],
    ):
        assert (take(cubic) - take(linear)).abs().max() > 0.1
    low, high = (torch.tensor(x) for x in (0.0, 1.0))
    bounds = [(edge - torch.tensor(cubic.mean)) / torch.tensor(cubic.std) for edge in (low, high)]
    batch = cubic.batch(F.to_image(image)[None], [sample_rng(0, 0, 0)])[0]
    assert (batch >= bounds[0][:, None, None] - 1e-5).all()
    assert (batch <= bounds[1][:, None, None] + 1e-5).all()
    view = SimCLRTransform(16, interpolation=InterpolationMode.BICUBIC)
    assert view.crop.interpolation is InterpolationMode.BICUBIC
