"""Sets, subsets, augmentations and orders of the config."""

import shutil
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from common.config import UserError
from common.data.image.sources import TrainTransform
from common.data.samplers import sample_rng
from common.families.images.data import eval_transform
from projects.hydra import data as hydra_data
from projects.hydra.data import (
    build_data,
    image_part,
    num_samples,
    requirements,
    train_transform,
)
from tests.projects.hydra.conftest import config


def mini(*overrides):
    return config(*overrides, name="mini")


def ids_of(source):
    """One hash per image of a set."""
    images = source.source(eval_transform(mini().data)).images
    return [hash(image.numpy().tobytes()) for image in images]


def test_mini_trains_on_a_balanced_subset_that_the_seed_draws():
    first, other = image_part(mini(), "train"), image_part(mini("seed=1"), "train")
    assert len(first.labels) == len(other.labels) == 4000 == num_samples(mini())
    assert set(Counter(first.labels.tolist()).values()) == {400}
    shared = len(set(ids_of(first)) & set(ids_of(other)))
    assert 1000 < shared < 3000
    assert first.class_names[0] == "airplane"


def test_test_and_development_images_are_never_trained_on():
    trained = set(ids_of(image_part(mini("data.limit=9000"), "train")))
    for split, size in (("test", 2000), ("dev", 1000)):
        held = image_part(mini(f"eval.split={split}"), "test")
        assert len(held.labels) == size
        assert set(Counter(held.labels.tolist()).values()) == {size // 10}
        assert len(trained & set(ids_of(held))) <= 2  # near-duplicates of the set itself
    with pytest.raises(UserError, match="multiple of 10"):
        image_part(mini("data.limit=4001"), "train")


@pytest.mark.parametrize(
    "kind", ["crop", "simclr", "randaugment", "dino", "multiview", "three_augment"]
)
def test_augmentations_depend_on_the_generator_alone(kind):
    cfg = mini(f"data.augmentation={kind}", "data.image_size=32", "data.erase_prob=0.5").data
    images = torch.randint(0, 256, (3, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    pixels = images.byte()
    for view in (0, 1):
        transform = train_transform(cfg, view)

        def draw(epoch, transform=transform):
            return transform.batch(pixels, [sample_rng(0, epoch, i) for i in range(3)])

        before = torch.get_rng_state()
        first = draw(0)
        assert torch.equal(torch.get_rng_state(), before)
        torch.rand(3)
        np.random.random(3)  # noqa: NPY002
        assert torch.equal(first, draw(0))
        assert not torch.equal(first, draw(1))
        assert first.shape == (3, 3, 32, 32)
        assert first.dtype == torch.float32
        one = transform.one(Image.new("RGB", (50, 40), "red"), sample_rng(0, 0, 0))
        assert one.shape == (3, 32, 32)


def test_only_the_second_dino_view_is_solarised():
    """View 1 always blurs and never solarises; seen on a bright image over many draws."""
    cfg = mini("data.augmentation=dino", "data.image_size=32").data
    bright = torch.full((1, 3, 32, 32), 255).byte()
    dark = []
    for view in (0, 1):
        transform = train_transform(cfg, view)
        draws = [transform.batch(bright, [sample_rng(0, 0, i)]).mean() for i in range(60)]
        dark.append(sum(float(d) < -1 for d in draws))
    assert dark[0] == 0
    assert dark[1] > 3


@pytest.mark.parametrize(
    ("kind", "solarised"), [("multiview", (0, 0.2)), ("three_augment", (1 / 3,) * 2)]
)
def test_released_pipelines_solarise_normalised_values_from_zero_on(kind, solarised):
    """A bright image: all its values become 1 minus themselves."""
    cfg = mini(f"data.augmentation={kind}", "data.image_size=32").data
    bright = torch.full((1, 3, 32, 32), 255).byte()
    moments = torch.tensor(cfg.mean), torch.tensor(cfg.std)
    inverted = 1 - (1 - moments[0]) / moments[1]
    for view, share in enumerate(solarised):
        transform = train_transform(cfg, view)
        draws = [transform.batch(bright, [sample_rng(0, 0, i)])[0] for i in range(90)]
        hits = [torch.allclose(x.mean((1, 2)), inverted, atol=0.3) for x in draws]
        assert sum(hits) / 90 == pytest.approx(share, abs=0.12)
        assert (share == 0) == (sum(hits) == 0)


def test_orders_of_the_config_reach_the_loader():
    data = build_data(config("data.repeats=3"))
    assert len(data.train_set) == num_samples(config("data.repeats=3")) == 3 * num_samples(config())
    batch = next(iter(data.train_dataloader()))
    assert max(Counter(batch["ids"].tolist()).values()) == 3
    data = build_data(config("data.samples_per_class=8"))
    batch = next(iter(data.train_dataloader()))
    assert sorted(Counter(batch["labels"].tolist()).values()) == [8, 8, 8, 8]
    views = next(iter(build_data(config("data.views=2")).train_dataloader()))
    assert not torch.equal(views["view_1"], views["view_2"])


def test_wrong_number_of_classes_is_refused_before_training():
    with pytest.raises(UserError, match=r"num_classes=7, but bundled has 10"):
        build_data(mini("data.num_classes=7"))


@pytest.fixture
def folder(tmp_path):
    """Two classes in a folder per part."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 6), ("val", 3)):
        for label, name in enumerate(("day", "night")):
            target = tmp_path / "own" / part / name
            target.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 60, (40, 36, 3)) + 150 * (1 - label)
                Image.fromarray(pixels.astype(np.uint8)).save(target / f"{i}.png")
    return tmp_path


def test_classes_of_own_folders_are_those_of_the_training_images(folder):
    """A class without images to judge shifts no label; one without training images is refused."""
    words = ["data.source=folder", "data.folder=own", f"data.root={folder}", "data.num_classes=2"]
    shutil.rmtree(folder / "own" / "val" / "day")
    judged = image_part(config(*words), "test")
    assert judged.labels.tolist() == [1, 1, 1]
    assert judged.class_names == ["day", "night"]
    (folder / "own" / "val" / "night").rename(folder / "own" / "val" / "dusk")
    with pytest.raises(UserError, match=r"without training images \(dusk\)"):
        image_part(config(*words), "test")


def test_own_folders_are_read(folder):
    cfg = config(
        "data.source=folder",
        "data.folder=own",
        f"data.root={folder}",
        "data.num_classes=2",
        "data.batch_size=8",
        "eval.ks=[5]",
        "eval.items_k=5",
    )
    batch = next(iter(build_data(cfg).train_dataloader()))
    assert batch["view_1"].shape == (8, 3, 16, 16)
    cfg.eval.ks, cfg.eval.items_k = [20], 20
    with pytest.raises(UserError, match="neighbours of a bank of 12 images"):  # before the training
        build_data(cfg)
    assert image_part(cfg, "test").class_names == ["day", "night"]
    assert len(image_part(cfg, "test").labels) == 6
    assert num_samples(cfg) == 12
    assert [need.present for need in requirements(cfg)] == [True]


def test_missing_sets_are_user_errors(tmp_path):
    for source, extra, message in (
        ("folder", ["data.folder=own"], "data.folder not found"),
        ("cifar10", [], "cifar-10-batches-py"),
        ("imagenet", [], "image set 'imagenet' not found"),
    ):
        cfg = config(f"data.source={source}", f"data.root={tmp_path}", *extra)
        with pytest.raises(UserError, match=message):
            image_part(cfg, "train")
        assert [need.present for need in requirements(cfg)] == [False]


def test_crops_are_those_of_the_config():
    words = ["data.crop_scale=[0.2, 0.4]", "data.mean=[0.1, 0.2, 0.3]", "data.std=[0.4, 0.5, 0.6]"]
    moments = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    expected = TrainTransform(16, (0.2, 0.4), flip_prob=0.5, mean=moments[0], std=moments[1])
    assert train_transform(config(*words).data, 0) == expected


def test_random_erasing_is_that_of_the_config(monkeypatch):
    asked = []
    monkeypatch.setattr(
        hydra_data.augment,
        "rand_augment",
        lambda size, scale, erase_prob, *_: asked.append((scale, erase_prob)),
    )
    words = ["data.augmentation=randaugment", "data.erase_prob=0.3", "data.crop_scale=[0.2, 0.4]"]
    train_transform(config(*words).data, 0)
    assert asked == [((0.2, 0.4), 0.3)]


@pytest.mark.parametrize("pairs", ["arbitrary", "identical", "distinct"])
def test_pairs_and_seed_of_the_config_reach_the_set(pairs):
    train_set = build_data(config(f"pairs.type={pairs}", "seed=5")).train_set
    assert (train_set.pairs, train_set.seed) == (pairs, 5)


def test_the_seed_draws_the_order_of_the_images():
    first, again, other = (
        next(iter(build_data(config(f"seed={seed}")).train_dataloader()))["ids"].tolist()
        for seed in (1, 1, 2)
    )
    assert first == again != other


def test_each_view_has_its_own_augmentation():
    """The second view of DINO is solarised."""
    train_set = build_data(config("data.views=2", "data.augmentation=dino")).train_set
    bright = torch.full((1, 3, 16, 16), 255).byte()
    dark = []
    for view in train_set.views:
        draws = (view.transform.batch(bright, [sample_rng(0, 0, i)]).mean() for i in range(60))
        dark.append(sum(float(draw) < -1 for draw in draws))
    assert dark[0] == 0 < dark[1]


def test_fewer_test_images_are_balanced_and_the_same_for_every_seed():
    parts = [image_part(mini("data.test_limit=100", f"seed={seed}"), "test") for seed in (0, 1)]
    assert set(Counter(parts[0].labels.tolist()).values()) == {10}
    assert ids_of(parts[0]) == ids_of(parts[1])


def test_imagenet_is_judged_on_its_own_part(monkeypatch, tmp_path):
    """Training and test images are those of the part that is asked for."""

    def load(name, root, transform, part):
        return SimpleNamespace(
            data=SimpleNamespace(samples=[(f"{part}.jpg", 1)]), class_names=["a", "b"]
        )

    monkeypatch.setattr(hydra_data, "load_image_set", load)
    cfg = config("data.source=imagenet", f"data.root={tmp_path}", "data.num_classes=2")
    for part in ("train", "test"):
        files = image_part(cfg, part).data
        assert (list(files.paths), files.labels.tolist()) == ([f"{part}.jpg"], [1])


@pytest.mark.parametrize(("root", "expected"), [("", "of-training"), ("judged", "judged")])
def test_sets_of_transfer_are_required_below_their_own_root(root, expected, monkeypatch):
    asked = []
    monkeypatch.setattr(
        hydra_data.images,
        "image_requirements",
        lambda source, root: asked.append((source, root)) or [],
    )
    words = [
        "data.root=of-training",
        "eval.transfer=[dtd]",
        *([f"eval.root={root}"] if root else []),
    ]
    requirements(config(*words, "data.source=cifar10"))
    assert asked == [("cifar10", "of-training"), ("dtd", expected)]
