"""Training pairs of LaCLIP: official files, shards, the bundled pool of drawings, or synthetic."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.config import UserError
from common.data.image import sources as im
from common.data.image.benchmarks import IMAGE_SETS, load_image_set
from common.data.image.synthetic import SyntheticPairs, synthetic_pairs
from common.data.image_text.captions import CaptionedImages, CaptionFiles, CaptionLists, TextSource
from common.data.image_text.streaming import StreamingPairs
from common.data.lookup import bundled, data_root, require
from common.data.module import ContrastiveData
from common.data.packed import PackedImages
from common.data.samplers import Rng, sample_rng
from common.data.tables import read_jsonl
from common.data.text.augment import Eda, WordDropout, synonyms_from_synsets
from common.data.text.tokenizers import ClipTokenizer
from common.engine.experiment import Requirement
from projects.laclip.config import ORIGINAL, Config, LaclipData

POOL = "drawings"  # folder of the pool's texts below data/
SUBSET_STREAM = 21
SOURCES = {  # where the captions of a missing CSV are to be had
    "cc3m": "https://ai.google.com/research/ConceptualCaptions",
    "cc12m": "https://github.com/google-research-datasets/conceptual-12m",
    "redcaps": "https://redcaps.xyz",
    "laion": "https://laion.ai/blog/laion-400-open-dataset",
}


@dataclass(frozen=True)
class Sometimes:
    """Alters a text with a probability; a result of fewer than two words is not used."""

    augment: Callable[[str, Rng], str]
    prob: float

    def __call__(self, text: str, rng: Rng) -> str:
        """The altered or the given text."""
        if rng.random() >= self.prob:
            return text
        altered = self.augment(text, rng)
        return altered if len(altered.split()) >= 2 else text


def text_augmentation(cfg: LaclipData) -> Sometimes | None:
    """EDA or word dropout as configured; back-translation is a rewrite file, hence None."""
    if cfg.augmentation == "eda":
        synsets = read_jsonl(bundled("wordnet/synsets.jsonl.gz", cfg.root), ["lemmas"])
        return Sometimes(
            Eda(synonyms_from_synsets(synsets), cfg.augment_strength), cfg.augment_prob
        )
    if cfg.augmentation == "word_dropout":
        return Sometimes(WordDropout(cfg.augment_strength), cfg.augment_prob)
    return None


def normalization(cfg: LaclipData) -> tuple[im.Channels, im.Channels]:
    """Channel means and standard deviations."""
    if cfg.normalize == "clip":
        return im.CLIP_MEAN, im.CLIP_STD
    return im.IMAGENET_MEAN, im.IMAGENET_STD


def train_transform(cfg: LaclipData) -> im.TrainTransform:
    """Random resized crop without flip or colour jitter."""
    mean, std = normalization(cfg)
    low, high = cfg.crop_scale
    return im.TrainTransform(cfg.image_size, scale=(low, high), mean=mean, std=std)


def eval_transform(cfg: LaclipData) -> im.EvalTransform:
    """Resize and centre crop."""
    mean, std = normalization(cfg)
    return im.EvalTransform(cfg.image_size, mean=mean, std=std)


def build_data(cfg: Config, tokenizer: ClipTokenizer) -> ContrastiveData:
    """Training data of the config, with a labelled set for validation if it names one."""
    data = cfg.data
    val = {}
    if cfg.eval.validate is not None:
        root = data_root(cfg.eval.root or data.root)
        val["zeroshot"] = load_image_set(cfg.eval.validate, root, eval_transform(data))
    policy = "multi" if cfg.method.num_texts > 1 else "random"
    options: dict[str, Any] = {
        "seed": cfg.seed,
        "text_policy": policy,
        "num_texts": cfg.method.num_texts,
        "augment_text": text_augmentation(data),
    }
    train: Any
    if data.source == "webdataset":
        train = shards(data, tokenizer, options)
    else:
        source = {"synthetic": synthetic, "pool": pool, "csv": official_files}[data.source]
        train = CaptionedImages(*source(cfg), tokenizer, **options)
    return ContrastiveData(
        train, batch_size=data.batch_size, seed=cfg.seed, num_workers=data.num_workers, val=val
    )


def official_files(cfg: Config) -> tuple[im.ImageSource, TextSource]:
    """The release's layout: ``<name>.csv`` and one ``<name>_<source>.txt`` per rewrite source."""
    for path in files_of(cfg.data):
        _require(path)
    table, *rewrites = files_of(cfg.data)
    folder = data_root(cfg.data.root) / cfg.data.images if cfg.data.images else None
    captions = CaptionFiles(table, rewrites, folder)
    images = im.ImageFiles(
        captions.path, len(captions), train_transform(cfg.data), max_corrupt=cfg.data.max_corrupt
    )
    return images, captions


def files_of(cfg: LaclipData) -> list[Path]:
    """CSV and rewrite files of a source=csv config, whether they exist or not."""
    table = data_root(cfg.root) / str(cfg.captions)
    return [table, *(table.with_name(f"{table.stem}_{s}.txt") for s in cfg.rewrite_sources)]


def shards(cfg: LaclipData, tokenizer: ClipTokenizer, options: dict[str, Any]) -> StreamingPairs:
    """Stream of samples ``key.jpg, key.txt, key.json``; the JSON holds a rewrite per source."""
    return StreamingPairs(
        str(data_root(cfg.root) / str(cfg.shards)),
        train_transform(cfg),
        tokenizer,
        batch_size=cfg.batch_size,
        num_samples=cfg.num_samples,
        text_keys=["txt", *(f"json.{source}" for source in cfg.rewrite_sources)],
        num_workers=cfg.num_workers,
        max_corrupt=cfg.max_corrupt,
        **options,
    )


