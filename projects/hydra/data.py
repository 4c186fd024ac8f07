"""Labelled images of a config, as training batches with class pairs and as evaluation sets."""

from pathlib import Path
from typing import Literal

import torch

from common.config import UserError
from common.data.image import pipelines as augment
from common.data.image.benchmarks import load_image_set
from common.data.image.files import LabelledFiles
from common.data.image.labelled import LabelledPixels, balanced_subset
from common.data.image.parts import ImagePart
from common.data.image.simclr import SimCLRTransform
from common.data.image.sources import ImageTransform, TrainTransform
from common.data.lookup import data_root, require
from common.data.module import ContrastiveData
from common.engine.experiment import Requirement
from common.families.images import data as images
from projects.hydra.class_pairs import ClassPairs
from projects.hydra.config import Config, HydraData

Part = Literal["train", "test"]


def train_transform(cfg: HydraData, view: int) -> ImageTransform:
    """The configured augmentation of a view (0 or 1)."""
    mean, std = images.moments(cfg)
    size, scale = cfg.image_size, (cfg.crop_scale[0], cfg.crop_scale[1])
    if cfg.augmentation == "randaugment":
        return augment.rand_augment(size, scale, cfg.erase_prob, mean, std)
    if cfg.augmentation == "dino":
        return augment.dino_crop(size, scale, view, mean, std)
    if cfg.augmentation == "multiview":
        return augment.multiview_crop(size, scale, view, mean, std)
    if cfg.augmentation == "three_augment":
        return augment.three_augment(size, scale, mean, std)
    if cfg.augmentation == "simclr":
        return SimCLRTransform(
            size, scale, jitter=(0.4, 0.4, 0.4, 0.1), mean=mean, std=std
        )  # the strength that SimCLR uses for CIFAR-10 (appendix B.9)
    return TrainTransform(size, scale=scale, flip_prob=0.5, mean=mean, std=std)


def build_data(cfg: Config) -> ContrastiveData:
    """Training batches of the config.

    Raises:
        UserError: data are missing, have another number of classes than the config, or fewer images
            than the vote of the evaluation has neighbours.
    """
    data, train = cfg.data, image_part(cfg, "train")
    images.check_neighbours(cfg, len(train.labels))
    if len(train.class_names) != data.num_classes:
        raise UserError(
            f"data.num_classes={data.num_classes}, but {data.source} has {len(train.class_names)}"
        )
    per_class = data.samples_per_class
    pairs = ClassPairs(
        [train.source(train_transform(data, view)) for view in range(data.views)],
        train.labels,
        data.num_classes,
        seed=cfg.seed,
        pairs=cfg.pairs.type,
        repeats=data.repeats,
        classes_and_samples=(data.batch_size // per_class, per_class) if per_class else None,
    )
    return ContrastiveData(
        pairs,
        batch_size=data.batch_size,
        seed=cfg.seed,
        num_workers=data.num_workers,
        shuffle=pairs.shuffle,
    )


def image_part(cfg: Config, part: Part) -> ImagePart:
    """Training images, which probes are fitted on too, or the images that are classified.

    Raises:
        UserError: files are missing; the message names layout and source.
    """
    if cfg.data.source in ("imagenet", "folder"):
        return ImagePart(class_folders(cfg, part))

    def fewer(pixels: LabelledPixels) -> LabelledPixels:  # always the same ones
        count = cfg.data.test_limit
        return pixels if count is None else balanced_subset(pixels, count)

    choose = images.limited(cfg) if part == "train" else fewer
    return images.image_part(cfg, part, choose, num_classes=cfg.data.num_classes)


def class_folders(cfg: Config, part: Part) -> LabelledFiles:
    """ImageNet with its class names in words, or another set of one folder per class."""
    data, root = cfg.data, data_root(cfg.data.root)
    if data.source == "imagenet":
        loaded = load_image_set("imagenet", root, images.eval_transform(data), part)
        files, names = loaded.data.samples, loaded.class_names
    else:
        files, names = _own_folder(data, part)
    paths, labels = [path for path, _ in files], [label for _, label in files]
    return LabelledFiles(root, paths, torch.tensor(labels), list(names))


def _own_folder(data: HydraData, part: Part) -> tuple[list[tuple[str, int]], list[str]]:
    """Paths with labels, and the classes: those of the training images for both parts."""
    from torchvision.datasets import ImageFolder

    opened = {}
    for name in dict.fromkeys(["train", "train" if part == "train" else "val"]):
        path = _folder(data) / name
        require(
            path,
            what="data.folder",
            layout="{train,val}/<class>/<image>",
            source="the place that offers your images",
            size="any size",
        )
        try:
            opened[name] = ImageFolder(str(path))
        except FileNotFoundError as error:
            raise UserError(f"data.folder: {error}") from error
    classes = opened["train"].classes
    if part == "train":
        return opened["train"].samples, classes
    own = opened["val"].classes
    if unknown := sorted(set(own) - set(classes)):
        raise UserError(
            f"{_folder(data) / 'val'} has classes without training images"
            f" ({', '.join(unknown[:3])}{', ...' if unknown[3:] else ''}):"
            " add images to train, or remove these folders"
        )
    return [(path, classes.index(own[label])) for path, label in opened["val"].samples], classes


def num_samples(cfg: Config) -> int:
    """Training images of a pass, copies counted, without opening the data."""
    if cfg.data.source == "folder":
        count = sum(1 for p in _folder(cfg.data).glob("train/*/*") if p.is_file())
    else:
        count = images.num_images(cfg.data)
    return count * cfg.data.repeats


def requirements(cfg: Config) -> tuple[Requirement, ...]:
    """Image sets of training and transfer, and an encoder to start from."""
    data, model = cfg.data, cfg.model
    needs = [*images.weight_requirements(model.pretrained)]
    if data.source == "folder":
        needs.append(_need("data: folder", _folder(data), "{train,val}/<class>/*"))
    else:
        needs += images.image_requirements(data.source, data.root)
    for name in cfg.eval.transfer:
        needs += images.image_requirements(name, cfg.eval.root or data.root)
    if model.init_from is not None:
        hint = "export of a trained run (make export PROJECT=hydra)"
        needs.append(_need("encoder", Path(model.init_from), hint))
    return tuple(needs)


def _need(name: str, path: Path, hint: str) -> Requirement:
    return Requirement(name, str(path), path.exists(), hint)


def _folder(cfg: HydraData) -> Path:
    return data_root(cfg.root) / (cfg.folder or "")
