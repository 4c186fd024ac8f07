"""The pair of sets of a config: training views, and what the probes read."""

from pathlib import Path
from typing import Any, Literal

from common.config import UserError, nearest
from common.data.lookup import BUNDLED, data_root
from common.data.module import ContrastiveData
from common.engine.experiment import Requirement
from common.families.images.data import weight_requirements
from projects.sepclr.augment import eval_transform, train_transform
from projects.sepclr.config import Config
from projects.sepclr.paired_sets.added_patterns import (
    SPRITE_FILE,
    cifar_digits,
    cifar_mnist,
    sprites_on_digits,
    synthetic_set_pair,
)
from projects.sepclr.paired_sets.attributes import (
    celeba_accessories,
    chexpert_subtypes,
    odir_subtypes,
)
from projects.sepclr.paired_sets.pairs import SetPair, SetPairViews, split_pair
from projects.sepclr.paired_sets.volumes import VolumeTransform, volume_folders

Part = Literal["train", "test"]
SIZES = {"cifar_mnist": 50_000, "celeba": 19_200, "chexpert": 17_100, "odir": 3_600}
FOLDERS = {
    "digits": "cifar10",
    "cifar_mnist": "MNIST/raw",
    "celeba": "celeba",
    "chexpert": "CheXpert-v1.0-small",
    "odir": "ODIR-5K",
    "dsprites": f"dsprites/{SPRITE_FILE}",
}
SOURCES = {
    "cifar_mnist": "https://www.cs.toronto.edu/~kriz/cifar.html (cifar-10-batches-py) and MNIST",
    "celeba": "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
    "chexpert": "https://stanfordmlgroup.github.io/competitions/chexpert",
    "odir": "https://odir2019.grand-challenge.org",
    "dsprites": "https://github.com/google-deepmind/dsprites-dataset, and MNIST/raw",
    "volumes": "{background,target}/*.{npz,nii,nii.gz}: your own study",
}


def set_pair(cfg: Config, part: Part) -> SetPair:
    """Training or test part.

    Raises:
        UserError: files are missing; the message names layout and source.
    """
    data = cfg.data
    count = data.limit if part == "train" else data.test_limit
    if data.source == "synthetic":
        first = 0 if part == "train" else data.limit
        return synthetic_set_pair(count, image_size=data.plain_size, first=first)
    if data.source == "digits":
        name = "train" if part == "train" else cfg.eval.split
        seed = cfg.seed if part == "train" else None
        return cifar_digits(data.root, name, num_samples=count, size=data.plain_size, seed=seed)
    if data.source == "cifar_mnist":
        return cifar_mnist(data.root, part)
    if data.source == "dsprites":
        return sprites_on_digits(data.root, part, num_samples=count)
    train, test = _split(cfg)
    return train if part == "train" else test


def _split(cfg: Config) -> tuple[SetPair, SetPair]:
    """Parts of a set that has no official ones; the split does not depend on the seed."""
    data = cfg.data
    if data.source == "celeba":
        return split_pair(celeba_accessories(data.root, size=data.plain_size), 0.2)
    if data.source == "chexpert":
        return split_pair(chexpert_subtypes(data.root, size=data.plain_size), 0.1)
    if data.source == "odir":
        pair = odir_subtypes(data.root, size=data.plain_size)
        return split_pair(pair, 0.1, strata=pair.salient["disease"])
    pair = volume_folders(_volumes(cfg))
    return split_pair(pair, 0.2, strata=pair.target.long())


def _volumes(cfg: Config) -> Path:
    return data_root(cfg.data.root) / cfg.data.folder


def transforms(cfg: Config) -> tuple[Any, Any]:
    """Training and evaluation transform of the samples' kind."""
    data = cfg.data
    if data.source != "volumes":
        return train_transform(data), eval_transform(data)
    scale = data.crop_scale[0], data.crop_scale[1]
    return (
        VolumeTransform(data.image_size, scale, data.flip_prob, data.noise),
        VolumeTransform(data.plain_size),
    )


def build_data(cfg: Config) -> ContrastiveData:
    """Two views of every sample; with attributes the first one is un-augmented.

    Raises:
        UserError: an attribute that the sets do not have.
    """
    pair = set_pair(cfg, "train")
    for name in cfg.method.attributes:
        if name not in pair.salient:
            raise UserError(f"no salient factor '{name}'{nearest(name, pair.salient)}")
    augmented, plain = transforms(cfg)
    first = plain if cfg.method.attributes else augmented
    views = SetPairViews(
        (pair.samples.source(first), pair.samples.source(augmented)),
        pair.target,
        {name: pair.salient[name] for name in cfg.method.attributes},
        seed=cfg.seed,
    )
    return ContrastiveData(
        views, batch_size=cfg.data.batch_size, seed=cfg.seed, num_workers=cfg.data.num_workers
    )


def num_samples(cfg: Config) -> int:
    """Training samples per epoch, also of a set that is not on disk."""
    source = cfg.data.source
    if source == "volumes":
        count = len(list(_volumes(cfg).glob("*/*")))
        return count - round(0.2 * count)
    return SIZES.get(source, cfg.data.limit)


def requirements(cfg: Config) -> tuple[Requirement, ...]:
    """What the config needs on disk."""
    source, needs = cfg.data.source, weight_requirements(cfg.model.pretrained)
    if source == "synthetic":
        return needs
    folder = BUNDLED if source == "digits" else data_root(cfg.data.root)
    paths = [folder / FOLDERS.get(source, cfg.data.folder)]
    if source == "cifar_mnist":
        paths.append(folder / "cifar-10-batches-py")
    if source == "dsprites":
        paths.append(folder / "MNIST/raw")
    hint = SOURCES.get(source, "")
    data = [Requirement(f"data: {path.name}", str(path), path.exists(), hint) for path in paths]
    return (*needs, *data)


def image_shape(cfg: Config) -> tuple[int, ...]:
    """Channels and sides of an un-augmented sample."""
    size = cfg.data.plain_size
    return (1, size, size, size) if cfg.data.source == "volumes" else (3, size, size)