def pool(cfg: Config) -> tuple[im.ImageSource, TextSource]:
    """Bundled drawings and their texts; the seed draws the share of them that is trained on."""
    folder = bundled(POOL, cfg.data.root)
    rewrites = [folder / f"train_{source}.txt" for source in cfg.data.rewrite_sources]
    files = CaptionFiles(folder / "train.csv", rewrites, root="")
    rng = sample_rng(cfg.seed, 0, 0, SUBSET_STREAM)
    size = round(cfg.data.train_fraction * len(files))
    rows = sorted(int(i) for i in rng.permutation(len(files))[:size])
    images = pool_images([str(files.path(i)) for i in rows], cfg.data)
    texts = CaptionLists([files.texts(i) for i in rows])
    return im.CachedImages(images, train_transform(cfg.data)), texts


def pool_images(names: Sequence[str], cfg: LaclipData) -> Tensor:
    """Drawings ``<set>/<row>.jpg`` as (N, 3, cache_size, cache_size) uint8, in the given order."""
    places = [(Path(name).parent.name, int(Path(name).stem)) for name in names]
    images = torch.empty(len(names), 3, cfg.cache_size, cfg.cache_size, dtype=torch.uint8)
    for folder in sorted({folder for folder, _ in places}):
        wanted = torch.tensor([i for i, (name, _) in enumerate(places) if name == folder])
        rows = torch.tensor([places[i][1] for i in wanted.tolist()])
        packed = PackedImages(bundled(f"{folder}/images.npz", cfg.root), max_corrupt=0.0)
        unique, inverse = torch.unique(rows, return_inverse=True)
        images[wanted] = packed.decode(cfg.cache_size, unique).images[inverse]
    return images


def pool_picture(name: str, cfg: LaclipData) -> Any:
    """One drawing as a PIL image in its full size."""
    folder, row = Path(name).parent.name, int(Path(name).stem)
    return PackedImages(bundled(f"{folder}/images.npz", cfg.root))[row]


def read_train_names(cfg: Config, count: int) -> tuple[Tensor, list[str]]:
    """Cached images and names of about `count` evenly spaced training drawings."""
    files = CaptionFiles(bundled(POOL, cfg.data.root) / "train.csv", root="")
    rows = range(0, len(files), max(1, len(files) // count))
    images = pool_images([str(files.path(i)) for i in rows], cfg.data)
    return images, [files.texts(i)[0] for i in rows]


def synthetic_set(cfg: Config) -> SyntheticPairs:
    """Class-structured pairs, the same for every seed of the experiment."""
    size, rewrites = cfg.data.image_size, len(cfg.data.rewrite_sources)
    return synthetic_pairs(cfg.data.num_samples or 64, image_size=size, num_rewrites=rewrites)


def synthetic(cfg: Config) -> tuple[im.ImageSource, TextSource]:
    """Training part of the synthetic set."""
    pairs = synthetic_set(cfg)
    return im.CachedImages(pairs.images, train_transform(cfg.data)), CaptionLists(pairs.texts)


def num_samples(cfg: Config) -> int:
    """Training pairs per epoch; of a set that is not on disk, what the config says."""
    data = cfg.data
    if data.source == "pool":
        files = CaptionFiles(bundled(POOL, data.root) / "train.csv", root="")
        return round(data.train_fraction * len(files))
    if data.source == "csv" and files_of(data)[0].exists():
        return len(CaptionFiles(files_of(data)[0]))
    return data.num_samples or 64


def requirements(cfg: Config) -> tuple[Requirement, ...]:
    """What the config needs on disk, for `make check`."""
    readers = {"csv": files_of, "webdataset": _first_shard}
    paths = readers[cfg.data.source](cfg.data) if cfg.data.source in readers else []
    training = [Requirement(f"data: {p.name}", str(p), p.exists(), _where(p)) for p in paths]
    root = data_root(cfg.eval.root or cfg.data.root)
    judged = [
        Requirement(f"eval: {name}", str(folder), folder.exists(), IMAGE_SETS[name].source)
        for name in cfg.eval.datasets
        if name in IMAGE_SETS and (folder := root / IMAGE_SETS[name].folder)
    ]
    return (*training, *judged)


def _first_shard(cfg: LaclipData) -> list[Path]:
    from braceexpand import braceexpand

    return [data_root(cfg.root) / next(iter(braceexpand(str(cfg.shards))))]


def _require(path: Path) -> Path:
    source = path.stem.rpartition("_")[2]
    what = "captions" if path.suffix == ".csv" else f"rewrites of source '{source}'"
    layout = (
        "<name>.csv without header, one relative/path.jpg,caption per line, and beside it "
        f"<name>_<source>.txt with one rewrite per line in the same order ({ORIGINAL} is the CSV)"
    )
    return require(path, what=what, layout=layout, source=_where(path), size="1-3 GB")


def _where(path: Path) -> str:
    if path.suffix == ".txt":
        return "https://github.com/LijieFan/LaCLIP, or write them with TASK=rewrite"
    known = [url for name, url in SOURCES.items() if str(path.parent.name).startswith(name)]
    return known[0] if known else "the data set's authors, e.g. " + " or ".join(SOURCES.values())


def read_held_out(cfg: Config) -> list[dict[str, Any]]:
    """Held-out drawings of the pool with name, keyword query and noun."""
    path = bundled(f"{POOL}/test.jsonl.gz", cfg.data.root)
    rows = read_jsonl(path, ["image", "split", "name", "query", "noun"])
    rows = [row for row in rows if row["split"] == cfg.eval.split]
    if not rows:
        raise UserError(f"{path} has no rows of split '{cfg.eval.split}'")
    return rows
