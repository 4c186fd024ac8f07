"""Pairs of image sets from files with attributes: CelebA accessories, CheXpert, ODIR-5K."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from PIL import Image
from torchvision.transforms.v2 import functional as F

from common.config import UserError
from common.data.lookup import data_root, require
from common.data.samplers import sample_rng
from common.data.tables import read_csv
from projects.sepclr.paired_sets.pairs import FileStore, SetPair

_DRAW_STREAM = 33
CHEXPERT_TARGETS = ("Cardiomegaly", "Edema", "Pleural Effusion")
CHEXPERT_OTHERS = (  # without lung opacity, as in the official code
    "Enlarged Cardiomediastinum",
    "Lung Lesion",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Other",
    "Fracture",
)
ODIR_TARGETS = ("D", "G", "C", "A", "M")  # diabetes, glaucoma, cataract, AMD, myopia
_ODIR_COLUMNS = ("N", *ODIR_TARGETS)  # without H and O, as in the official code
_ODIR_UNKNOWN_AGE = 1.0
_MALE = {"Male": 1, "Female": 0}


def celeba_accessories(
    root: str | None, *, size: int = 128, num_targets: int = 12_000, seed: int = 0
) -> SetPair:
    """Faces without accessories, and faces with glasses or with a hat; the sexes are balanced.

    The centre of 176 px is cropped and resized. The background has `num_targets` faces, half of
    each sex; a quarter of the targets is each combination of accessory and sex. A combination of
    which CelebA has fewer gives what there is.

    Args:
        root: ``cfg.data.root``.
        size: height and width in pixels.
        num_targets: faces in each of the two sets.
        seed: draws them.

    Raises:
        UserError: files are missing.
    """
    folder = require(
        data_root(root) / "celeba",
        what="CelebA",
        layout="celeba/list_attr_celeba.txt and celeba/img_align_celeba/*.jpg",
        source="https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
        size="1.4 GB",
    )
    files, table = _celeba_table(folder / "list_attr_celeba.txt")
    glasses, hat, male = (table[name] for name in ("Eyeglasses", "Wearing_Hat", "Male"))
    groups = {0: ~glasses & ~hat, 1: glasses & ~hat, 2: hat & ~glasses}
    rng = sample_rng(seed, 0, 0, _DRAW_STREAM)
    chosen: list[int] = []
    accessory: list[int] = []
    for kind, members in groups.items():
        for sex in (male, ~male):
            candidates = (members & sex).nonzero()[:, 0]
            count = num_targets // (2 if kind == 0 else 4)
            rows = candidates[torch.from_numpy(rng.permutation(len(candidates)))][:count].tolist()
            chosen += rows
            accessory += [kind] * len(rows)
    labels = torch.tensor(accessory)
    paths = [folder / "img_align_celeba" / files[i] for i in chosen]

    def prepare(image: Image.Image) -> Image.Image:
        return F.resize(F.center_crop(image, [176, 176]), [size, size])  # type: ignore[no-any-return]

    return SetPair(
        FileStore(paths, prepare),
        labels > 0,
        {"accessory": labels - 1},
        {"sex": male[torch.tensor(chosen, dtype=torch.long)].long()},
        {"accessory": ["glasses", "hat"], "sex": ["female", "male"]},
    )


def _celeba_table(path: Path) -> tuple[list[str], dict[str, torch.Tensor]]:
    require(
        path,
        what="CelebA's attributes",
        layout="a count, the names, then a file and 40 signs a line",
        source="https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
        size="26 MB",
    )
    lines = path.read_text(encoding="utf-8").splitlines()
    names = lines[1].split() if len(lines) > 1 else []
    missing = {"Eyeglasses", "Wearing_Hat", "Male"} - set(names)
    rows = [line.split() for line in lines[2:] if line.strip()]
    if missing or any(len(row) != len(names) + 1 for row in rows):
        raise UserError(f"{path} is not CelebA's attribute list: missing {sorted(missing)}")
    signs = torch.tensor([[int(value) > 0 for value in row[1:]] for row in rows])
    return [row[0] for row in rows], {name: signs[:, i] for i, name in enumerate(names)}


def chexpert_subtypes(
    root: str | None,
    *,
    size: int = 224,
    max_background: int = 10_001,
    max_per_class: int = 3_001,
) -> SetPair:
    """Frontal AP radiographs without finding, and with exactly one of three diseases.

    Uncertain labels and further diseases leave a radiograph out; support devices and lung opacity
    do not.

    Args:
        root: ``cfg.data.root``.
        size: height and width in pixels, after a border of 10 px has been cut.
        max_background: radiographs without finding, first ones of the table.
        max_per_class: radiographs of each disease.

    Raises:
        UserError: files or columns are missing.
    """
    base = data_root(root)
    table = require(
        base / "CheXpert-v1.0-small/train.csv",
        what="CheXpert",
        layout="CheXpert-v1.0-small/train.csv and the folders that it names",
        source="https://stanfordmlgroup.github.io/competitions/chexpert",
        size="11 GB",
    )
    diseases = (*CHEXPERT_TARGETS, *CHEXPERT_OTHERS)
    rows = read_csv(
        table, ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", "No Finding", *diseases]
    )
    paths, classes, sexes, ages = [], [], [], []
    counts = dict.fromkeys(range(-1, len(CHEXPERT_TARGETS)), 0)
    for row in rows:
        label = _chexpert_class(row)
        if label is None or row["Sex"] not in _MALE:
            continue
        if counts[label] >= (max_background if label < 0 else max_per_class):
            continue
        counts[label] += 1
        paths.append(base / row["Path"])
        classes.append(label)
        sexes.append(_MALE[row["Sex"]])
        ages.append(float(row["Age"]))
    labels = torch.tensor(classes, dtype=torch.long)

    def prepare(image: Image.Image) -> Image.Image:
        width, height = image.size
        inner = image.convert("L").crop((10, 10, width - 10, height - 10))
        return inner.resize((size, size), Image.Resampling.BILINEAR)

    return SetPair(
        FileStore(paths, prepare),
        labels >= 0,
        {"disease": labels},
        {"sex": torch.tensor(sexes), "age": torch.tensor(ages)},
        {"disease": list(CHEXPERT_TARGETS), "sex": ["female", "male"]},
    )


def _chexpert_class(row: Mapping[str, str]) -> int | None:
    """-1 without finding, the number of the only disease, or None."""
    if row["Frontal/Lateral"] != "Frontal" or row["AP/PA"] != "AP":
        return None
    mentioned = [d for d in (*CHEXPERT_TARGETS, *CHEXPERT_OTHERS) if _number(row[d]) != 0]
    if _number(row["No Finding"]) == 1:
        return None if mentioned else -1
    if len(mentioned) != 1 or mentioned[0] not in CHEXPERT_TARGETS:
        return None
    return CHEXPERT_TARGETS.index(mentioned[0]) if _number(row[mentioned[0]]) == 1 else None


def _number(text: str) -> float:
    return float(text) if text else 0.0


def odir_subtypes(
    root: str | None, *, size: int = 224, max_background: int = 2300, max_per_class: int = 350
) -> SetPair:
    """Fundus photographs of patients without finding, and with exactly one of five diseases.

    Hypertension and other diseases (H, O) next to it do not count. The age 1 stands for an unknown
    one: NaN.

    Args:
        root: ``cfg.data.root``.
        size: height and width in pixels.
        max_background: photographs without finding, first ones of the table.
        max_per_class: photographs of each disease; 50 more of diabetes.

    Raises:
        UserError: files or columns are missing.
    """
    folder = data_root(root) / "ODIR-5K"
    table = require(
        folder / "full_df.csv",
        what="ODIR-5K",
        layout="ODIR-5K/full_df.csv (the training annotations) and ODIR-5K/Training Images/*.jpg",
        source="https://www.kaggle.com/datasets/andrewmvd/ocular-disease-recognition-odir5k",
        size="1.6 GB",
    )
    columns = ("Patient Age", "Patient Sex", "Left-Fundus", "Right-Fundus", *_ODIR_COLUMNS)
    rows = read_csv(table, columns)
    paths, classes, sexes, ages = [], [], [], []
    counts = dict.fromkeys(range(-1, len(ODIR_TARGETS)), 0)
    limits = {-1: max_background, 0: max_per_class + 50}
    for file, row in _eyes(rows):
        positive = [name for name in _ODIR_COLUMNS if row[name] == "1"]
        if len(positive) != 1:
            continue
        label = ODIR_TARGETS.index(positive[0]) if positive[0] != "N" else -1
        if row["Patient Sex"] not in _MALE or counts[label] >= limits.get(label, max_per_class):
            continue
        counts[label] += 1
        paths.append(folder / "Training Images" / file)
        classes.append(label)
        sexes.append(_MALE[row["Patient Sex"]])
        age = float(row["Patient Age"])
        ages.append(math.nan if age == _ODIR_UNKNOWN_AGE else age)
    labels = torch.tensor(classes, dtype=torch.long)

    def prepare(image: Image.Image) -> Image.Image:
        return image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)

    return SetPair(
        FileStore(paths, prepare),
        labels >= 0,
        {"disease": labels},
        {"sex": torch.tensor(sexes), "age": torch.tensor(ages)},
        {"disease": list(ODIR_TARGETS), "sex": ["female", "male"]},
    )


def _eyes(rows: Iterable[dict[str, str]]) -> Iterable[tuple[str, dict[str, str]]]:
    """Every photograph once; the annotations may list a patient for each eye."""
    seen = set()
    for row in rows:
        for column in ("Left-Fundus", "Right-Fundus"):
            if row[column] not in seen:
                seen.add(row[column])
                yield row[column], row
