import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from common.config import UserError
from common.data.image.benchmarks import IMAGE_SETS, load_image_set
from common.data.image.class_names import COUNTRIES, TRAFFIC_SIGNS, readable
from common.data.image.sources import EvalTransform

EVAL = EvalTransform(8)
PROTOCOL = [
    "food101",
    "cifar10",
    "cifar100",
    "sun397",
    "cars",
    "aircraft",
    "dtd",
    "pets",
    "caltech101",
    "flowers",
    "stl10",
    "eurosat",
    "resisc45",
    "gtsrb",
    "country211",
    "imagenet",
]


def picture(path, value=0, size=(12, 10)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)


@pytest.fixture
def resisc(tmp_path):
    for c, name in enumerate(("airplane", "baseball_diamond")):
        for i in range(10):
            picture(tmp_path / "NWPU-RESISC45" / name / f"{i:03d}.jpg", 100 * c + i)
    return tmp_path


def test_all_sets_of_the_protocol_are_known():
    assert list(IMAGE_SETS) == PROTOCOL
    per_class = {name for name, spec in IMAGE_SETS.items() if spec.mean_per_class}
    assert per_class == {"aircraft", "pets", "caltech101", "flowers"}
    assert all("{}" in t for spec in IMAGE_SETS.values() for t in spec.templates)


@pytest.mark.parametrize("name", PROTOCOL)
def test_a_missing_set_says_how_to_get_it(name, tmp_path):
    with pytest.raises(UserError) as error:
        load_image_set(name, tmp_path, EVAL)
    for part in (name, IMAGE_SETS[name].layout, IMAGE_SETS[name].source, IMAGE_SETS[name].size):
        assert part in str(error.value)


@pytest.mark.parametrize("name", sorted(set(PROTOCOL) - {"imagenet"}))
def test_an_incomplete_set_is_a_user_error(name, tmp_path):
    (tmp_path / IMAGE_SETS[name].folder).mkdir(parents=True)
    with pytest.raises(UserError, match=rf"image set '{name}' in .* is incomplete"):
        load_image_set(name, tmp_path, EVAL)


def test_unknown_name_suggests_the_nearest(tmp_path):
    with pytest.raises(UserError, match="did you mean 'cifar10'"):
        load_image_set("cifar_10", tmp_path, EVAL)


def test_parts_without_official_split_are_fixed_and_disjoint(resisc):
    train = load_image_set("resisc45", resisc, EVAL, "train")
    test = load_image_set("resisc45", resisc, EVAL)
    assert test.class_names == ["airplane", "baseball diamond"]
    assert len(train) == len(test) == 10
    assert not set(train.indices) & set(test.indices)
    assert train.labels.bincount().tolist() == test.labels.bincount().tolist() == [5, 5]
    assert load_image_set("resisc45", resisc, EVAL).indices == test.indices


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_leave_out_unreadable_images(resisc, num_workers):
    data = load_image_set("resisc45", resisc, EVAL)
    bad = data.data.samples[data.indices[3]][0]
    with open(bad, "wb") as file:
        file.write(b"broken")
    data.counter.max_fraction = 0.5
    loader = DataLoader(data, batch_size=4, collate_fn=data.collate, num_workers=num_workers)
    batches = list(loader)
    assert [len(b["ids"]) for b in batches] == [3, 4, 2]
    ids = torch.cat([b["ids"] for b in batches])
    assert ids.tolist() == [0, 1, 2, *range(4, 10)]
    assert torch.equal(torch.cat([b["labels"] for b in batches]), data.labels[ids])
    with pytest.raises(UserError, match="no image of a batch of 1"):
        data.collate([None])


def test_cifar10_in_its_official_layout(tmp_path, monkeypatch):
    from torchvision import datasets

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    for n, name in enumerate(names):
        rows = {"data": np.full((2, 3072), n, np.uint8), "labels": [n, 1]}
        (folder / name).write_bytes(pickle.dumps(rows))
    meta = {"label_names": ["airplane", "automobile", *map(str, range(8))]}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta))
    monkeypatch.setattr(datasets.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *args: True)
    train, test = (load_image_set("cifar10", tmp_path, EVAL, part) for part in ("train", "test"))
    assert len(train) == 10
    assert len(test) == 2
    assert test.labels.tolist() == [5, 1]
    assert test.class_names[1] == "automobile"
    assert test[0]["images"].shape == (3, 8, 8)


def test_caltech_eurosat_and_country_names(tmp_path):
    for name in ("BACKGROUND_Google", "Faces", "Leopards"):
        for i in range(4):
            picture(tmp_path / "caltech101/101_ObjectCategories" / name / f"image_{i + 1:04d}.jpg")
    (tmp_path / "caltech101/Annotations").mkdir()
    for name in ("AnnualCrop", "SeaLake"):
        picture(tmp_path / "eurosat/2750" / name / f"{name}_1.jpg")
    for code in ("AD", "XK"):
        picture(tmp_path / "country211/test" / code / "1.jpg")
    caltech = load_image_set("caltech101", tmp_path, EVAL)
    assert caltech.class_names == ["Faces", "Leopards"]
    assert caltech.labels.tolist() == [0, 0, 1, 1]
    eurosat = load_image_set("eurosat", tmp_path, EVAL)
    assert eurosat.class_names == ["Annual Crop", "Sea Lake"]
    country = load_image_set("country211", tmp_path, EVAL)
    assert country.class_names == ["Andorra", "Kosovo"]
    assert country.labels.tolist() == [0, 1]


def test_imagenet_needs_all_its_classes(tmp_path):
    picture(tmp_path / "imagenet/val/n01440764/a.JPEG")
    with pytest.raises(UserError, match="needs 1,000 class folders"):
        load_image_set("imagenet", tmp_path, EVAL)


def test_name_tables():
    assert len(TRAFFIC_SIGNS) == len(set(TRAFFIC_SIGNS)) == 43
    assert TRAFFIC_SIGNS[14] == "stop"
    assert TRAFFIC_SIGNS[17] == "no entry"
    assert len(COUNTRIES) == 250
    assert all(len(code) == 2 for code in COUNTRIES)
    assert COUNTRIES["VI"] == "U.S. Virgin Islands"
    assert readable("apartment_building/outdoor") == "apartment building outdoor"
