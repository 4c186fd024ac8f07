"""Training pairs and evaluation sets of every source, and the tokenizer of a config."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from common.config import UserError
from common.data.decode import decode_image
from common.data.image import sources as im
from common.data.image.pipelines import mild_rand_augment
from common.data.image.synthetic import synthetic_pairs
from common.data.image_text.shards import expand_shards
from common.data.image_text.streaming import ShardStream
from common.data.lookup import bundled, data_root, require
from common.data.module import ContrastiveData
from common.data.packed import PackedImages
from common.data.samplers import Rng, sample_rng
from common.data.splits import emoji_split, stable_fraction
from common.data.tables import read_jsonl
from common.encoders.text.tiny_tokenizer import tiny_tokenizer
from common.encoders.text.tower import load_tokenizer
from projects.one_to_k.config import Config, ModelConfig
from projects.one_to_k.fixed_length import FixedLengthTokenizer, NgramTokenizer
from projects.one_to_k.masking import mask_spans
from projects.one_to_k.multilingual import (
    CaptionLines,
    MultilingualPairs,
    MultilingualSamples,
    TextOptions,
    Translations,
    plain_caption,
)
from projects.one_to_k.retrieval_sets import Benchmark, LanguageSet, grouped, read_benchmark

Tokenizer = NgramTokenizer | FixedLengthTokenizer
EMOJI, SUBSET_STREAM = "emoji-captions", 21
# languages and test split of a benchmark
BENCHMARK_SETS: dict[str, tuple[list[str], str]] = {
    "multi30k": (["en", "de", "fr", "cs"], "test_2016_flickr"),
    "coco": (["en", "zh", "ja"], "test"),
    "xflickrco": (["de", "en", "es", "id", "ja", "ru", "tr", "zh"], "test"),
    "wit": (["ar", "bg", "da", "el", "en", "et", "id", "ja", "ko", "tr", "vi"], "test"),
}
# recall is over all of them, the variance of ranks over these four [code]
MRV_LANGUAGES = {"xflickrco": ["en", "de", "ja", "zh"]}
# validated in English alone [code]; the others in all their languages
VAL_LANGUAGES = {"xflickrco": ["en"], "wit": ["en"]}
COCO_FOLDS = {"en": 5, "ja": 5}  # a thousand images each, of which recall is the mean [code]


class Source(NamedTuple):
    """What is trained on."""

    images: Any  # ImageSource
    texts: Translations
    languages: list[str]  # the pivot first where the policy needs one
    image_ids: Sequence[int] | None = None


class EvalSet(NamedTuple):
    """What is retrieved: one set a language, and pixels of named images."""

    sets: dict[str, LanguageSet]
    load: Callable[[Sequence[str]], Tensor]  # names -> what the image tower takes
    folds: Mapping[str, int] = MappingProxyType({})  # parts of a language's images; others: one


class TextImages:
    """Texts in the place of images: ids of a tokenizer; an `ImageSource`."""

    def __init__(self, texts: Sequence[str], tokenizer: Tokenizer, max_words: int) -> None:
        self.texts = [plain_caption(text, max_words) for text in texts]
        self.tokenizer = tokenizer

    def __len__(self) -> int:
        return len(self.texts)

    def load(
        self, indices: Sequence[int], rngs: Sequence[Rng] | None = None
    ) -> tuple[Tensor, list[int]]:
        """Ids (B, L) and all positions."""
        return self.tokenizer([self.texts[i] for i in indices]), list(range(len(indices)))


class Indexed:
    """Images of pairs, several of which share one; an `ImageSource`."""

    def __init__(self, images: Any, index: Sequence[int]) -> None:
        self.images, self.index = images, index

    def __len__(self) -> int:
        return len(self.index)

    def load(
        self, indices: Sequence[int], rngs: Sequence[Rng] | None = None
    ) -> tuple[Tensor, list[int]]:
        """See `ImageSource`."""
        loaded: tuple[Tensor, list[int]] = self.images.load([self.index[i] for i in indices], rngs)
        return loaded


def build_tokenizer(model: ModelConfig) -> Tokenizer:
    """Hashed n-grams, the tokenizer of the pretrained text tower, or a tiny one without files."""
    if model.text == "ngrams":
        return NgramTokenizer(model.ngram_buckets, model.ngram_sizes, model.max_tokens)
    if model.init is not None:
        return FixedLengthTokenizer(load_tokenizer(f"{model.init}/tokenizer"), model.max_tokens)
    if model.text_pretrained != "random":
        return FixedLengthTokenizer(load_tokenizer(model.text_pretrained), model.max_tokens)
    vocabulary = model.text_config.get("vocab_size", 256)
    return FixedLengthTokenizer(tiny_tokenizer(vocabulary), model.max_tokens)


def build_data(cfg: Config) -> ContrastiveData:
    """Loaders of the config's pairs.

    Raises:
        UserError: missing files or languages.
    """
    data, tokenizer = cfg.data, build_tokenizer(cfg.model)
    mask = None
    if cfg.method.mlm_weight > 0:
        assert isinstance(tokenizer, FixedLengthTokenizer)
        mask = partial(_mask, cfg, tokenizer)
    options = partial(
        TextOptions,
        tokenizer=tokenizer,
        policy=cfg.method.policy,
        num_texts=data.texts_per_image if cfg.method.policy == "all" else None,
        clean=partial(plain_caption, max_words=data.max_words),
        mask=mask,
    )
    train: Dataset[Any]
    if data.source == "webdataset":
        texts = options(_ordered(cfg, data.languages))
        train = ShardStream(
            expand_shards(str(data.shards), data_root(data.root)),
            MultilingualSamples(train_transform(cfg), texts, seed=cfg.seed),
            batch_size=data.batch_size,
            seed=cfg.seed,
            num_samples=data.num_samples,
            num_workers=data.num_workers,
            max_corrupt=data.max_corrupt,
        )
    else:
        source = training_source(cfg, tokenizer)
        train = MultilingualPairs(
            source.images,
            source.texts,
            options(source.languages),
            seed=cfg.seed,
            image_ids=source.image_ids,
            max_corrupt=data.max_corrupt,
        )
    return ContrastiveData(
        train, batch_size=data.batch_size, seed=cfg.seed, num_workers=data.num_workers
    )


def _mask(cfg: Config, tokenizer: FixedLengthTokenizer, ids: Any, rng: Rng) -> Any:
    data, pad = cfg.data, tokenizer.tokenizer.pad_token_id
    return mask_spans(
        ids,
        int((ids != pad).sum()),
        rng,
        mask_id=int(tokenizer.mask_id or 0),
        vocab_size=tokenizer.vocab_size,
        probability=data.mask_probability,
        max_masks=data.max_masks,
        span_probability=data.span_probability,
        max_span=data.max_span,
    )


def train_transform(cfg: Config) -> Any:
    """Random crop; with flip and RandAugment where the config says so."""
    data = cfg.data
    if data.rand_augment:
        return mild_rand_augment(data.image_size, data.crop_scale, im.CLIP_MEAN, im.CLIP_STD)
    low, high = data.crop_scale
    return im.TrainTransform(data.image_size, scale=(low, high), mean=im.CLIP_MEAN, std=im.CLIP_STD)


# -- sources -------------------------------------------------------------------------------------


def training_source(cfg: Config, tokenizer: Tokenizer) -> Source:
    """Images and texts of the config's source."""
    data = cfg.data
    if data.source == "jsonl":
        lines = CaptionLines(data_root(data.root) / str(data.files))
        folder = data_root(data.root) / (data.images or "")
        images = im.ImageFiles(
            lambda i: folder / lines.image_path(i),
            len(lines),
            train_transform(cfg),
            max_corrupt=data.max_corrupt,
        )
        return Source(images, lines, _ordered(cfg, lines.languages()))
    if data.source == "emoji":
        rows, texts = emoji_rows(cfg, "train")
        pixels = _emoji_pixels(cfg, rows)
        return Source(
            im.CachedImages(pixels, train_transform(cfg)), texts, _ordered(cfg, list(texts[0]))
        )
    if data.source == "captions":
        captions = caption_rows(cfg, "train")
        anchors = TextImages([row[data.pivot] for row in captions], tokenizer, data.max_words)
        return Source(
            anchors, captions, [x for x in _ordered(cfg, list(captions[0])) if x != data.pivot]
        )
    if data.source == "synthetic":
        pixels, texts = _synthetic(cfg)
        return Source(
            im.CachedImages(pixels, train_transform(cfg)), texts, _ordered(cfg, list(texts[0]))
        )
    assert data.source != "webdataset"  # which `build_data` streams
    languages = data.languages or BENCHMARK_SETS[data.source][0]
    sets = read_benchmark(data.source, data_root(data.root), languages, data.split)
    names = list(dict.fromkeys(name for one in sets.values() for name in one.images))
    place = {name: i for i, name in enumerate(names)}
    pairs = [
        (place[one.images[image]], {language: text})
        for language, one in sets.items()
        for text, image in zip(one.texts, one.image_of_text, strict=True)
    ]
    folder = data_root(data.root) / (data.images or data.source)
    files = im.ImageFiles(
        lambda i: folder / names[i], len(names), train_transform(cfg), max_corrupt=data.max_corrupt
    )
    ids = [image for image, _ in pairs]
    return Source(Indexed(files, ids), [texts for _, texts in pairs], languages, ids)


