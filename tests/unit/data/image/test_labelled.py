"""In-memory labelled sets: the bundled CIFAR-10 part, official layouts, subsets; ImageNet lists."""

import pickle

import numpy as np
import pytest
import torch

from common.config import UserError
from common.data.image.files import (
    image_files,
    imagenet100_synsets,
    imagenet_files,
    source_of,
    tiny_imagenet_files,
)
from common.data.image.labelled import (
    LabelledPixels,
    balanced_subset,
    hold_out,
    load_cifar10,
    load_pixels,
)
from common.data.lookup import BUNDLED


def toy(per_class: int = 6) -> LabelledPixels:
    """Three classes in turns; every image holds its own row number."""
    count = 3 * per_class
    images = torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 4, 4)
    return LabelledPixels(images, torch.arange(count) % 3, ["a", "b", "c"])


@pytest.mark.slow
def test_bundled_cifar10_is_balanced_apart_and_small():
    train, test = load_cifar10(None, "train"), load_cifar10(None, "test")
    assert train.images.shape == (10000, 3, 32, 32)
    assert train.labels.bincount().tolist() == [1000] * 10
    assert test.labels.bincount().tolist() == [200] * 10
    assert train.class_names[:2] == ["airplane", "automobile"]
    seen = {image.numpy().tobytes() for image in train.images}
    assert not any(image.numpy().tobytes() in seen for image in test.images)
    assert sum(p.stat().st_size for p in (BUNDLED / "cifar10").iterdir()) < 4e6


def test_bundled_images_show_their_class():
    """Sky and sea make ships and airplanes bluer than frogs and deer."""
    data = load_cifar10(None, "test")
    blue = data.images[:, 2].float().mean((1, 2)) - data.images[:, 0].float().mean((1, 2))
    by_class = {
        name: float(blue[data.labels == i].mean()) for i, name in enumerate(data.class_names)
    }
    assert min(by_class["airplane"], by_class["ship"]) > max(by_class["frog"], by_class["deer"])


def test_size_limit_and_seed():
    small = load_cifar10(None, "test", size=16, limit=50)
    assert small.images.shape == (50, 3, 16, 16)
    assert small.labels.bincount().tolist() == [5] * 10
    first = load_cifar10(None, "test", limit=50, seed=0)
    assert torch.equal(first.images, load_cifar10(None, "test", limit=50, seed=0).images)
    assert not torch.equal(first.images, load_cifar10(None, "test", limit=50, seed=1).images)
    with pytest.raises(UserError, match="did you mean 'test'"):
        load_cifar10(None, "tests")


def test_subset_keeps_the_order_and_refuses_what_does_not_fit():
    actual = balanced_subset(toy(), 6)
    assert actual.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]
    for limit in (7, 2, 21):
        with pytest.raises(UserError, match=f"limit={limit}: give a multiple of 3"):
            balanced_subset(toy(), limit)


def test_held_out_part_is_the_last_of_each_class():
    rest, held = hold_out(toy(), 2)
    assert held.images[:, 0, 0, 0].tolist() == [12, 13, 14, 15, 16, 17]
    assert len(rest.labels) == 12
    with pytest.raises(UserError, match="cannot hold out 6 of the 6 'a' images"):
        hold_out(toy(), 6)


def test_official_cifar100_layout_is_read(tmp_path):
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("train", "test"):
        content = {
            "data": rng.integers(0, 255, (4, 3072), dtype=np.uint8),
            "fine_labels": [0, 1, 1, 0],
        }
        (folder / name).write_bytes(pickle.dumps(content))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": ["apple", "aquarium_fish"]}))
    from torchvision import datasets

    patched = pytest.MonkeyPatch()
    patched.setattr(datasets.CIFAR100, "_check_integrity", lambda self: True)
    patched.setattr("torchvision.datasets.cifar.check_integrity", lambda *args: True)
    try:
        data = load_pixels("cifar100", str(tmp_path), "train", size=16)
    finally:
        patched.undo()
    assert data.images.shape == (4, 3, 16, 16)
    assert data.labels.tolist() == [0, 1, 1, 0]
    assert data.class_names == ["apple", "aquarium fish"]


