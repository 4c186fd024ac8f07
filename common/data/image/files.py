"""ImageNet-1k, its 100-class subset and Tiny-ImageNet from local folders: files with labels."""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from common.config import UserError, nearest
from common.data.image.benchmarks import IMAGE_SETS
from common.data.lookup import data_root, require

# The 100 synsets that contrastive papers use (Tian et al. 2020, CMC, arXiv 1906.05849).
IMAGENET100_LIST = Path(__file__).with_name("imagenet100.txt")
FILE_SETS = ("imagenet", "imagenet100", "tiny_imagenet")
TINY_LAYOUT = (
    "tiny-imagenet-200/{wnids.txt, words.txt, train/<wnid>/images/*.JPEG, val/images/*.JPEG, "
    "val/val_annotations.txt}"
)
TINY_SOURCE = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
EXTENSIONS = (".jpeg", ".jpg", ".png")


class LabelledFiles(NamedTuple):
    """Image files with their classes.

    Attributes:
        folder: what the paths are relative to.
        paths: N relative paths, sorted by class, then by name.
        labels: (N,) int64 in [0, C).
        class_names: C names; of ImageNet the synset ids in sorted order.
    """

    folder: Path
    paths: list[str]
    labels: Tensor
    class_names: list[str]

    def path(self, index: int) -> Path:
        """Full path of one file."""
        return self.folder / self.paths[index]


def imagenet100_synsets() -> list[str]:
    """The 100 synset ids, sorted."""
    return sorted(IMAGENET100_LIST.read_text(encoding="utf-8").split())


def imagenet_files(root: str | None, split: str, *, subset: bool = False) -> LabelledFiles:
    """ImageNet-1k in one folder per synset; nothing is opened.

    Labels count the folders, so both splits must have the same. Folders whose names begin with
    ``.`` or ``@``, which notebooks and file servers make, are no classes.

    Args:
        root: ``cfg.data.root``.
        split: ``train`` or ``val``.
        subset: only the synsets of ImageNet-100.

    Raises:
        UserError: unknown split, missing folder or classes, or other classes in the other split (if
            it is there).
    """
    if split not in ("train", "val"):
        raise UserError(f"imagenet has no split '{split}'{nearest(split, ('train', 'val'))}")
    spec = IMAGE_SETS["imagenet"]
    folder = require(
        data_root(root) / "imagenet" / split,
        what=f"image set 'imagenet' ({split})",
        layout=spec.layout,
        source=spec.source,
        size=spec.size,
    )
    folders = _class_folders(folder)
    if not folders:
        raise UserError(
            f"{folder} has no class folders: sort its pictures into one folder per class. Expected"
            f" layout: {spec.layout}"
        )
    expected = imagenet100_synsets() if subset else folders
    missing = sorted(set(expected) - set(folders))
    if missing:
        raise UserError(
            f"{folder} lacks {len(missing)} class folders ({', '.join(missing[:3])}, ...). "
            f"Expected layout: {spec.layout}"
        )
    other = folder.with_name("val" if split == "train" else "train")
    if not subset and (theirs := _class_folders(other)) and theirs != folders:
        different = sorted(set(folders) ^ set(theirs))
        raise UserError(
            f"{folder} and {other} have different class folders"
            f" ({', '.join(different[:3])}{', ...' if different[3:] else ''} in one of them alone),"
            " so that their labels would differ: complete them, or remove what is no class"
        )
    paths: list[str] = []
    counts = []
    for name in expected:
        files = sorted(p.name for p in (folder / name).iterdir() if p.suffix.lower() in EXTENSIONS)
        paths += [f"{name}/{file}" for file in files]
        counts.append(len(files))
    labels = torch.repeat_interleave(torch.arange(len(expected)), torch.tensor(counts))
    return LabelledFiles(folder, paths, labels, expected)


def _class_folders(folder: Path) -> list[str]:
    """Sorted names of the folders that are classes; none where there is no such folder."""
    places = folder.iterdir() if folder.is_dir() else ()
    return sorted(p.name for p in places if p.is_dir() and not p.name.startswith((".", "@")))


def tiny_imagenet_files(root: str | None, split: str) -> LabelledFiles:
    """Tiny-ImageNet, 200 classes of 64-px images, in the layout of its archive.

    Args:
        root: ``cfg.data.root``.
        split: ``train`` (100,000 images) or ``val`` (10,000).

    Raises:
        UserError: unknown split, missing folder, or files that do not fit the layout.
    """
    if split not in ("train", "val"):
        raise UserError(f"tiny_imagenet has no split '{split}'{nearest(split, ('train', 'val'))}")
    folder = require(
        data_root(root) / "tiny-imagenet-200",
        what="image set 'tiny_imagenet'",
        layout=TINY_LAYOUT,
        source=TINY_SOURCE,
        size="240 MB",
    )
    try:
        wnids = sorted((folder / "wnids.txt").read_text(encoding="utf-8").split())
        lines = (folder / "words.txt").read_text(encoding="utf-8").splitlines()
        words = dict(line.split("\t", 1) for line in lines if "\t" in line)
        files = _tiny_train(folder, wnids) if split == "train" else _tiny_val(folder)
        labels = [wnids.index(wnid) for wnid, _ in files]
        if not files:
            raise ValueError(f"no picture of split '{split}' is listed")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder} is incomplete: {error}. Expected layout: {TINY_LAYOUT}"
        ) from error
    names = [words.get(wnid, wnid).split(",")[0] for wnid in wnids]
    return LabelledFiles(folder, [path for _, path in files], torch.tensor(labels), names)


def _tiny_train(folder: Path, wnids: list[str]) -> list[tuple[str, str]]:
    """Class id and relative path of every training image."""
    labelled = []
    for wnid in wnids:
        place = folder / "train" / wnid / "images"
        files = sorted(p.name for p in place.iterdir() if p.suffix.lower() in EXTENSIONS)
        if not files:
            raise ValueError(f"{place} has no picture")
        labelled += [(wnid, f"train/{wnid}/images/{file}") for file in files]
    return labelled


def _tiny_val(folder: Path) -> list[tuple[str, str]]:
    """Class id and relative path of every validation image."""
    text = (folder / "val" / "val_annotations.txt").read_text(encoding="utf-8")
    rows = [line.split("\t") for line in text.splitlines() if line.strip()]
    return sorted((wnid, f"val/images/{file}") for file, wnid, *_ in rows)


def image_files(name: str, root: str | None, split: str) -> LabelledFiles:
    """A set of `FILE_SETS` by name.

    Args:
        name: imagenet, imagenet100 or tiny_imagenet.
        root: ``cfg.data.root``.
        split: ``train`` or ``val``.

    Raises:
        UserError: unknown name or split, or missing files.
    """
    if name not in FILE_SETS:
        raise UserError(f"no set '{name}' is read file by file{nearest(name, FILE_SETS)}")
    if name == "tiny_imagenet":
        return tiny_imagenet_files(root, split)
    return imagenet_files(root, split, subset=name == "imagenet100")


def source_of(name: str) -> tuple[str, str]:
    """Folder below the data root and official source of a set in memory or of `FILE_SETS`."""
    if name == "tiny_imagenet":
        return "tiny-imagenet-200", TINY_SOURCE
    spec = IMAGE_SETS["imagenet" if name in FILE_SETS else name]
    return spec.folder, spec.source
