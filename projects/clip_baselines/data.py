"""A clean pair and K augmented views of image and text."""

import copy
from typing import Any

import torch
from torch.utils.data import Dataset
from torchvision.transforms.v2 import InterpolationMode

from common.data.image.multi_view import ViewStack
from common.data.image.simclr import SimCLRTransform
from common.data.image.sources import (
    CachedImages,
    ImageFiles,
    PlannedTransform,
    TrainTransform,
)
from common.data.image_text.captions import TextAugment, TextSource
from common.data.lookup import data_root
from common.data.module import ContrastiveData
from common.data.samplers import Rng
from common.data.text.augment import Eda
from common.data.text.stop_words import StopWordFilter
from common.data.text.tokenizers import ClipTokenizer, clean_caption
from common.data.text.wordnet import SOURCE, wordnet_folder, wordnet_synonyms
from common.engine.experiment import Requirement
from common.families.image_text import photographs
from common.families.image_text.data import (
    eval_transform,
    normalization,
    shards,
    text_keys,
    train_pairs,
    train_transform,
)
from projects.clip_baselines.config import Config
from projects.clip_baselines.multi_view import MultiViewPairs, MultiViewSamples, ViewTexts
from projects.clip_baselines.photo_texts import JoinedTexts, Mixture, PhotoTexts
from projects.clip_baselines.view_options import RocketData

TEXTS_FROM = "the data set's authors: the second text of each pair (YFCC: the description)"
OPERATIONS = ("replace", "swap", "delete", "keep")


def build_data(cfg: Config, tokenizer: ClipTokenizer) -> ContrastiveData:
    """Loaders of the config's views, with a labelled set for validation if it names one."""
    data = cfg.data
    clean, augmented = text_changes(data)
    if data.source == "webdataset":
        texts_of = ViewTexts(tokenizer, data.num_augs, data.captions_of_views, clean, augmented)
        samples = MultiViewSamples(
            train_transform(data),
            ViewStack(view_transforms(data)) if data.num_augs else None,
            texts_of,
            seed=cfg.seed,
            text_keys=text_keys(data),
        )
        return _loaders(cfg, shards(data, samples, cfg.seed))
    images, texts = train_pairs(cfg, train_transform(data), TEXTS_FROM)
    assert isinstance(images, CachedImages | ImageFiles)
    mixture = None
    if data.photos:
        assert isinstance(images, CachedImages)
        mixture = Mixture(len(images), data.photos, data.photo_share)
        images, texts = with_photographs(cfg, images, texts)
    views = None
    if data.num_augs:
        views = copy.copy(images)
        views.transform = ViewStack(view_transforms(data))
    train = MultiViewPairs(
        images,
        views,
        texts,
        tokenizer,
        seed=cfg.seed,
        num_views=data.num_augs,
        captions=data.captions_of_views,
        clean_text=clean,
        view_text=augmented,
        row_of=mixture,
        length=None if mixture is None else len(mixture),
    )
    return _loaders(cfg, train)


def _loaders(cfg: Config, train: Dataset[Any]) -> ContrastiveData:
    data, val = cfg.data, {}
    if cfg.eval.validate is not None:
        from common.data.image.benchmarks import load_image_set

        root = data_root(cfg.eval.root or data.root)
        val["zeroshot"] = load_image_set(cfg.eval.validate, root, eval_transform(data))
    return ContrastiveData(
        train, batch_size=data.batch_size, seed=cfg.seed, num_workers=data.num_workers, val=val
    )


def with_photographs(
    cfg: Config, images: CachedImages, texts: TextSource
) -> tuple[CachedImages, TextSource]:
    """Drawings, and behind them photographs."""
    data = cfg.data
    more = photographs.photographs_to_train(data.root, data.photos, cfg.seed, data.cache_size)
    joined = JoinedTexts([texts, PhotoTexts(more.labels)])
    return CachedImages(torch.cat([images.images, more.images]), images.transform), joined


def view_transforms(data: RocketData) -> tuple[PlannedTransform, ...]:
    """One transform for each augmented view.

    Source: Fini et al. 2023, arXiv 2305.08675, official code: SimCLR's augmentation with half the
    colour strength and blur; `asymmetric` is BYOL's, arXiv 2006.07733.
    """
    mean, std = normalization(data)
    resampled = InterpolationMode(data.interpolation)
    size, scale = data.view_size or data.image_size, (data.view_scale[0], data.view_scale[1])
    if not data.image_augmentation:
        low, high = data.crop_scale
        weak = TrainTransform(size, (low, high), mean=mean, std=std, interpolation=resampled)
        return (weak,) * data.num_augs

    def view(number: int) -> SimCLRTransform:
        jitter, blur, solarise = data.jitter, data.blur_prob, data.solarise_prob
        if data.asymmetric:
            jitter, blur = (0.4, 0.4, 0.2, 0.1), (1.0, 0.1)[number]
            solarise = (0.0, 0.2)[number]
        return SimCLRTransform(
            size,
            scale,
            jitter=jitter,
            jitter_prob=data.jitter_prob,
            grey_prob=data.grey_prob,
            blur_prob=blur,
            solarise_prob=solarise,
            mean=mean,
            std=std,
            interpolation=resampled,
        )

    return tuple(view(number) for number in range(data.num_augs))


def text_changes(data: RocketData) -> tuple[TextAugment, TextAugment]:
    """What is done to the clean text and to that of a view; an empty result is not used.

    Clean: function words go, with a probability. View: the same, then exactly one of EDA's synonym
    replacement, swap, deletion and identity.
    """
    stop_words = StopWordFilter(data.remove_stopwords_prob)
    eda = Eda(_synonyms(data), operations=OPERATIONS, weights=data.eda_weights)  # type: ignore[arg-type]

    def clean(text: str, rng: Rng) -> str:
        start = clean_caption(text) if data.clean_before_augment else text
        return stop_words(start, rng).strip() or text

    def view(text: str, rng: Rng) -> str:
        start = clean(text, rng)
        return (eda(start, rng).strip() or start) if data.text_augmentation else start

    return clean, view


def wordnet_requirement(cfg: Config) -> list[Requirement]:
    """WordNet's database, where the config names it and has synonyms."""
    data = cfg.data
    if data.wordnet is None or not (data.text_augmentation and data.eda_synonyms and data.num_augs):
        return []
    path = wordnet_folder(data.wordnet, data.root)
    return [Requirement("data: WordNet", str(path), (path / "data.noun").is_file(), SOURCE)]


def _synonyms(data: RocketData) -> dict[str, list[str]]:
    if not (data.text_augmentation and data.eda_synonyms and data.num_augs):
        return {}
    return wordnet_synonyms(data.wordnet, data.root)