def test_official_cifar10_layout_is_read(tmp_path, monkeypatch):
    from torchvision import datasets

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    rng = np.random.default_rng(0)
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    for number, name in enumerate(names):
        content = {
            "data": rng.integers(0, 255, (2, 3072), dtype=np.uint8),
            "labels": [number % 2, 1],
        }
        (folder / name).write_bytes(pickle.dumps(content))
    meta = {"label_names": ["airplane", "automobile"]}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta))
    monkeypatch.setattr(datasets.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *args: True)
    train = load_pixels("cifar10", str(tmp_path), "train")
    test = load_pixels("cifar10", str(tmp_path), "test", size=16)
    assert train.images.shape == (10, 3, 32, 32)
    assert train.labels.tolist() == [0, 1, 1, 1, 0, 1, 1, 1, 0, 1]
    assert test.images.shape == (2, 3, 16, 16)
    assert test.class_names == ["airplane", "automobile"]


def test_official_stl10_layout_is_read(tmp_path, monkeypatch):
    """Binary files hold columns; unlabelled images come after the training images, without
    class."""
    from torchvision import datasets

    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    pixels = np.zeros((2, 3, 96, 96), dtype=np.uint8)
    pixels[0, 0, 1, 5] = 200  # channel, column, row in the file
    for name in ("train", "test", "unlabeled"):
        pixels.tofile(folder / f"{name}_X.bin")
    for name in ("train", "test"):
        np.array([1, 10], dtype=np.uint8).tofile(folder / f"{name}_y.bin")
    classes = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]
    (folder / "class_names.txt").write_text("\n".join(classes) + "\n", encoding="utf-8")
    monkeypatch.setattr(datasets.STL10, "_check_integrity", lambda self: True)
    train = load_pixels("stl10", str(tmp_path), "train")
    assert train.images.shape == (2, 3, 96, 96)
    assert int(train.images[0, 0, 5, 1]) == 200
    assert train.labels.tolist() == [0, 9]
    assert train.class_names[9] == "truck"
    whole = load_pixels("stl10", str(tmp_path), "unlabelled", size=48)
    assert whole.images.shape == (4, 3, 48, 48)
    assert whole.labels.tolist() == [0, 9, -1, -1]


def test_official_tiny_imagenet_layout_is_read(tmp_path):
    folder = tmp_path / "tiny-imagenet-200"
    for wnid in ("n02", "n01"):
        place = folder / "train" / wnid / "images"
        place.mkdir(parents=True)
        for i in range(2):
            (place / f"{wnid}_{i}.JPEG").write_bytes(b"")
        (place.parent / f"{wnid}_boxes.txt").write_text("", encoding="utf-8")
    (folder / "wnids.txt").write_text("n02\nn01\n", encoding="utf-8")
    words = "n01\tgoldfish, Carassius auratus\nn02\tsalamander\nn03\tother\n"
    (folder / "words.txt").write_text(words, encoding="utf-8")
    (folder / "val/images").mkdir(parents=True)
    annotations = "val_0.JPEG\tn02\t0\t0\t9\t9\nval_1.JPEG\tn01\t0\t0\t9\t9\n"
    (folder / "val/val_annotations.txt").write_text(annotations, encoding="utf-8")
    train = image_files("tiny_imagenet", str(tmp_path), "train")
    assert train.class_names == ["goldfish", "salamander"]
    assert train.labels.tolist() == [0, 0, 1, 1]
    assert train.path(3) == folder / "train/n02/images/n02_1.JPEG"
    assert train.path(3).exists()
    val = tiny_imagenet_files(str(tmp_path), "val")
    assert dict(zip(val.paths, val.labels.tolist(), strict=True)) == {
        "val/images/val_0.JPEG": 1,
        "val/images/val_1.JPEG": 0,
    }
    assert source_of("tiny_imagenet")[0] == "tiny-imagenet-200"
    with pytest.raises(UserError, match="no split 'test'"):
        tiny_imagenet_files(str(tmp_path), "test")
    with pytest.raises(UserError, match="did you mean 'tiny_imagenet'"):
        image_files("tiny-imagenet", str(tmp_path), "val")
    (folder / "val/val_annotations.txt").write_text("val_0.JPEG\tn99\n", encoding="utf-8")
    with pytest.raises(UserError, match="incomplete.*Expected layout"):
        tiny_imagenet_files(str(tmp_path), "val")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="tiny-imagenet-200"):
        tiny_imagenet_files(str(tmp_path / "empty"), "train")


