"""Images of a config: parts of a set, transforms, loaders, and required files."""

from collections.abc import Callable
from typing import Any, Protocol

from torch.utils.data import Dataset
from torchvision.transforms.v2 import InterpolationMode

from common.config import TrainerConfig, UserError
from common.data.image.files import FILE_SETS, image_files, source_of
from common.data.image.labelled import LabelledPixels, balanced_subset, resized
from common.data.image.parts import (
    NUM_IMAGES,
    SYNTHETIC_CLASSES,
    EvalImages,
    ImagePart,
    Part,
    benchmark_pixels,
)
from common.data.image.simclr import SimCLRTransform
from common.data.image.sources import Channels, EvalTransform
from common.data.lookup import BUNDLED, data_root
from common.data.module import ContrastiveData
from common.encoders.pretrained import resolve_pretrained
from common.engine.experiment import Requirement
from common.families.images.config import IN_MEMORY, FrozenEval, ImageSetData


class ImageConfig(Protocol):
    """The sections that this module reads; a project's config has them among its own."""

    seed: int
    trainer: TrainerConfig

    @property
    def data(self) -> ImageSetData:
        """Images."""

    @property
    def eval(self) -> FrozenEval:
        """Protocol."""


class ColouredCrops(Protocol):
    """What `simclr_transform` reads of a data section: `ImageSetData` with `ColourChanges`."""

    image_size: int
    crop_scale: tuple[float, float]
    jitter: tuple[float, float, float, float]
    jitter_prob: float
    grey_prob: float


# -- parts ---------------------------------------------------------------------------------------


def image_part(
    cfg: ImageConfig,
    part: Part,
    choose: Callable[[LabelledPixels], LabelledPixels] | None = None,
    *,
    num_classes: int = SYNTHETIC_CLASSES,
) -> ImagePart:
    """Training images, the labelled bank, or the images that are classified.

    Args:
        cfg: the experiment's config.
        part: which of them; the test part is the development split if the config asks.
        choose: keeps some of the images of a set in memory, such as `limited`.
        num_classes: of synthetic images.

    Raises:
        UserError: files are missing; the message names layout and source.
    """
    data = cfg.data
    if data.source in FILE_SETS:
        return ImagePart(image_files(data.source, data.root, "val" if part == "test" else "train"))
    pixels = benchmark_pixels(
        data.source,
        data.root,
        part,
        dev=cfg.eval.split == "dev",
        image_size=data.image_size,
        num_classes=num_classes,
    )
    pixels = pixels if choose is None else choose(pixels)
    return ImagePart(pixels._replace(images=resized(pixels.images, cache_side(data))))


def limited(
    cfg: ImageConfig, seed: int | None = None
) -> Callable[[LabelledPixels], LabelledPixels]:
    """Keep ``data.limit`` images, class-balanced and drawn by a seed; a limit of None keeps all.

    Args:
        cfg: the experiment's config.
        seed: instead of the config's.
    """
    limit, drawn_by = cfg.data.limit, cfg.seed if seed is None else seed
    return lambda pixels: pixels if limit is None else balanced_subset(pixels, limit, drawn_by)


def cache_side(data: ImageSetData) -> int:
    """Side of the images that are held in memory."""
    return data.cache_size or data.image_size


# -- transforms ----------------------------------------------------------------------------------


def moments(data: ImageSetData) -> tuple[Channels, Channels]:
    """Mean and deviation of the channels; configs hold them as lists."""
    return (data.mean[0], data.mean[1], data.mean[2]), (data.std[0], data.std[1], data.std[2])


def eval_transform(data: ImageSetData) -> EvalTransform:
    """Resize and centre crop."""
    mean, std = moments(data)
    mode = InterpolationMode(data.eval_interpolation)
    return EvalTransform(data.image_size, mean, std, mode, data.eval_resize)


def simclr_transform(data: ColouredCrops, **options: Any) -> SimCLRTransform:
    """SimCLR's augmentation with the config's strengths.

    Args:
        data: the data section.
        **options: further or other fields of `SimCLRTransform`.
    """
    jitter = (data.jitter[0], data.jitter[1], data.jitter[2], data.jitter[3])
    strengths: dict[str, Any] = {
        "size": data.image_size,
        "scale": (data.crop_scale[0], data.crop_scale[1]),
        "jitter": jitter,
        "jitter_prob": data.jitter_prob,
        "grey_prob": data.grey_prob,
    }
    if isinstance(data, ImageSetData):
        strengths["mean"], strengths["std"] = moments(data)
    return SimCLRTransform(**(strengths | options))


# -- the vote of neighbours ----------------------------------------------------------------------


def check_neighbours(cfg: ImageConfig, num_images: int) -> None:
    """Refuse a bank with fewer images than the vote has neighbours.

    Args:
        cfg: the experiment's config.
        num_images: of the bank.

    Raises:
        UserError: fewer than ``eval.items_k``.
    """
    if cfg.eval.items_k > num_images:
        raise UserError(
            f"eval.items_k={cfg.eval.items_k} neighbours of a bank of {num_images} images: set "
            f"eval.items_k, which is one of eval.ks, to at most {num_images}"
        )


# -- loaders -------------------------------------------------------------------------------------


def image_data(
    cfg: ImageConfig, train: Dataset[Any], labelled: Callable[[Part], ImagePart]
) -> ContrastiveData:
    """Loaders of a training set; bank and queries for validation if the config asks.

    Args:
        cfg: the experiment's config.
        train: views of the training images.
        labelled: the bank and the test part.

    Raises:
        UserError: a bank that is too small for the vote, where it is read here or is in memory.
    """
    val: dict[str, Dataset[Any]] = {}
    watched = cfg.trainer.val_every_n_steps is not None
    if watched or cfg.data.source in IN_MEMORY:  # a list of files is long, and large enough
        bank = labelled("bank")
        check_neighbours(cfg, len(bank.labels))
    if watched:
        transform = eval_transform(cfg.data)
        val["bank"] = EvalImages(bank, transform)
        val["test"] = EvalImages(labelled("test"), transform)
    return ContrastiveData(
        train,
        batch_size=cfg.data.batch_size,
        seed=cfg.seed,
        num_workers=cfg.data.num_workers,
        val=val,
        eval_batch_size=cfg.eval.batch_size,
    )


# -- plans ---------------------------------------------------------------------------------------


def num_images(data: ImageSetData) -> int:
    """Training images per epoch, also of a set that is not on disk."""
    return data.limit or NUM_IMAGES[data.source]


def image_requirements(source: str, root: str | None) -> tuple[Requirement, ...]:
    """Files of an image set by name.

    Args:
        source: a set of `ImageSource`, or of `common.data.image.benchmarks.IMAGE_SETS`.
        root: ``cfg.data.root``.
    """
    if source == "synthetic":
        return ()
    if source == "bundled":
        path = BUNDLED / "cifar10"
        return (Requirement("data: cifar10 (bundled)", "data/cifar10", path.exists()),)
    name, origin = source_of(source)
    folder = data_root(root) / name
    return (Requirement(f"data: {source}", str(folder), folder.exists(), origin),)


def weight_requirements(pretrained: str) -> tuple[Requirement, ...]:
    """Pretrained weights, unless the encoder starts from random ones."""
    ref = resolve_pretrained(pretrained, require=False)
    if ref.kind == "random":
        return ()
    hint = "is downloaded by the first run with a network connection"
    return (Requirement("weights", ref.spec, ref.present, hint),)
