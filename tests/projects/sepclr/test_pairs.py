"""Background and target sets: views, splits, and the readers on small fixtures.

Readers: checklist 15 of SepCLR's sheet.
"""

import gzip
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from common.config import UserError
from common.data.image.sources import EvalTransform
from projects.sepclr.paired_sets import added_patterns as ap
from projects.sepclr.paired_sets.attributes import (
    CHEXPERT_OTHERS,
    CHEXPERT_TARGETS,
    _chexpert_class,
    celeba_accessories,
    chexpert_subtypes,
    odir_subtypes,
)
from projects.sepclr.paired_sets.pairs import (
    FileStore,
    PixelStore,
    SetPair,
    SetPairViews,
    split_pair,
)
from projects.sepclr.paired_sets.volumes import (
    VolumeFiles,
    VolumeTransform,
    read_volume,
    volume_folders,
)

PLAIN = EvalTransform(8, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def pixel_pair(rows=20):
    pixels = torch.arange(rows, dtype=torch.uint8).view(-1, 1, 1, 1).expand(rows, 3, 8, 8)
    target = torch.arange(rows) % 2 == 1
    labels = {"kind": torch.where(target, torch.arange(rows) % 4, -1)}
    return SetPair(PixelStore(pixels.contiguous()), target, labels, {"size": torch.rand(rows)})


def save(path, colour=0, size=(20, 20)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (colour, colour, colour)).save(path)


# -- pairs ---------------------------------------------------------------------------------------


def test_a_pair_needs_both_sets_and_fitting_labels():
    pair = pixel_pair()
    assert set(pair.factors) == {"kind", "size"}
    with pytest.raises(UserError, match="needs background and target samples, got 0"):
        pair.rows(torch.arange(0, 20, 2))
    with pytest.raises(ValueError, match="20 samples, but labels of lengths"):
        SetPair(pair.samples, pair.target[:3])


def test_split_is_seeded_disjoint_and_can_be_stratified():
    pair = pixel_pair()
    first, test = split_pair(pair, 0.2, strata=pair.target.long())
    again, _ = split_pair(pair, 0.2, strata=pair.target.long())
    assert torch.equal(first.samples.pixels, again.samples.pixels)
    values = [set(part.samples.pixels[:, 0, 0, 0].tolist()) for part in (first, test)]
    assert values[0] | values[1] == set(range(20))
    assert not values[0] & values[1]
    assert test.target.sum() == 2
    assert len(test) == 4
    other, _ = split_pair(pair, 0.2, seed=1)
    assert not torch.equal(first.samples.pixels, other.samples.pixels)
    with pytest.raises(ValueError, match="test_fraction"):
        split_pair(pair, 1.0)


def test_views_carry_flags_and_factors_and_leave_out_what_cannot_be_read(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    for i, path in enumerate(paths):
        save(path, 10 * i)
    paths[2].write_bytes(b"no image")
    source = FileStore(paths, lambda image: image).source(PLAIN)
    target, size = torch.tensor([False, True, True, False]), torch.arange(4.0)
    data = SetPairViews((source, source), target, {"size": size}, seed=0)
    batch = data[[(3, 0), (2, 0), (1, 0)]]
    assert batch["ids"].tolist() == [3, 1]
    assert batch["skipped"] == 1
    assert batch["target"].tolist() == [False, True]
    assert batch["factors"].tolist() == [[3.0], [1.0]]
    assert batch["view_1"][:, 0, 0, 0].tolist() == pytest.approx([30 / 255, 10 / 255])


# -- patterns ------------------------------------------------------------------------------------


def test_blending_halves_images_and_adds_half_patterns_to_targets():
    images = torch.full((2, 3, 4, 4), 200, dtype=torch.uint8)
    patterns = torch.full((1, 1, 4, 4), 255, dtype=torch.uint8)
    mixed = ap.blended(images, patterns, torch.tensor([False, True]))
    assert mixed[:, 0, 0, 0].tolist() == [100, 227]
    assert images.unique().tolist() == [200]


def test_synthetic_parts_are_disjoint_and_targets_are_brighter():
    pair = ap.synthetic_set_pair(64, image_size=16)
    later = ap.synthetic_set_pair(64, image_size=16, first=64)
    assert not torch.equal(pair.samples.pixels, later.samples.pixels)
    assert pair.target.sum() == 32
    means = [pair.samples.pixels[pair.target == t].float().mean() for t in (False, True)]
    assert means[1] > means[0] + 20
    assert pair.salient["corner"][~pair.target].unique().tolist() == [-1]


def test_small_digits_have_disjoint_parts():
    parts = {name: ap.small_digits(name) for name in ("train", "dev", "test")}
    assert [len(labels) for _, labels in parts.values()] == [1197, 300, 300]
    images, labels = parts["train"]
    assert images.shape == (1197, 1, 8, 8)
    assert images.dtype == torch.uint8
    assert images.max() == 255
    assert labels.unique().tolist() == list(range(10))


def test_cifar_digits_balances_classes_between_the_sets():
    pair = ap.cifar_digits(None, "dev", num_samples=100, size=16)
    assert pair.samples.pixels.shape == (100, 3, 16, 16)
    assert pair.common["object"][pair.target].bincount().tolist() == [5] * 10
    assert (pair.salient["digit"] >= 0).equal(pair.target)


def write_mnist(root, num=60):
    folder = root / "MNIST/raw"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for stem in ("train", "t10k"):
        images = rng.integers(1, 255, (num, 28, 28), dtype=np.uint8)
        labels = (np.arange(num) % 10).astype(np.uint8)
        head = struct.pack(">iiii", 2051, num, 28, 28)
        (folder / f"{stem}-images-idx3-ubyte").write_bytes(head + images.tobytes())
        head = struct.pack(">ii", 2049, num)
        (folder / f"{stem}-labels-idx1-ubyte").write_bytes(head + labels.tobytes())


def test_cifar_mnist_pairs_image_and_digit_of_one_number(tmp_path, monkeypatch):
    write_mnist(tmp_path)
    images = torch.full((40, 3, 32, 32), 100, dtype=torch.uint8)
    cifar = ap.LabelledPixels(images, torch.arange(40) % 10, list("abcdefghij"))
    monkeypatch.setattr(ap, "load_pixels", lambda *_: cifar)
    pair = ap.cifar_mnist(str(tmp_path), "train")
    digits, labels = ap.mnist(str(tmp_path), "train")
    assert pair.target.tolist() == [False] * 20 + [True] * 20
    assert pair.salient["digit"][20:].tolist() == labels[20:40].tolist()
    assert pair.samples.pixels[:20].unique().tolist() == [50]
    inner = pair.samples.pixels[20:, :, 2:30, 2:30].short()
    assert torch.equal(inner, ((100 + digits[20:40].short()) // 2).expand(-1, 3, -1, -1))
    assert pair.samples.pixels[20:, :, :2].unique().tolist() == [50]
    with pytest.raises(UserError, match="MNIST not found"):
        ap.mnist(str(tmp_path / "MNIST"), "train")


def test_sprites_lie_on_digit_grids(tmp_path):
    write_mnist(tmp_path)
    angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    values = np.stack(
        [
            np.ones(48),
            1 + np.arange(48) % 3,
            np.full(48, 0.75),
            angles,
            np.full(48, 0.25),
            np.ones(48),
        ],
        1,
    )
    sprites = np.zeros((48, 64, 64), np.uint8)
    sprites[:, 20:30, 20:30] = 1
    (tmp_path / "dsprites").mkdir()
    np.savez(tmp_path / "dsprites" / ap.SPRITE_FILE, imgs=sprites, latents_values=values)
    pair = ap.sprites_on_digits(str(tmp_path), "train", num_samples=10)
    pixels = pair.samples.pixels
    assert pixels.shape == (10, 3, 64, 64)
    assert pixels[5:, :, 20:30, 20:30].unique().tolist() == [255]
    assert pixels[:5, :, 20:30, 20:30].max() < 255
    assert list(pair.salient) == list(ap.SPRITE_FACTORS)
    assert pair.salient["scale"][5:].tolist() == pytest.approx([0.5] * 5)
    assert pair.salient["scale"][:5].isnan().all()
    assert all(0 <= a <= 1 for a in pair.salient["orientation"][5:].tolist())
    assert set(pair.salient["shape"][5:].tolist()) <= {0.0, 0.5, 1.0}
    test = ap.sprites_on_digits(str(tmp_path), "test", num_samples=10)
    assert not set(pair.salient["orientation"][5:].tolist()) & set(
        test.salient["orientation"][5:].tolist()
    )
    (tmp_path / "dsprites" / ap.SPRITE_FILE).write_bytes(b"cut off")
    with pytest.raises(UserError, match="is not the dSprites file"):
        ap.sprites_on_digits(str(tmp_path), "train", num_samples=10)


# -- files ---------------------------------------------------------------------------------------


def test_celeba_takes_faces_with_one_accessory_balanced_by_sex(tmp_path):
    names = ["Bald", "Eyeglasses", "Male", "Wearing_Hat"]
    rows = []
    for i in range(48):
        glasses, hat, male = (1 if i % 4 in (1, 3) else -1), (1 if i % 4 > 1 else -1), (-1) ** i
        male = 1 if (i // 4) % 2 else -1
        rows.append(f"{i:06d}.jpg -1 {glasses} {male} {hat}")
        save(tmp_path / f"celeba/img_align_celeba/{i:06d}.jpg", i, (178, 218))
    table = "\n".join(["48", " ".join(names), *rows])
    (tmp_path / "celeba/list_attr_celeba.txt").write_text(table, encoding="utf-8")
    pair = celeba_accessories(str(tmp_path), size=32, num_targets=8)
    assert pair.target.tolist() == [False] * 8 + [True] * 8
    assert pair.salient["accessory"].tolist() == [-1] * 8 + [0] * 4 + [1] * 4
    for part in (slice(0, 8), slice(8, 12), slice(12, 16)):
        assert pair.common["sex"][part].float().mean() == 0.5
    numbers = [int(path.stem) for path in pair.samples.paths]
    assert not any(number % 4 == 3 for number in numbers)  # both accessories
    images, kept = pair.samples.source(PLAIN).load([0, 9])
    assert images.shape == (2, 3, 8, 8)
    assert kept == [0, 1]
    assert pair.samples.picture(0).size == (96, 96)
    (tmp_path / "celeba/list_attr_celeba.txt").write_text("1\nBald\n", encoding="utf-8")
    with pytest.raises(UserError, match="is not CelebA's attribute list"):
        celeba_accessories(str(tmp_path))


def test_chexpert_takes_one_certain_disease(tmp_path):
    columns = [
        "Path",
        "Sex",
        "Age",
        "Frontal/Lateral",
        "AP/PA",
        "No Finding",
        *CHEXPERT_TARGETS,
        *CHEXPERT_OTHERS,
        "Lung Opacity",
        "Support Devices",
    ]
    cases = [
        ({"No Finding": "1.0", "Support Devices": "1.0"}, -1),
        ({"Edema": "1.0", "Pneumonia": "0.0"}, 1),
        ({"Edema": "-1.0"}, None),  # uncertain
        ({"Edema": "1.0", "Fracture": "-1.0"}, None),
        ({"Edema": "1.0", "Cardiomegaly": "1.0"}, None),
        ({"Pneumonia": "1.0"}, None),
        ({"Pleural Effusion": "1.0", "AP/PA": "PA"}, None),
        ({"Pleural Effusion": "1.0", "Sex": "Unknown"}, None),
        ({"Pleural Effusion": "1.0", "Sex": "Female"}, 2),
        ({"Edema": "1.0"}, 1),
        ({"No Finding": "1.0"}, -1),
        ({"Cardiomegaly": "1.0", "Lung Opacity": "1.0"}, 0),  # opacity is not a disease of its own
        ({"Lung Opacity": "1.0"}, None),
    ]
    lines = [",".join(columns)]
    for i, (values, _) in enumerate(cases):
        base = {
            "Path": f"CheXpert-v1.0-small/{i}.jpg",
            "Sex": "Male",
            "Age": str(30 + i),
            "Frontal/Lateral": "Frontal",
            "AP/PA": "AP",
        }
        lines.append(",".join({**base, **values}.get(c, "") for c in columns))
        save(tmp_path / f"CheXpert-v1.0-small/{i}.jpg", 5 * i, (60, 50))
    (tmp_path / "CheXpert-v1.0-small/train.csv").write_text("\n".join(lines), encoding="utf-8")
    pair = chexpert_subtypes(str(tmp_path), size=24, max_per_class=1)
    kept = [0, 1, 8, 10, 11]  # the second edema is above the limit
    assert [int(p.stem) for p in pair.samples.paths] == kept
    assert pair.salient["disease"].tolist() == [-1, 1, 2, -1, 0]
    assert pair.common["sex"].tolist() == [1, 1, 0, 1, 1]
    assert pair.common["age"].tolist() == [30.0, 31.0, 38.0, 40.0, 41.0]
    assert pair.samples.source(PLAIN).load([0])[0].shape == (1, 3, 8, 8)
    with pytest.raises(UserError, match="CheXpert not found"):
        chexpert_subtypes(str(tmp_path / "CheXpert-v1.0-small"))


@pytest.mark.parametrize("other", CHEXPERT_OTHERS)
def test_eight_further_findings_leave_a_radiograph_of_chexpert_out(other):
    """Certain or uncertain ones, as in the official code; denied ones do not."""
    row = {"Frontal/Lateral": "Frontal", "AP/PA": "AP", "No Finding": "", "Edema": "1.0"}
    row |= dict.fromkeys((*set(CHEXPERT_TARGETS) - {"Edema"}, *CHEXPERT_OTHERS), "")
    assert len(CHEXPERT_OTHERS) == 8
    actual = [_chexpert_class(row | {other: value}) for value in ("", "0.0", "1.0", "-1.0")]
    assert actual == [1, 1, None, None]


def test_odir_takes_every_eye_once_and_single_labels(tmp_path):
    header = "ID,Patient Age,Patient Sex,Left-Fundus,Right-Fundus,N,D,G,C,A,H,M,O"
    rows = [
        "0,60,Female,0_left.jpg,0_right.jpg,1,0,0,0,0,0,0,0",
        "0,60,Female,0_left.jpg,0_right.jpg,1,0,0,0,0,0,0,0",
        "1,50,Male,1_left.jpg,1_right.jpg,0,0,0,1,0,0,0,0",
        "2,50,Male,2_left.jpg,2_right.jpg,0,1,0,1,0,0,0,0",
        "3,50,Male,3_left.jpg,3_right.jpg,0,0,0,0,0,1,0,0",
        "4,1,Female,4_left.jpg,4_right.jpg,0,0,0,0,1,1,0,1",
        "5,30,Male,5_left.jpg,5_right.jpg,0,0,0,0,0,0,0,1",
    ]
    folder = tmp_path / "ODIR-5K"
    for i in range(6):
        for side in ("left", "right"):
            save(folder / f"Training Images/{i}_{side}.jpg")
    (folder / "full_df.csv").write_text("\n".join([header, *rows]), encoding="utf-8")
    pair = odir_subtypes(str(tmp_path), size=16)
    names = [path.stem for path in pair.samples.paths]
    assert names == ["0_left", "0_right", "1_left", "1_right", "4_left", "4_right"]
    # hypertension and other diseases beside one of the five do not count
    assert pair.salient["disease"].tolist() == [-1, -1, 2, 2, 3, 3]
    assert pair.common["age"][:4].tolist() == [60.0, 60.0, 50.0, 50.0]
    assert pair.common["age"][4:].isnan().all()  # 1 stands for unknown
    assert len(odir_subtypes(str(tmp_path), max_per_class=1)) == 4
    (folder / "full_df.csv").unlink()
    with pytest.raises(UserError, match=r"full_df.csv does not exist.*kaggle.com/datasets"):
        odir_subtypes(str(tmp_path))


# -- volumes -------------------------------------------------------------------------------------


def nifti(array, *, order="<", code=16, kind="f4", slope=0.0, shift=0.0):
    head = bytearray(352)
    head[0:4] = struct.pack(order + "i", 348)
    dims = (array.ndim, *array.shape, *([1] * (7 - array.ndim)))
    head[40:56] = struct.pack(order + "8h", *dims)
    head[70:72] = struct.pack(order + "h", code)
    head[108:120] = struct.pack(order + "3f", 352.0, slope, shift)
    head[344:348] = b"n+1\0"
    return bytes(head) + array.astype(order + kind).tobytes(order="F")


@pytest.mark.parametrize("order", ["<", ">"])
def test_nifti_files_of_both_byte_orders(tmp_path, order):
    array = np.arange(24.0).reshape(2, 3, 4)
    path = tmp_path / "a.nii"
    path.write_bytes(nifti(array, order=order))
    assert torch.equal(read_volume(path), torch.from_numpy(array).float())
    packed = tmp_path / "b.nii.gz"
    data = nifti(array[..., None], order=order, code=4, kind="i2", slope=2.0, shift=1.0)
    packed.write_bytes(gzip.compress(data))
    assert torch.equal(read_volume(packed), torch.from_numpy(2 * array + 1).float())


def test_a_header_without_a_scale_leaves_the_values(tmp_path):
    """nibabel writes NaN there; all voxels became NaN."""
    array = np.arange(24.0).reshape(2, 3, 4)
    (tmp_path / "a.nii").write_bytes(nifti(array, slope=np.nan, shift=np.nan))
    assert torch.equal(read_volume(tmp_path / "a.nii"), torch.from_numpy(array).float())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_voxels_that_are_no_numbers_are_refused(tmp_path, value):
    array = np.arange(24.0).reshape(2, 3, 4)
    array[0, 1, 2] = value
    np.savez(tmp_path / "a.npz", array)
    with pytest.raises(ValueError, match="no finite numbers"):
        read_volume(tmp_path / "a.npz")


def test_files_that_are_no_volumes_are_named(tmp_path):
    path = tmp_path / "a.nii"
    path.write_bytes(b"short")
    with pytest.raises(ValueError, match="not a single-file NIfTI-1"):
        read_volume(path)
    path.write_bytes(nifti(np.zeros((2, 2, 2)), code=128))
    with pytest.raises(ValueError, match="data type 128"):
        read_volume(path)
    np.savez(tmp_path / "b.npz", np.zeros((2, 2)))
    with pytest.raises(ValueError, match="three dimensions"):
        read_volume(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", np.zeros(2), np.zeros(2))
    with pytest.raises(ValueError, match="needs one array"):
        read_volume(tmp_path / "c.npz")


@pytest.fixture
def volumes(tmp_path):
    """Three background volumes as archives, two targets as NIfTI."""
    rng = np.random.default_rng(0)
    for name in ("background", "target"):
        (tmp_path / name).mkdir()
    for i in range(3):
        np.savez(tmp_path / f"background/b{i}.npz", rng.standard_normal((6, 7, 8)))
    for i in range(2):
        (tmp_path / f"target/t{i}.nii").write_bytes(nifti(rng.standard_normal((6, 7, 8))))
    return tmp_path


def test_two_folders_of_volumes(volumes):
    pair = volume_folders(volumes)
    assert pair.target.tolist() == [False] * 3 + [True] * 2
    assert pair.common == {}
    rows = [
        "participant_id\tage\tsex",
        *(f"b{i}\t{40 + i}\tF" for i in range(3)),
        "t0\tn/a\tM",
        "t1\t33\tn/a",
    ]
    (volumes / "participants.tsv").write_text("\n".join(rows), encoding="utf-8")
    pair = volume_folders(volumes)
    assert pair.common["sex"].tolist() == [0, 0, 0, 1, -1]
    assert pair.common["age"].isnan().tolist() == [False, False, False, True, False]
    cubes, kept = pair.rows(torch.tensor([0, 4])).samples.source(VolumeTransform(5)).load([1, 0])
    assert cubes.shape == (2, 1, 5, 5, 5)
    assert kept == [0, 1]
    assert cubes.mean((1, 2, 3, 4)).abs().max() < 1e-5
    assert pair.samples.picture(3).size == (96, 96)
    (volumes / "participants.tsv").write_text(rows[0] + "\n" + rows[1], encoding="utf-8")
    with pytest.raises(UserError, match="has no row for b1"):
        volume_folders(volumes)
    for row, message in (("45\tmale", "t0: sex 'male'"), ("45Y\tM", "t0: age '45Y'")):
        broken = [*rows[:4], f"t0\t{row}", rows[5]]
        (volumes / "participants.tsv").write_text("\n".join(broken), encoding="utf-8")
        with pytest.raises(UserError, match=rf"participants\.tsv, {message} has to be"):
            volume_folders(volumes)


def test_volume_augmentation_is_seeded(volumes):
    transform = VolumeTransform(5, scale=(0.6, 0.9), flip_prob=0.5, noise=0.1)
    volume = read_volume(volumes / "background/b0.npz")
    first, again, other = (transform.one(volume, np.random.default_rng(s)) for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    with pytest.raises(ValueError, match="needs a generator"):
        transform.one(volume)


def test_broken_volumes_are_left_out(volumes):
    (volumes / "target/t0.nii").write_bytes(b"broken")
    paths = sorted(volumes.glob("*/*"))
    files = VolumeFiles(paths, VolumeTransform(4))
    cubes, kept = files.load(range(5))
    assert len(cubes) == 4
    assert kept == [0, 1, 2, 4]
    with pytest.raises(UserError, match="no volume of a batch of 1"):
        files.load([3])


def test_a_volume_that_is_cut_off_is_corrupt(tmp_path):
    paths = [tmp_path / "a.npz", tmp_path / "b.npz"]
    for path in paths:
        np.savez_compressed(path, np.random.default_rng(0).normal(size=(6, 6, 6)))
    paths[1].write_bytes(paths[1].read_bytes()[:-200])
    files = VolumeFiles(paths, VolumeTransform(4))
    assert files.load([0, 1])[1] == [0]
    assert files.counter.skipped == 1
