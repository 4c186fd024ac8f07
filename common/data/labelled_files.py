"""ImageNet-1k and its 100-class subset from local folders, as lists of files with labels."""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from common.config import UserError, nearest
from common.data.image_folders import IMAGE_SETS
from common.data.lookup import data_root, require

# The 100 synsets that contrastive papers use (Tian et al. 2020, CMC, arXiv 1906.05849).
IMAGENET100_LIST = Path(__file__).with_name("imagenet100.txt")
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

    Args:
        root: ``cfg.data.root``.
        split: ``train`` or ``val``.
        subset: only the synsets of ImageNet-100.

    Raises:
        UserError: unknown split, missing folder, or missing classes.
    """
    if split not in ("train", "val"):
        raise UserError(f"imagenet has no split '{split}'{nearest(split, ('train', 'val'))}")
    spec = IMAGE_SETS["imagenet"]
    folder = require(
        data_root(root) / "imagenet" / split, what=f"image set 'imagenet' ({split})",
        layout=spec.layout, source=spec.source, size=spec.size,
    )  # fmt: skip
    found = sorted(p.name for p in folder.iterdir() if p.is_dir())
    wanted = imagenet100_synsets() if subset else found
    missing = sorted(set(wanted) - set(found))
    if missing or not wanted:
        raise UserError(
            f"{folder} lacks {len(missing)} class folders ({', '.join(missing[:3])}, ...). "
            f"Expected layout: {spec.layout}"
        )
    paths: list[str] = []
    counts = []
    for name in wanted:
        files = sorted(p.name for p in (folder / name).iterdir() if p.suffix.lower() in EXTENSIONS)
        paths += [f"{name}/{file}" for file in files]
        counts.append(len(files))
    labels = torch.repeat_interleave(torch.arange(len(wanted)), torch.tensor(counts))
    return LabelledFiles(folder, paths, labels, wanted)
