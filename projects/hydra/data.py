"""Labelled images of a config, as training batches with class pairs and as evaluation sets."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image

from common.config import UserError
from common.data.image import pipelines as augment
from common.data.image import sources as im
from common.data.image.benchmarks import IMAGE_SETS, load_image_set
from common.data.image.class_pairs import ClassPairs
from common.data.image.labelled import (
    LabelledPixels,
    balanced_subset,
    hold_out,
    load_cifar10,
    load_pixels,
)
from common.data.image.simclr import SimCLRTransform
from common.data.image.synthetic import synthetic_pairs
from common.data.lookup import data_root, require
from common.data.module import ContrastiveData
from common.engine.experiment import Requirement
from projects.hydra.config import Config, HydraData

Part = Literal["train", "test"]

CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
SAMPLES = {"cifar10": 50_000, "cifar100": 50_000, "imagenet": 1_281_167, "bundled": 9_000}
SYNTHETIC_SAMPLES = 256
DEV_PER_CLASS = 100  # bundled training images that are kept for tuning


@dataclass(frozen=True)
class LabelledSet:
    """Labelled images that can be opened with any transform.

    Attributes:
        open: makes an image source of a transform.
        labels: (N,) int64.
        class_names: one per class.
        picture: the i-th image, for showing.
    """

    open: Callable[[im.ImageTransform], im.ImageSource]
    labels: Tensor
    class_names: list[str]
    picture: Callable[[int], Any]

    def __len__(self) -> int:
        return len(self.labels)


def normalization(cfg: HydraData) -> tuple[im.Channels, im.Channels]:
    """Channel means and standard deviations."""
    if cfg.normalize == "cifar":
        return CIFAR_MEAN, CIFAR_STD
    return im.IMAGENET_MEAN, im.IMAGENET_STD


def eval_transform(cfg: HydraData) -> im.EvalTransform:
    """Resize and centre crop."""
    mean, std = normalization(cfg)
    return im.EvalTransform(cfg.image_size, mean=mean, std=std)


def train_transform(cfg: HydraData, view: int) -> im.ImageTransform:
    """The configured augmentation of a view (0 or 1)."""
    mean, std = normalization(cfg)
    size, scale = cfg.image_size, cfg.crop_scale
    if cfg.augmentation == "randaugment":
        return augment.rand_augment(size, scale, cfg.erase_prob, mean, std)
    if cfg.augmentation == "dino":
        return augment.dino_crop(size, scale, view, mean, std)
    if cfg.augmentation == "three_augment":
        return augment.three_augment(size, scale, mean, std)
    if cfg.augmentation == "simclr":
        return SimCLRTransform(
            size, scale, jitter=(0.4, 0.4, 0.4, 0.1), mean=mean, std=std
        )  # the strength that SimCLR uses for CIFAR-10 (appendix B.9)
    return im.TrainTransform(size, scale=scale, flip_prob=0.5, mean=mean, std=std)


def build_data(cfg: Config) -> ContrastiveData:
    """Training batches of the config.

    Raises:
        UserError: data are missing, or have another number of classes than the config.
    """
    data, train = cfg.data, labelled_set(cfg, "train")
    if len(train.class_names) != data.num_classes:
        raise UserError(
            f"data.num_classes={data.num_classes}, but {data.source} has {len(train.class_names)}"
        )
    per_class = data.samples_per_class
    pairs = ClassPairs(
        [train.open(train_transform(data, view)) for view in range(data.views)],
        train.labels,
        data.num_classes,
        seed=cfg.seed,
        pairs=cfg.pairs.type,
        repeats=data.repeats,
        classes_and_samples=(data.batch_size // per_class, per_class) if per_class else None,
    )
    return ContrastiveData(
        pairs, batch_size=data.batch_size, seed=cfg.seed, num_workers=data.num_workers,
        shuffle=pairs.shuffle,
    )  # fmt: skip


def labelled_set(cfg: Config, part: Part) -> LabelledSet:
    """The training or evaluation images of the config."""
    if cfg.data.source in ("imagenet", "folder"):
        return image_folder(cfg, part)
    pixels = pixels_of(cfg, part)
    return LabelledSet(
        lambda transform: im.CachedImages(pixels.images, transform),
        pixels.labels,
        pixels.class_names,
        lambda i: to_pil_image(pixels.images[i]),
    )


def pixels_of(cfg: Config, part: Part) -> LabelledPixels:
    """Images of a set that is held in memory; the seed draws the training subset.

    The development split replaces the bundled test images by held-out training images.
    """
    data = cfg.data
    if data.source == "synthetic":
        pairs = synthetic_pairs(
            2 * SYNTHETIC_SAMPLES, num_classes=data.num_classes, image_size=data.image_size,
            num_rewrites=0, seed=cfg.seed,
        )  # fmt: skip
        whole = LabelledPixels(pairs.images, pairs.labels, pairs.class_names)
        first = torch.arange(SYNTHETIC_SAMPLES)
        return whole.rows(first if part == "train" else first + SYNTHETIC_SAMPLES)
    dev = None
    if data.source == "bundled":
        whole = load_cifar10(data.root, part, size=data.image_size)
        if part == "train" or cfg.eval.split == "dev":
            train = load_cifar10(data.root, "train", size=data.image_size)
            whole, dev = hold_out(train, DEV_PER_CLASS)
    else:
        whole = load_pixels(data.source, data.root, part)
    if part == "train":
        wanted = data.train_samples
        return whole if wanted is None else balanced_subset(whole, wanted, cfg.seed)
    whole = whole if dev is None else dev
    return whole if data.test_samples is None else balanced_subset(whole, data.test_samples)


def image_folder(cfg: Config, part: Part) -> LabelledSet:
    """ImageNet, or another set of one folder per class below {train,val}/."""
    from PIL import Image

    data = cfg.data
    if data.source == "imagenet":
        loaded = load_image_set("imagenet", data_root(data.root), eval_transform(data), part)
        files, names = loaded.data.samples, loaded.class_names
    else:
        files, names = _own_folder(data, part)
    paths = [path for path, _ in files]
    return LabelledSet(
        lambda transform: im.ImageFiles(lambda i: paths[i], len(paths), transform),
        torch.tensor([label for _, label in files]),
        list(names),
        lambda i: Image.open(paths[i]).convert("RGB"),
    )


def _own_folder(cfg: HydraData, part: Part) -> tuple[list[tuple[str, int]], list[str]]:
    from torchvision.datasets import ImageFolder

    path = _folder(cfg) / ("train" if part == "train" else "val")
    require(
        path, what="data.folder", layout="{train,val}/<class>/<image>",
        source="the place that offers your images", size="any size",
    )  # fmt: skip
    try:
        opened = ImageFolder(str(path))
    except FileNotFoundError as error:
        raise UserError(f"data.folder: {error}") from error
    return opened.samples, opened.classes


def num_samples(cfg: HydraData) -> int:
    """Training images of a pass, without opening the data."""
    if cfg.source == "synthetic":
        return SYNTHETIC_SAMPLES
    if cfg.source == "folder":
        found = sum(1 for p in _folder(cfg).glob("train/*/*") if p.is_file())
        return min(found, cfg.train_samples or found)
    return min(SAMPLES[cfg.source], cfg.train_samples or SAMPLES[cfg.source])


def requirements(cfg: Config) -> list[Requirement]:
    """Image sets of training and transfer, and an encoder to start from."""
    root, data = data_root(cfg.data.root), cfg.data
    needs = []
    if data.source == "folder":
        needs.append(_need("image folder", _folder(data), "{train,val}/<class>/*"))
    elif data.source in IMAGE_SETS:
        needs.append(_image_set(data.source, root))
    transfer_root = data_root(cfg.eval.root or data.root)
    needs += [_image_set(name, transfer_root) for name in cfg.eval.transfer]
    if cfg.model.init_from is not None:
        hint = "export of a trained run (make export PROJECT=hydra)"
        needs.append(_need("encoder", Path(cfg.model.init_from), hint))
    return needs


def _image_set(name: str, root: Path) -> Requirement:
    spec = IMAGE_SETS[name]
    hint = f"expected layout {spec.layout}; from {spec.source} ({spec.size})"
    return _need(f"image set {name}", root / spec.folder, hint)


def _need(name: str, path: Path, hint: str) -> Requirement:
    return Requirement(name, str(path), path.exists(), hint)


def _folder(cfg: HydraData) -> Path:
    return data_root(cfg.root) / (cfg.folder or "")
