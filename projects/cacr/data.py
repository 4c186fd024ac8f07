"""Images of CACR: training views, imbalanced subsets, and the sets that features are judged on."""

from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from common.config import UserError
from common.data.image.files import EXTENSIONS, LabelledFiles, image_files, source_of
from common.data.image.imbalance import imbalanced_rows, kept_images
from common.data.image.labelled import (
    LabelledPixels,
    balanced_subset,
    resized,
)
from common.data.image.multi_view import MultiViews, ViewStack
from common.data.image.parts import (
    NUM_IMAGES,
    SYNTHETIC_CLASSES,
    EvalImages,
    ImagePart,
    Part,
    benchmark_pixels,
)
from common.data.image.simclr import SimCLRTransform
from common.data.image.sources import EvalTransform
from common.data.lookup import BUNDLED, data_root, require
from common.data.module import ContrastiveData
from common.engine.experiment import Requirement
from projects.cacr.config import IN_MEMORY, CacrData, Config

FOLDER_SIZES = {"webvision": 2439574, "imagenet22k": 14197122}  # for plans without the files
CLASSES = {"cifar10": 10, "cifar100": 100, "bundled": 10, "synthetic": SYNTHETIC_CLASSES}


# -- transforms ----------------------------------------------------------------------------------


def view_transforms(cfg: CacrData, count: int | None = None) -> ViewStack:
    """The training views; blur and solarisation may differ from view to view.

    Args:
        cfg: the data section.
        count: number of views; None: the config's.
    """
    return ViewStack(
        tuple(
            _transform(
                cfg, cfg.image_size, cfg.crop_scale,
                cfg.blur_prob[view % len(cfg.blur_prob)],
                cfg.solarise_prob[view % len(cfg.solarise_prob)],
            )
            for view in range(count or cfg.views)
        )
    )  # fmt: skip


def local_transforms(cfg: CacrData) -> ViewStack:
    """The small crops."""
    crop = _transform(cfg, cfg.local_size, cfg.local_scale, cfg.local_blur_prob, 0.0)
    return ViewStack((crop,) * cfg.local_views)


def _transform(
    cfg: CacrData, size: int, scale: tuple[float, float], blur: float, solarise: float
) -> SimCLRTransform:
    jitter = (cfg.jitter[0], cfg.jitter[1], cfg.jitter[2], cfg.jitter[3])
    return SimCLRTransform(
        size, scale=(scale[0], scale[1]), jitter=jitter, jitter_prob=cfg.jitter_prob,
        grey_prob=cfg.grey_prob, blur_prob=blur, solarise_prob=solarise,
        mean=_channels(cfg.mean), std=_channels(cfg.std),
    )  # fmt: skip


def eval_transform(cfg: CacrData) -> EvalTransform:
    """Resize and centre crop."""
    return EvalTransform(cfg.image_size, mean=_channels(cfg.mean), std=_channels(cfg.std))


def _channels(values: tuple[float, float, float]) -> tuple[float, float, float]:
    return values[0], values[1], values[2]


# -- parts ---------------------------------------------------------------------------------------


def image_part(cfg: Config, part: Part) -> ImagePart:
    """Training images, the labelled bank, or the images that are classified.

    Bank and test are the same whatever subset the encoder is trained on.

    Raises:
        UserError: files are missing; the message names layout and source.
    """
    data = cfg.data
    if data.source not in IN_MEMORY:
        if data.source == "folder" and part == "train":
            return ImagePart(pictures_below(data))
        split = "val" if part == "test" else "train"
        name = "imagenet" if data.source == "folder" else data.source
        return ImagePart(image_files(name, data.root, split))
    pixels = benchmark_pixels(
        data.source, data.root, part, dev=cfg.eval.split == "dev", image_size=data.image_size
    )
    if part == "train":
        pixels = _subset(pixels, data, cfg.seed if data.subset_seed is None else data.subset_seed)
    size = data.cache_size or data.image_size
    return ImagePart(pixels._replace(images=resized(pixels.images, size)))


def _subset(pixels: LabelledPixels, cfg: CacrData, seed: int) -> LabelledPixels:
    if cfg.limit is not None:
        return balanced_subset(pixels, cfg.limit, seed)
    if cfg.imbalance == "none":
        return pixels
    classes = len(pixels.class_names)
    return pixels.rows(imbalanced_rows(pixels.labels, classes, cfg.imbalance, seed))


def pictures_below(cfg: CacrData) -> LabelledFiles:
    """All pictures at any depth below ``data.folder``, without labels (-1).

    Raises:
        UserError: the folder does not exist or holds no pictures.
    """
    assert cfg.folder is not None
    folder = require(
        data_root(cfg.root) / cfg.folder, what=f"image folder '{cfg.folder}'",
        layout=f"{cfg.folder}/**/*.jpg", source="your own pictures, or the set's home page",
        size="any size",
    )  # fmt: skip
    found = (p for p in folder.rglob("*") if p.suffix.lower() in EXTENSIONS)
    paths = sorted(str(p.relative_to(folder)) for p in found)
    if not paths:
        raise UserError(f"{folder} holds no pictures ({', '.join(EXTENSIONS)}) at any depth")
    return LabelledFiles(folder, paths, torch.full((len(paths),), -1), [])


def build_data(cfg: Config) -> ContrastiveData:
    """K + 1 views of the training images; bank and test for validation if the config asks."""
    train, data = image_part(cfg, "train"), cfg.data
    views = train.source(view_transforms(data))
    local = train.source(local_transforms(data)) if data.local_views else None
    val: dict[str, Dataset[Any]] = {}
    if cfg.trainer.val_every_n_steps is not None:
        transform = eval_transform(data)
        val["bank"] = EvalImages(image_part(cfg, "bank"), transform)
        val["test"] = EvalImages(image_part(cfg, "test"), transform)
    return ContrastiveData(
        MultiViews(views, local, seed=cfg.seed),
        batch_size=data.batch_size,
        seed=cfg.seed,
        num_workers=data.num_workers,
        val=val,
        eval_batch_size=cfg.eval.batch_size,
    )


def num_samples(cfg: Config) -> int:
    """Training images per epoch, also of a set that is not on disk."""
    data = cfg.data
    if data.folder is not None:
        known = FOLDER_SIZES.get(Path(data.folder).parts[0])
        there = (data_root(data.root) / data.folder).exists()
        return known if known and not there else len(pictures_below(data).paths)
    if data.limit is not None or data.imbalance == "none":
        return data.limit or NUM_IMAGES[data.source]
    classes = CLASSES[data.source]
    each = NUM_IMAGES[data.source] // classes
    return sum(kept_images(each, c, classes, data.imbalance) for c in range(classes))


def requirements(cfg: Config) -> tuple[Requirement, ...]:
    """What the config needs on disk."""
    source = cfg.data.source
    if source == "synthetic":
        return ()
    if source == "bundled":
        path = BUNDLED / "cifar10"
        return (Requirement("data: cifar10 (bundled)", "data/cifar10", path.exists()),)
    name, origin = source_of("imagenet" if source == "folder" else source)
    folder: Path = data_root(cfg.data.root) / name
    needs = [Requirement(f"data: {source}", str(folder), folder.exists(), origin)]
    if cfg.data.folder is not None:
        own = data_root(cfg.data.root) / cfg.data.folder
        needs[0] = Requirement("data: imagenet", str(folder), folder.exists(), origin)
        needs.append(Requirement(f"data: {cfg.data.folder}", str(own), own.exists()))
    return tuple(needs)