def _ordered(cfg: Config, available: list[str]) -> list[str]:
    """The config's languages, or those found; the pivot first where the objective has one."""
    languages = cfg.data.languages or sorted(available)
    if cfg.method.objective == "pivot":
        return [cfg.data.pivot, *(x for x in languages if x != cfg.data.pivot)]
    return languages


def emoji_rows(cfg: Config, split: str) -> tuple[list[int], list[dict[str, str]]]:
    """Rows and texts of the bundled drawings of a split; flags are trained on, never retrieved.

    Args:
        cfg: the seed draws data.train_fraction of the training rows.
        split: train, dev (a tenth of the training drawings, which are not trained on) or test.
    """
    names = read_jsonl(bundled(f"{EMOJI}/names.jsonl.gz", cfg.data.root), ["emoji", "en"])
    kept = []
    for row, name in enumerate(names):
        part = emoji_split(name["emoji"])
        held = part == "train" and stable_fraction(f"dev {name['emoji']}") < 0.1
        flag = name["en"].startswith("flag:")
        if (split == ("dev" if held else part)) and (split == "train" or not flag):
            kept.append(row)
    if split == "train":
        kept = _subset(cfg, kept)
    texts = [{k: v for k, v in names[row].items() if k != "emoji"} for row in kept]
    complete = [i for i, t in enumerate(texts) if all(t.get(x) for x in cfg.data.languages)]
    return [kept[i] for i in complete], [texts[i] for i in complete]


