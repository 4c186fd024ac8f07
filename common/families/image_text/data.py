"""Training pairs of a config: official files, shards, bundled drawings, or synthetic."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset
from torchvision.transforms.v2 import InterpolationMode

from common.data.image import sources as im
from common.data.image.benchmarks import IMAGE_SETS, load_image_set
from common.data.image.synthetic import SyntheticPairs, synthetic_pairs
from common.data.image_text.captions import (
    CaptionedImages,
    CaptionFiles,
    CaptionLists,
    TextPolicy,
    TextSource,
)
from common.data.image_text.shards import expand_shards, is_local, names_of
from common.data.image_text.streaming import CaptionedSamples, Samples, ShardStream
from common.data.lookup import data_root, require
from common.data.module import ContrastiveData
from common.data.samplers import Rng
from common.data.text.tokenizers import ClipTokenizer
from common.engine.experiment import Requirement
from common.evaluation.image_text.image_sets import require_image_sets, set_folders
from common.families.image_text.class_captions import captioned_cifar, num_photographs
from common.families.image_text.config import ORIGINAL, ImageTextData
from common.families.image_text.drawings import pool_pairs, pool_size
from common.families.image_text.protocol import ImageTextConfig
from common.families.image_text.scenes import num_scenes, scene_pairs

Pairs = tuple[im.ViewSource, TextSource]
SOURCES = {  # where the captions of a missing CSV are to be had
    "cc3m": "https://ai.google.com/research/ConceptualCaptions",
    "cc12m": "https://github.com/google-research-datasets/conceptual-12m",
    "redcaps": "https://redcaps.xyz",
    "laion": "https://laion.ai/blog/laion-400-open-dataset",
}


# -- transforms ----------------------------------------------------------------------------------


def normalization(data: ImageTextData) -> tuple[im.Channels, im.Channels]:
    """Channel means and standard deviations."""
    if data.normalize == "clip":
        return im.CLIP_MEAN, im.CLIP_STD
    return im.IMAGENET_MEAN, im.IMAGENET_STD


def train_transform(data: ImageTextData) -> im.TrainTransform:
    """Random resized crop without flip or colour jitter."""
    mean, std = normalization(data)
    low, high = data.crop_scale
    mode = InterpolationMode(data.interpolation)
    return im.TrainTransform(
        data.image_size, scale=(low, high), mean=mean, std=std, interpolation=mode
    )


def eval_transform(data: ImageTextData) -> im.EvalTransform:
    """Resize and centre crop."""
    mean, std = normalization(data)
    return im.EvalTransform(data.image_size, mean, std, InterpolationMode(data.eval_interpolation))


# -- training sets -------------------------------------------------------------------------------


def image_text_data(
    cfg: ImageTextConfig,
    tokenizer: ClipTokenizer,
    *,
    transform: im.ImageTransform | None = None,
    text_policy: TextPolicy = "random",
    num_texts: int = 1,
    augment_text: Callable[[str, Rng], str] | None = None,
    texts_from: str = "",
) -> ContrastiveData:
    """Loaders of the config's pairs, with a labelled set for validation if it names one.

    Args:
        cfg: the experiment's config.
        tokenizer: texts -> ids.
        transform: of a training image; None: `train_transform`.
        text_policy: see `common.data.image_text.captions.choose_texts`.
        num_texts: texts per image under policy "multi".
        augment_text: applied to every chosen text.
        texts_from: where missing files of further texts are to be had.

    Raises:
        UserError: missing files; the message names layout and source.
    """
    data = cfg.data
    val = {}
    if cfg.eval.validate is not None:
        root = data_root(cfg.eval.root or data.root)
        val["zeroshot"] = load_image_set(cfg.eval.validate, root, eval_transform(data))
    transform = transform or train_transform(data)
    options: dict[str, Any] = {
        "seed": cfg.seed,
        "text_policy": text_policy,
        "num_texts": num_texts,
        "augment_text": augment_text,
    }
    train: Dataset[Any]
    if data.source == "webdataset":
        samples = CaptionedSamples(transform, tokenizer, text_keys=text_keys(data), **options)
        train = shards(data, samples, cfg.seed)
    else:
        pairs = train_pairs(cfg, transform, texts_from)
        train = CaptionedImages(*pairs, tokenizer, max_corrupt=data.max_corrupt, **options)
    return ContrastiveData(
        train,
        batch_size=data.batch_size,
        seed=cfg.seed,
        num_workers=data.num_workers,
        val=val,
        eval_batch_size=cfg.eval.batch_size,
    )


def train_pairs(cfg: ImageTextConfig, transform: im.ImageTransform, texts_from: str = "") -> Pairs:
    """Images and texts of a source that is not a stream."""
    if cfg.data.source == "synthetic":
        pairs = synthetic_set(cfg.data)
        return im.CachedImages(pairs.images, transform), CaptionLists(pairs.texts)
    if cfg.data.source == "scenes":
        return scene_pairs(cfg, transform)
    if cfg.data.source == "pool":
        return pool_pairs(cfg, transform)
    if cfg.data.source == "cifar10":
        photos = captioned_cifar(cfg.data, "train", cfg.seed)
        return im.CachedImages(photos.images, transform), CaptionLists([[t] for t in photos.texts])
    return official_files(cfg.data, transform, texts_from)


def official_files(data: ImageTextData, transform: im.ImageTransform, texts_from: str) -> Pairs:
    """``<name>.csv`` and next to it one ``<name>_<source>.txt`` for each further source of texts."""
    for path in files_of(data):
        _require(path, texts_from)
    table, *further = files_of(data)
    folder = data_root(data.root) / data.images if data.images else None
    captions = CaptionFiles(table, further, folder)
    images = im.ImageFiles(captions.path, len(captions), transform, max_corrupt=data.max_corrupt)
    return images, captions


def files_of(data: ImageTextData) -> list[Path]:
    """CSV and text files of a source=csv config, whether they exist or not."""
    table = data_root(data.root) / str(data.captions)
    return [table, *(table.with_name(f"{table.stem}_{s}.txt") for s in data.text_sources)]


def shards(data: ImageTextData, samples: Samples, seed: int) -> ShardStream:
    """Stream of the shards of a config, ``key.jpg, key.txt, key.json`` a sample."""
    return ShardStream(
        expand_shards(str(data.shards), data_root(data.root)),
        samples,
        batch_size=data.batch_size,
        seed=seed,
        num_samples=data.num_samples,
        num_workers=data.num_workers,
        max_corrupt=data.max_corrupt,
    )


def text_keys(data: ImageTextData) -> list[str]:
    """Texts of a sample of a stream: the caption, and of each further source a field of its JSON."""
    return ["txt", *(f"json.{source}" for source in data.text_sources)]


def synthetic_set(data: ImageTextData) -> SyntheticPairs:
    """Class-structured pairs, the same for every seed of the experiment."""
    size, further = data.image_size, len(data.text_sources)
    return synthetic_pairs(data.num_samples or 64, image_size=size, num_rewrites=further)


# -- what `make check` reports on ----------------------------------------------------------------


def num_samples(data: ImageTextData) -> int:
    """Training pairs per epoch; of a set that is not on disk, as the config gives them."""
    if data.source == "scenes":
        return num_scenes(data)
    if data.source == "pool":
        return pool_size(data)
    if data.source == "csv" and files_of(data)[0].exists():
        return len(CaptionFiles(files_of(data)[0]))
    if data.source == "cifar10" and data.num_samples is None:
        return num_photographs(data)
    return data.num_samples or 64


def require_judged_sets(cfg: ImageTextConfig) -> None:
    """Report before training which sets of ``eval.datasets`` the evaluation would miss.

    Raises:
        UserError: so, or a set or protocol that does not exist.
    """
    root = data_root(cfg.eval.root or cfg.data.root)
    require_image_sets(cfg.eval.datasets, root, cfg.eval.protocols)


def requirements(cfg: ImageTextConfig, texts_from: str = "") -> tuple[Requirement, ...]:
    """Training files and evaluation sets that the config needs on disk."""
    readers = {"csv": files_of, "webdataset": _first_shard}
    paths = readers[cfg.data.source](cfg.data) if cfg.data.source in readers else []
    training = [
        Requirement(f"data: {p.name}", str(p), p.exists(), _where(p, texts_from)) for p in paths
    ]
    root = data_root(cfg.eval.root or cfg.data.root)
    judged = [
        Requirement(
            f"eval: {name}" + " (train)" * (part == "train"),
            str(folder),
            folder.exists(),
            IMAGE_SETS[name].source,
        )
        for name in cfg.eval.datasets
        if name in IMAGE_SETS
        for part, folder in set_folders(name, root, cfg.eval.protocols).items()
    ]
    return (*training, *judged)


def _first_shard(data: ImageTextData) -> list[Path]:
    first = next(names_of(str(data.shards)))
    return [data_root(data.root) / first] if is_local(first) else []


def _require(path: Path, texts_from: str) -> Path:
    source = path.stem.rpartition("_")[2]
    what = "captions" if path.suffix == ".csv" else f"texts of source '{source}'"
    layout = (
        "<name>.csv without header, one relative/path.jpg,caption per line, and next to it "
        f"<name>_<source>.txt with one text per line in the same order ({ORIGINAL} is the CSV)"
    )
    return require(path, what=what, layout=layout, source=_where(path, texts_from), size="1-3 GB")


def _where(path: Path, texts_from: str) -> str:
    if path.suffix == ".txt" and texts_from:
        return texts_from
    urls = [url for name, url in SOURCES.items() if str(path.parent.name).startswith(name)]
    return urls[0] if urls else "the data set's authors, e.g. " + " or ".join(SOURCES.values())
