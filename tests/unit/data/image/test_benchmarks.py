import json
import pickle
from types import SimpleNamespace

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
    "mnist",
    "cub200",
    "kitti_distance",
    "patch_camelyon",
    "ucf101",
    "clevr_counts",
    "hateful_memes",
    "rendered_sst2",
    "imagenet_v2",
    "imagenet_r",
    "imagenet_a",
    "imagenet_sketch",
    "objectnet",
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
    assert {name for name, spec in IMAGE_SETS.items() if spec.roc_auc} == {"hateful_memes"}
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
    assert caltech.class_names == ["off-center face", "leopard"]
    assert caltech.labels.tolist() == [0, 0, 1, 1]
    eurosat = load_image_set("eurosat", tmp_path, EVAL)
    assert eurosat.class_names == ["annual crop land", "lake or sea"]
    country = load_image_set("country211", tmp_path, EVAL)
    assert country.class_names == ["Andorra", "Kosovo"]
    assert country.labels.tolist() == [0, 1]


def test_names_that_are_not_those_of_torchvision_in_words():
    """CLIP's names: flowers in words, cars and aircraft as they are written."""
    from torchvision.datasets import Flowers102

    flowers = IMAGE_SETS["flowers"].names(Flowers102)
    assert [flowers[i] for i in (0, 15, 59, 97)] == [
        "pink primrose",
        "globe flower",
        "pink and yellow dahlia",
        "mexican petunia",
    ]
    for name, written in (("cars", "McLaren MP4-12C Coupe 2012"), ("aircraft", "F-16A/B")):
        assert IMAGE_SETS[name].names(SimpleNamespace(classes=[written])) == [written]


@pytest.mark.parametrize(("name", "reader"), [("dtd", "DTD"), ("flowers", "Flowers102")])
def test_probes_learn_from_training_and_validation_images(name, reader, tmp_path, monkeypatch):
    """CLIP's training data of these sets: the official training and validation splits together."""
    from torchvision import datasets

    class Split:
        classes = ("banded", "dotted")

        def __init__(self, root, split):
            self._labels = {"train": [0, 1], "val": [1], "test": [0, 0]}[split]

        def __len__(self):
            return len(self._labels)

        def __getitem__(self, index):
            return Image.new("RGB", (8, 8)), self._labels[index]

    monkeypatch.setattr(datasets, reader, Split)
    (tmp_path / IMAGE_SETS[name].folder).mkdir()
    train, test = (load_image_set(name, tmp_path, EVAL, part) for part in ("train", "test"))
    assert train.class_names == ["banded", "dotted"]
    assert train.labels.tolist() == [0, 1, 1] == [train[i]["labels"] for i in range(len(train))]
    assert test.labels.tolist() == [0, 0]


def test_a_missing_training_part_is_named(tmp_path):
    picture(tmp_path / "imagenet/val/n01440764/a.JPEG")
    with pytest.raises(UserError, match="imagenet/train does not exist"):
        load_image_set("imagenet", tmp_path, EVAL, "train")


def test_imagenet_needs_all_its_classes(tmp_path):
    picture(tmp_path / "imagenet/val/n01440764/a.JPEG")
    with pytest.raises(UserError, match="needs 1,000 class folders"):
        load_image_set("imagenet", tmp_path, EVAL)


def test_shifted_imagenets_have_imagenet_s_names(tmp_path):
    """By synset id or by number, whose folders sort as words; another folder is refused."""
    for folder in ("imagenet-r/n01443537", "imagenet-r/n02084071x", "imagenet-a/n01498041"):
        picture(tmp_path / folder / "a.jpg")
    for number in (0, 2, 10):
        picture(tmp_path / f"imagenetv2-matched-frequency-format-val/{number}/a.jpeg")
    assert load_image_set("imagenet_a", tmp_path, EVAL).class_names == ["stingray"]
    second = load_image_set("imagenet_v2", tmp_path, EVAL)
    assert second.class_names == ["tench", "brambling", "great white shark"]  # 0, 10, 2
    with pytest.raises(UserError, match="n02084071x: no synset id"):
        load_image_set("imagenet_r", tmp_path, EVAL)