def caption_rows(cfg: Config, split: str) -> list[dict[str, str]]:
    """Aligned captions of a JSONL file, one object per line with a text for each language."""
    pattern = cfg.data.files or "multi30k-captions/<split>.jsonl.gz"
    path = data_root(cfg.data.root) / pattern.replace("<split>", split)
    require(
        path,
        what="aligned captions",
        layout=(
            'lines {"en": "...", "de": "..."}; data.files names '
            "the file with <split> for train, val and test_2016_flickr"
        ),
        source="https://github.com/multi30k/dataset",
        size="4 MB",
    )
    rows = read_jsonl(path, [cfg.data.pivot, *cfg.data.languages])
    return [rows[i] for i in _subset(cfg, list(range(len(rows))))] if split == "train" else rows


def _subset(cfg: Config, rows: list[int]) -> list[int]:
    order = sample_rng(cfg.seed, 0, 0, SUBSET_STREAM).permutation(len(rows))
    return sorted(rows[int(i)] for i in order[: round(cfg.data.train_fraction * len(rows))])


def _emoji_pixels(cfg: Config, rows: Sequence[int]) -> Tensor:
    """(N, 3, S, S) uint8 of bundled drawings, a little larger than the tower's input."""
    packed = PackedImages(bundled(f"{EMOJI}/images.npz", cfg.data.root), max_corrupt=0.0)
    size = min(64, cfg.data.image_size + cfg.data.image_size // 8)
    return packed.decode(size, torch.tensor(rows)).images


def _synthetic(cfg: Config) -> tuple[Tensor, list[dict[str, str]]]:
    data = cfg.data
    if not 1 <= len(data.languages) <= 5:
        raise UserError("data.source=synthetic has one to five languages: name them")
    pairs = synthetic_pairs(
        data.num_samples, image_size=data.image_size, num_rewrites=len(data.languages) - 1
    )
    texts = [dict(zip(data.languages, row, strict=True)) for row in pairs.texts]
    return pairs.images, texts


# -- evaluation ----------------------------------------------------------------------------------


def evaluation_sets(cfg: Config, tokenizer: Tokenizer) -> dict[str, EvalSet]:
    """Sets by name: that of the source, then the benchmarks of the config."""
    sets = {}
    if (source_set := _source_set(cfg, tokenizer)) is not None:
        sets[cfg.data.source] = source_set
    for name in cfg.eval.benchmarks:
        languages, split = BENCHMARK_SETS[name]
        sets[name] = _benchmark_set(cfg, name, cfg.eval.languages or languages, split)  # type: ignore[arg-type,index]
    return sets  # type: ignore[return-value]


def validation_set(cfg: Config, tokenizer: Tokenizer) -> EvalSet:
    """What a run is validated on: development items, and of a benchmark the split "val".

    Raises:
        UserError: data.source=jsonl, of which nothing is held back.
    """
    dev = replace(cfg, eval=replace(cfg.eval, split="dev"))
    if (source_set := _source_set(dev, tokenizer)) is not None:
        return source_set
    if cfg.data.source in ("jsonl", "webdataset"):
        raise UserError(
            f"data.source={cfg.data.source} has no validation set: set trainer.val_every_n_steps=null"
        )
    languages = VAL_LANGUAGES.get(cfg.data.source) or BENCHMARK_SETS[cfg.data.source][0]
    languages = cfg.eval.languages or languages
    return _benchmark_set(cfg, cfg.data.source, languages, "val")  # type: ignore[arg-type]


def _source_set(cfg: Config, tokenizer: Tokenizer) -> EvalSet | None:
    """Items of a source that holds some back; None for files and benchmarks."""
    transform = im.SquareTransform(cfg.data.image_size)
    if cfg.data.source == "emoji":
        return _emoji_set(cfg, transform)
    if cfg.data.source == "synthetic":
        return _synthetic_set(cfg, transform)
    return _caption_set(cfg, tokenizer) if cfg.data.source == "captions" else None


def _emoji_set(cfg: Config, transform: im.SquareTransform) -> EvalSet:
    rows, texts = emoji_rows(cfg, cfg.eval.split)
    names = [str(row) for row in rows]
    languages = cfg.eval.languages or cfg.data.languages or sorted(texts[0])
    sets = {
        x: grouped([(name, text[x]) for name, text in zip(names, texts, strict=True)])
        for x in languages
    }

    def load(names: Sequence[str]) -> Tensor:
        return transform.batch(_emoji_pixels(cfg, [int(name) for name in names]))

    return EvalSet(sets, load)


def _synthetic_set(cfg: Config, transform: im.SquareTransform) -> EvalSet:
    """One image a class, so that an item is right or wrong."""
    pixels, texts = _synthetic(cfg)
    sets = {x: grouped([(str(i), texts[i][x]) for i in range(8)]) for x in cfg.data.languages}
    return EvalSet(sets, lambda names: transform.batch(pixels[[int(n) for n in names]]))


def _caption_set(cfg: Config, tokenizer: Tokenizer) -> EvalSet:
    rows = caption_rows(cfg, {"test": "test_2016_flickr", "dev": "val"}[cfg.eval.split])
    languages = cfg.eval.languages or [
        x for x in cfg.data.languages or sorted(rows[0]) if x != cfg.data.pivot
    ]
    order = tuple(range(len(rows)))
    anchors = tuple(row[cfg.data.pivot] for row in rows)
    sets = {x: LanguageSet(anchors, tuple(row[x] for row in rows), order) for x in languages}
    clean = partial(plain_caption, max_words=cfg.data.max_words)
    return EvalSet(sets, lambda names: tokenizer([clean(name) for name in names]))


def _benchmark_set(cfg: Config, name: Benchmark, languages: Sequence[str], split: str) -> EvalSet:
    transform = im.SquareTransform(cfg.data.image_size)
    root = data_root(cfg.data.root)
    folder = root / (
        cfg.data.images if cfg.data.images and name == cfg.data.source else f"{name}/images"
    )
    sets = read_benchmark(name, root, languages, split)

    def load(names: Sequence[str]) -> Tensor:
        return torch.stack([transform.one(_picture(folder / path)) for path in names])

    return EvalSet(sets, load, COCO_FOLDS if (name, split) == ("coco", "test") else {})


def _picture(path: Path) -> Image.Image:
    try:
        return decode_image(path)
    except ValueError as error:
        raise UserError(f"{path}: {error}; an evaluation needs every picture of its set") from error
