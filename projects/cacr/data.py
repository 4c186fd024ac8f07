"""Images of CACR: K + 1 training views, imbalanced subsets, pictures without labels."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode

from common.config import UserError
from common.data.image.files import EXTENSIONS, LabelledFiles, image_files
from common.data.image.labelled import LabelledPixels
from common.data.image.multi_view import MultiViews, ViewStack
from common.data.image.parts import NUM_CLASSES, NUM_IMAGES, ImagePart, Part
from common.data.image.sources import ImageTransform
from common.data.lookup import data_root, require
from common.data.module import ContrastiveData
from common.engine.experiment import Requirement
from common.families.images import data as images
from common.families.images.config import IN_MEMORY
from projects.cacr.config import CacrData, Config
from projects.cacr.imbalance import imbalanced_rows, kept_images

FOLDER_SIZES = {"webvision": 2439574, "imagenet22k": 14197122}  # for plans without the files


def view_transforms(cfg: CacrData, count: int | None = None) -> ViewStack:
    """The training views; blur and solarisation may differ from view to view.

    Args:
        cfg: the data section.
        count: number of views; None: the config's.
    """
    return ViewStack(
        tuple(
            images.simclr_transform(
                cfg,
                blur_prob=cfg.blur_prob[view % len(cfg.blur_prob)],
                solarise_prob=cfg.solarise_prob[view % len(cfg.solarise_prob)],
            )
            for view in range(count or cfg.views)
        )
    )


def one_view(cfg: CacrData) -> ImageTransform:
    """The first of the training views."""
    return view_transforms(cfg, 1).transforms[0]


def local_transforms(cfg: CacrData) -> ViewStack:
    """The small crops."""
    scale = cfg.local_scale[0], cfg.local_scale[1]
    crop = images.simclr_transform(
        cfg,
        size=cfg.local_size,
        scale=scale,
        blur_prob=cfg.local_blur_prob,
        interpolation=InterpolationMode(cfg.local_interpolation),
    )
    return ViewStack((crop,) * cfg.local_views)


def image_part(cfg: Config, part: Part) -> ImagePart:
    """Training images, the labelled bank, or the images that are classified.

    Bank and test are the same whatever subset the encoder is trained on; pictures without labels
    are judged on ImageNet-1k.

    Raises:
        UserError: files are missing; the message names layout and source.
    """
    data = cfg.data
    if data.source == "folder":
        if part == "train":
            return ImagePart(pictures_below(data))
        return ImagePart(image_files("imagenet", data.root, "val" if part == "test" else "train"))
    return images.image_part(cfg, part, (lambda x: _subset(x, cfg)) if part == "train" else None)


def _subset(pixels: LabelledPixels, cfg: Config) -> LabelledPixels:
    """The images that are trained on; the seed or `subset_seed` draws them."""
    data = cfg.data
    seed = cfg.seed if data.subset_seed is None else data.subset_seed
    if data.imbalance == "none":
        return images.limited(cfg, seed)(pixels)
    classes = len(pixels.class_names)
    return pixels.rows(imbalanced_rows(pixels.labels, classes, data.imbalance, seed))


def pictures_below(cfg: CacrData) -> LabelledFiles:
    """All pictures at any depth below ``data.folder``, without labels (-1).

    Raises:
        UserError: the folder does not exist or has no pictures.
    """
    assert cfg.folder is not None
    folder = require(
        data_root(cfg.root) / cfg.folder,
        what=f"image folder '{cfg.folder}'",
        layout=f"{cfg.folder}/**/*.jpg",
        source="your own pictures, or the set's home page",
        size="any size",
    )
    files = (p for p in folder.rglob("*") if p.suffix.lower() in EXTENSIONS)
    paths = sorted(str(p.relative_to(folder)) for p in files)
    if not paths:
        raise UserError(f"{folder} has no pictures ({', '.join(EXTENSIONS)}) at any depth")
    return LabelledFiles(folder, paths, torch.full((len(paths),), -1), [])


def tail_classes(cfg: Config, names: Sequence[str]) -> Tensor | None:
    """Which classes are the rarer half of pre-training; None where the images do not tell.

    Imbalanced subsets keep more of a class the larger its index is, so the first half is the tail;
    a balanced run is read with the same halves. Pictures without labels are counted by the name of
    their folder, which ImageNet-22k shares with the classes that are judged.

    Args:
        cfg: the experiment's config.
        names: of the C judged classes.

    Returns:
        (C,) bool, C // 2 of them true.
    """
    count = torch.arange(len(names))
    if cfg.data.folder is not None:
        counts = Counter(Path(path).parent.name for path in pictures_below(cfg.data).paths)
        count = torch.tensor([counts[name] for name in names])
    elif cfg.data.source not in IN_MEMORY:
        return None
    if not count.any():
        return None
    return count.argsort(stable=True).argsort() < len(names) // 2


def build_data(cfg: Config) -> ContrastiveData:
    """K + 1 views of the training images; bank and test for validation if the config asks."""
    train, data = image_part(cfg, "train"), cfg.data
    if (
        data.folder is not None and cfg.eval.judge != "none"
    ):  # a missing set is named before training, not after it
        judges: tuple[Part, ...] = ("bank", "test")
        for part in judges:
            image_part(cfg, part)
    local = train.source(local_transforms(data)) if data.local_views else None
    views = MultiViews(train.source(view_transforms(data)), local, seed=cfg.seed)
    return images.image_data(cfg, views, lambda part: image_part(cfg, part))


def num_samples(cfg: Config) -> int:
    """Training images per epoch, also of a set that is not on disk."""
    data = cfg.data
    if data.folder is not None:
        released_size = FOLDER_SIZES.get(Path(data.folder).parts[0])
        there = (data_root(data.root) / data.folder).exists()
        return released_size if released_size and not there else len(pictures_below(data).paths)
    if data.imbalance == "none":
        return images.num_images(data)
    classes = NUM_CLASSES[data.source]
    each = NUM_IMAGES[data.source] // classes
    return sum(kept_images(each, c, classes, data.imbalance) for c in range(classes))


def requirements(cfg: Config) -> tuple[Requirement, ...]:
    """What the config needs on disk."""
    data, weights = cfg.data, images.weight_requirements(cfg.model.pretrained)
    if data.folder is None:
        return weights + images.image_requirements(data.source, data.root)
    folder = data_root(data.root) / data.folder
    pictures = Requirement(f"data: {data.folder}", str(folder), folder.exists())
    judge = () if cfg.eval.judge == "none" else images.image_requirements("imagenet", data.root)
    return (*weights, *judge, pictures)
