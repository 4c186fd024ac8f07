"""A user's images in one folder per class, cut into a labelled bank and images to classify."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch

from common.config import UserError
from common.data.image.files import EXTENSIONS, LabelledFiles
from common.data.own_files import readable
from common.data.splits import stable_fraction

BANKS, TESTS = ("train",), ("val", "test")
BANK_SHARE = 0.5  # of a class without official parts


def class_folders(folder: Path) -> tuple[LabelledFiles, LabelledFiles, int]:
    """Bank and test images of ``<class>/<image>`` or ``{train,val}/<class>/<image>``.

    Without parts, the half of each class whose names hash lowest is the bank. Classes of one image
    are left out, as are classes that only one part has.

    Args:
        folder: of the images; class folders may have folders of their own.

    Returns:
        Bank, test, and how many files were left out: other files, and images of such classes.

    Raises:
        UserError: fewer than two classes.
    """
    bank_folder, test_folder = (_part(folder, names) for names in (BANKS, TESTS))
    if bank_folder is not None and test_folder is not None:
        bank, test = _images(folder, bank_folder), _images(folder, test_folder)
        others = _num_files(bank_folder) + _num_files(test_folder)
    else:
        bank, test = {}, {}
        for name, paths in _images(folder, folder).items():
            order = sorted(paths, key=stable_fraction)
            cut = max(1, round(BANK_SHARE * len(order)))
            bank[name], test[name] = sorted(order[:cut]), sorted(order[cut:])
        others = _num_files(folder)
    names = sorted(name for name in bank if bank[name] and test.get(name))
    if len(names) < 2:
        raise UserError(
            f"{folder} has {len(names)} classes with two images or more: give one folder per class,"
            f" <class>/<image> or {{train,val}}/<class>/<image>, of {', '.join(EXTENSIONS)}"
        )
    parts = [_labelled(folder, part, names) for part in (bank, test)]
    return parts[0], parts[1], others - sum(len(part.paths) for part in parts)


def class_counts(files: LabelledFiles) -> Counter[str]:
    """Images of each class."""
    return Counter(files.class_names[label] for label in files.labels.tolist())


def _part(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def _images(root: Path, folder: Path) -> dict[str, list[str]]:
    """Class -> sorted paths relative to `root`."""
    classes: dict[str, list[str]] = {}
    for place in sorted(folder.iterdir()):
        if place.is_dir() and not place.name.startswith((".", "@")):
            files = (path for path in place.rglob("*") if path.suffix.lower() in EXTENSIONS)
            classes[place.name] = sorted(path.relative_to(root).as_posix() for path in files)
    return classes


def _num_files(folder: Path) -> int:
    return sum(path.is_file() for path in folder.rglob("*"))


def _labelled(root: Path, part: dict[str, list[str]], names: list[str]) -> LabelledFiles:
    paths = [path for name in names for path in part[name]]
    labels = [label for label, name in enumerate(names) for _ in part[name]]
    return LabelledFiles(root, paths, torch.tensor(labels), names)


def readable_classes(
    folder: Path, say: Callable[[str], None]
) -> tuple[LabelledFiles, LabelledFiles, int, int]:
    """`class_folders` without the images that can't be read.

    Args:
        folder: of the class folders.
        say: see `readable`.

    Returns:
        Bank, test, how many files were left out, and how many images can't be read.

    Raises:
        UserError: see `class_folders` and `readable`.
    """
    bank, test, skipped = class_folders(folder)
    parts = (bank, test)
    paths = [part.path(i) for part in parts for i in range(len(part.paths))]
    kept = readable(paths, say)
    first = [i for i in kept if i < len(bank.paths)]
    second = [i - len(bank.paths) for i in kept if i >= len(bank.paths)]
    bank, test = (
        part._replace(paths=[part.paths[i] for i in rows], labels=part.labels[rows])
        for part, rows in zip(parts, (first, second), strict=True)
    )
    return bank, test, skipped, len(paths) - len(kept)