def test_missing_and_unknown_sets_are_named(tmp_path):
    with pytest.raises(UserError, match="stl10_binary"):
        load_pixels("stl10", str(tmp_path), "unlabelled")
    with pytest.raises(UserError, match="cifar10 has no split 'unlabelled'"):
        load_pixels("cifar10", str(tmp_path), "unlabelled")
    with pytest.raises(UserError, match="did you mean 'cifar10'"):
        load_pixels("cifar_10", str(tmp_path), "train")
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(UserError, match="is incomplete"):
        load_pixels("cifar10", str(tmp_path), "train")


def test_imagenet_lists(tmp_path):
    synsets = imagenet100_synsets()
    assert len(set(synsets)) == 100
    assert all(name.startswith("n") and len(name) == 9 for name in synsets)
    for name, files in (("n01", ("b.JPEG", "a.jpg", "notes.txt")), ("n02", ("c.png",))):
        folder = tmp_path / "imagenet/train" / name
        folder.mkdir(parents=True)
        for file in files:
            (folder / file).write_bytes(b"")
    actual = imagenet_files(str(tmp_path), "train")
    assert actual.paths == ["n01/a.jpg", "n01/b.JPEG", "n02/c.png"]
    assert actual.labels.tolist() == [0, 0, 1]
    assert actual.path(2) == tmp_path / "imagenet/train/n02/c.png"
    with pytest.raises(UserError, match="lacks 100 class folders"):
        imagenet_files(str(tmp_path), "train", subset=True)
    with pytest.raises(UserError, match="imagenet/val does not exist"):
        imagenet_files(str(tmp_path), "val")
    with pytest.raises(UserError, match="no split 'test'"):
        imagenet_files(str(tmp_path), "test")


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def test_folders_that_would_shift_the_labels_of_imagenet(tmp_path):
    """Those of notebooks and file servers are no classes; others must be in both splits."""
    train, val = (tmp_path / "imagenet" / split for split in ("train", "val"))
    touch(train, "n01/a.jpg", "n02/b.jpg", ".ipynb_checkpoints/a.jpg", "@eaDir/a.jpg")
    touch(val, "c.JPEG")
    actual = imagenet_files(str(tmp_path), "train")  # val is judged when it is read
    assert actual.class_names == ["n01", "n02"]
    assert actual.labels.tolist() == [0, 1]
    with pytest.raises(UserError, match="val has no class folders: sort its pictures into one"):
        imagenet_files(str(tmp_path), "val")
    touch(val, "n01/c.JPEG")
    for split in ("train", "val"):
        with pytest.raises(UserError, match=r"different class folders \(n02 in one of them alone"):
            imagenet_files(str(tmp_path), split)
    touch(val, "n02/notes.txt")
    assert len(imagenet_files(str(tmp_path), "train").paths) == 2
    assert imagenet_files(str(tmp_path), "val").labels.tolist() == [
        0
    ]  # a class without pictures keeps its number


def test_tiny_imagenet_without_pictures_is_refused(tmp_path):
    folder = tmp_path / "tiny-imagenet-200"
    touch(folder, "words.txt", "val/val_annotations.txt", "train/n01/images/a.JPEG")
    (folder / "train/n02/images").mkdir(parents=True)
    (folder / "wnids.txt").write_text("n01\nn02\n")
    with pytest.raises(UserError, match="n02/images has no picture.*Expected layout"):
        tiny_imagenet_files(str(tmp_path), "train")
    with pytest.raises(UserError, match="no picture of split 'val'"):
        tiny_imagenet_files(str(tmp_path), "val")