def test_objectnet_is_read_by_the_classes_that_imagenet_has_too(tmp_path):
    """Without the red border; classes sort by their names, not by their folders."""
    root = tmp_path / "objectnet-1.0"
    folders = {"z_chair": "Armchair", "a_bench": "Bench", "air": "Air freshener"}
    (root / "mappings").mkdir(parents=True)
    (root / "mappings/folder_to_objectnet_label.json").write_text(json.dumps(folders))
    shared = {"Bench": "park bench", "Armchair": "rocking chair"}
    (root / "mappings/objectnet_to_imagenet_1k.json").write_text(json.dumps(shared))
    for folder in folders:
        path = root / "images" / folder / "a.png"
        path.parent.mkdir(parents=True)
        image = Image.new("RGB", (12, 12), "red")
        image.paste((0, 0, 0), (2, 2, 10, 10))
        image.save(path)
    data = load_image_set("objectnet", tmp_path, EVAL)
    assert data.class_names == ["armchair", "bench"]
    assert data.labels.tolist() == [0, 1]
    assert len(data[0]["images"].unique()) == 3  # black, one value a channel


def test_sets_in_folders_and_numbers_have_clip_s_names(tmp_path, monkeypatch):
    from torchvision import datasets

    for folder in ("cub200/val/001.Black_footed_Albatross", "ucf101_frames/val/ApplyEyeMakeup"):
        picture(tmp_path / folder / "a.jpg")
    for label in range(4):
        picture(tmp_path / f"kitti_distance/val/{label}/a.png")
        picture(tmp_path / f"patch_camelyon/val/{label}/a.png")
    assert load_image_set("cub200", tmp_path, EVAL).class_names == ["Black footed Albatross"]
    assert load_image_set("ucf101", tmp_path, EVAL).class_names == ["Apply Eye Makeup"]
    kitti = load_image_set("kitti_distance", tmp_path, EVAL)
    assert kitti.class_names[3] == "a photo i took with no car."
    with pytest.raises(UserError, match="2 classes .* wanted"):
        load_image_set("patch_camelyon", tmp_path, EVAL)
    picture(tmp_path / "clevr/CLEVR_v1.0/a.png")

    def clevr(root, split):
        path = tmp_path / "clevr/CLEVR_v1.0/a.png"
        return SimpleNamespace(_image_files=[path, path], _labels=[3, 10])

    monkeypatch.setattr(datasets, "CLEVRClassification", clevr)
    counts = load_image_set("clevr_counts", tmp_path, EVAL)
    assert counts.labels.tolist() == [0, 7]
    assert counts.class_names == ["3", "4", "5", "6", "7", "8", "9", "10"]
    assert counts[1]["labels"] == 7


def test_name_tables():
    assert len(TRAFFIC_SIGNS) == len(set(TRAFFIC_SIGNS)) == 43
    assert TRAFFIC_SIGNS[14] == "stop"
    assert TRAFFIC_SIGNS[0] == "red and white circle 20 kph speed limit"
    assert TRAFFIC_SIGNS[29] == "red and white triangle with bicyle warning"  # codespell:ignore
    assert len(COUNTRIES) == 250
    assert all(len(code) == 2 for code in COUNTRIES)
    assert COUNTRIES["VI"] == "United States Virgin Islands"
    assert readable("apartment_building/outdoor") == "apartment building outdoor"


def test_sets_travel_to_loader_processes(resisc):
    """They are pickled where processes are spawned."""
    for spec in IMAGE_SETS.values():
        assert pickle.loads(pickle.dumps(spec)).folder == spec.folder
    data = load_image_set("resisc45", resisc, EVAL)
    again = pickle.loads(pickle.dumps(data))
    assert torch.equal(again[3]["images"], data[3]["images"])
