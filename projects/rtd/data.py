"""Batches of triplets for RTD, of captions or images for the hosts; all drawn by seed and key."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.config import UserError
from common.data.image import sources as im
from common.data.image.synthetic import SyntheticPairs, synthetic_pairs
from common.data.image.upright import PICTURES
from common.data.image_text.shards import Sample, expand_shards, sample_image
from common.data.image_text.streaming import ShardStream
from common.data.lines import read_lines
from common.data.lookup import data_root
from common.data.samplers import Key, Rng, sample_rng
from common.encoders.image_text.open_clip_dual import OpenClipDualEncoder
from projects.rtd.composer import Composer
from projects.rtd.config import Config, MethodConfig, names_shards
from projects.rtd.drawings import decode, family_triplets, read_drawings, training_captions, unseen
from projects.rtd.hosts import CaptionBatch, ImageBatch, InvertedBatch
from projects.rtd.key_phrases import (
    LEMMAS,
    LemmaTagger,
    Tagger,
    hide_key_phrases,
    spacy_tagger,
    wordnet_tagger,
)
from projects.rtd.module import TripletBatch
from projects.rtd.oti import Phrases, over_ranks
from projects.rtd.pictures import tower_transform
from projects.rtd.triplets import Triplet, clean, key_phrases, read_triplets, rule_triplet

TRIPLET_STREAM, NOISE_STREAM, PHRASE_STREAM = 61, 62, 63  # independent streams of one access
TRIES = 20  # captions that are tried for a rule before the sample is given up
Tokenize = Callable[[list[str]], Tensor]
Draw = Callable[[int, Rng], Triplet]  # place and generator -> a triplet


def text_noise(rng: Rng, dim: int) -> np.ndarray:
    """U n: one uniform number times a Gaussian vector (dim,); the method's scale comes on top.

    Source: Gu et al. 2024, arXiv 2312.01998, which RTD takes over.
    """
    return (rng.random() * rng.standard_normal(dim)).astype(np.float32)


class TripletBatches(Dataset[TripletBatch]):
    """Triplets as ids: the composed sentence as the method's options want it.

    Args:
        size: triplets of an epoch.
        draw: (place, generator) -> triplet.
        tokenizer: texts -> ids.
        method: template, special sentence, concatenation.
        dim: P of the noise.
        seed: the experiment's.
    """

    def __init__(
        self, size: int, draw: Draw, tokenizer: Tokenize, method: MethodConfig, dim: int, seed: int
    ) -> None:
        self.size, self.draw, self.tokenizer = size, draw, tokenizer
        self.method, self.dim, self.seed = method, dim, seed

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, keys: Sequence[Key]) -> TripletBatch:
        """Batch of keys ``(index, epoch)``."""
        rows, noise = [], []
        for index, epoch in keys:
            rows.append(self.draw(index, sample_rng(self.seed, epoch, index, TRIPLET_STREAM)))
            noise.append(text_noise(sample_rng(self.seed, epoch, index, NOISE_STREAM), self.dim))
        composed, special = composed_texts(rows, self.method)
        return {
            "target": self.tokenizer([row.target for row in rows]),
            "reference": self.tokenizer([row.reference for row in rows]),
            "composed": self.tokenizer(composed),
            "special": self.tokenizer(special),
            "noise": torch.from_numpy(np.stack(noise)),
            "ids": torch.tensor([index for index, _ in keys]),
        }


def composed_texts(rows: Sequence[Triplet], method: MethodConfig) -> tuple[list[str], list[str]]:
    """Sentences of q and e: with a pseudo word (refined), or plain texts (naive concatenation)."""
    if method.refined_concat:
        return [method.template.format(row.condition) for row in rows], [method.special] * len(rows)
    return [f"{row.reference} that {row.condition}" for row in rows], [r.reference for r in rows]


class HiddenCaptions(Dataset[CaptionBatch]):
    """Captions and the same with their key phrases hidden, for LinCIR.

    Args:
        captions: those without a key phrase are left out.
        tagger: finds key phrases.
        tokenizer: texts -> ids.
        dim: P of the noise.
        seed: the experiment's.

    Raises:
        UserError: no caption has a key phrase.
    """

    def __init__(
        self, captions: Sequence[str], tagger: Tagger, tokenizer: Tokenize, dim: int, seed: int
    ) -> None:
        candidates = zip(captions, hide_key_phrases(captions, tagger), strict=True)
        self.pairs = [(text, hidden) for text, hidden in candidates if hidden is not None]
        if not self.pairs:
            raise UserError("no caption has a noun or adjective that LinCIR could hide")
        self.tokenizer, self.dim, self.seed = tokenizer, dim, seed

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, keys: Sequence[Key]) -> CaptionBatch:
        """Batch of keys ``(index, epoch)``."""
        noise = [text_noise(sample_rng(self.seed, e, i, NOISE_STREAM), self.dim) for i, e in keys]
        return {
            "caption": self.tokenizer([self.pairs[i][0] for i, _ in keys]),
            "hidden": self.tokenizer([self.pairs[i][1] for i, _ in keys]),
            "noise": torch.from_numpy(np.stack(noise)),
            "ids": torch.tensor([index for index, _ in keys]),
        }


class Images(Dataset[ImageBatch]):
    """Unlabelled images, for Pic2Word.

    Args:
        source: with `load`.
        size: number of images.
        seed: the experiment's.
    """

    def __init__(self, source: im.ImageSource, size: int, seed: int) -> None:
        self.source, self.size, self.seed = source, size, seed

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, keys: Sequence[Key]) -> ImageBatch:
        """Batch of keys ``(index, epoch)``; an unreadable picture is left out."""
        rngs = [sample_rng(self.seed, epoch, index) for index, epoch in keys]
        images, kept = self.source.load([index for index, _ in keys], rngs)
        ids = torch.tensor([index for index, _ in keys])
        return {"images": images, "ids": ids[kept] if len(images) < len(ids) else ids}


class UnlabelledSamples:
    """The same of webdataset shards: `Samples` of `common.data.image_text.streaming`.

    Args:
        transform: of an image; it draws nothing.
        seed: the experiment's.
    """

    def __init__(self, transform: im.ImageTransform, seed: int) -> None:
        self.transform, self.seed = transform, seed

    def row(self, sample: Sample, epoch: int, position: int) -> im.View:
        """The image; texts are not read."""
        rng = sample_rng(self.seed, epoch, position)
        (view,) = im.read_views(sample_image(sample), [(self.transform, rng)])
        return view

    def batch(self, rows: list[im.View]) -> dict[str, Any]:
        """Images of `ImageBatch`."""
        return {"images": im.batch_of(self.transform, rows)}


class Inverted(Dataset[InvertedBatch]):
    """Embeddings of images with their inverted tokens and phrases of near concepts, for SEARLE.

    Args:
        images: (N, P).
        tokens: (N, F).
        near: (N, C) places of concepts.
        phrases: of the concepts.
        tokenizer: texts -> ids.
        seed: the experiment's.
    """

    def __init__(
        self,
        images: Tensor,
        tokens: Tensor,
        near: Tensor,
        phrases: Phrases,
        tokenizer: Tokenize,
        seed: int,
    ) -> None:
        self.images, self.tokens, self.near, self.phrases = images, tokens, near, phrases
        self.tokenizer, self.seed = tokenizer, seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, keys: Sequence[Key]) -> InvertedBatch:
        """Batch of keys ``(index, epoch)``."""
        drawn = []
        for index, epoch in keys:
            rng = sample_rng(self.seed, epoch, index, PHRASE_STREAM)
            concept = int(self.near[index, rng.integers(self.near.shape[1])])
            drawn.append(self.phrases.draw(concept, rng))
        rows = torch.tensor([index for index, _ in keys])
        return {
            "images": self.images[rows],
            "tokens": self.tokens[rows],
            "phrase": self.tokenizer([phrase for phrase, _ in drawn]),
            "hidden": self.tokenizer([hidden for _, hidden in drawn]),
            "ids": rows,
        }


# -- sources ---------------------------------------------------------------------------------------


@lru_cache(2)
def captions_of(source: str, root: str | None, path: str | None) -> tuple[str, ...]:
    """Cleaned captions of a source."""
    if source == "synthetic":
        captions = synthetic_pairs(64, image_size=8, num_rewrites=1).texts
        return tuple(sorted({text for texts in captions for text in texts}))
    if source == "drawings":
        return tuple(clean(text) for text in training_captions(root))
    file = data_root(root) / str(path)
    if not file.is_file():
        raise UserError(
            f"{file} does not exist: give data.captions a text file, one caption per line"
        )
    return tuple(text for line in read_lines(file) if (text := clean(line)))


def train_captions(cfg: Config) -> tuple[str, ...]:
    """Captions for the host and for rules."""
    return captions_of(cfg.data.source, cfg.data.root, cfg.data.captions)


def tagger_of(cfg: Config) -> Tagger:
    """Finds key phrases, see `data.tagger`; of synthetic captions by the names of their classes.

    Raises:
        UserError: see `SpacyTagger`.
    """
    if cfg.data.source == "synthetic":
        return LemmaTagger(synthetic_set(cfg).class_names)
    if cfg.data.tagger == LEMMAS:
        return wordnet_tagger(cfg.data.root)
    return spacy_tagger(cfg.data.tagger)


def synthetic_set(cfg: Config) -> SyntheticPairs:
    """Images with captions, the same for every seed of the experiment."""
    return synthetic_pairs(64, image_size=cfg.data.image_size, num_rewrites=1)


def triplet_source(cfg: Config) -> tuple[int, Draw]:
    """Triplets of an epoch, and how one is drawn."""
    data = cfg.data
    if data.source == "files" and data.triplets is not None:
        rows = read_triplets(data_root(data.root) / data.triplets)
        return len(rows), lambda index, rng: rows[index]
    captions, tagger = train_captions(cfg), tagger_of(cfg)
    by_rule = rules(captions, key_phrases(captions, tagger), tagger)
    size = data.num_samples or len(captions)
    if data.source != "drawings":
        return size, by_rule
    families = [Triplet(*map(clean, row)) for row in family_triplets(read_drawings(data.root))]

    def mixed(index: int, rng: Rng) -> Triplet:
        if rng.random() < data.family_share:
            return families[rng.integers(len(families))]
        return by_rule(index, rng)

    return size, mixed


def rules(captions: Sequence[str], phrases: Sequence[str], tagger: Tagger) -> Draw:
    """Draws a caption and a rule-based change of it."""

    def draw(index: int, rng: Rng) -> Triplet:
        for place in [index % len(captions), *rng.integers(len(captions), size=TRIES).tolist()]:
            triplet = rule_triplet(captions[place], phrases, tagger, rng)
            if triplet is not None:
                return triplet
        raise UserError("captions without key phrases: no rule-based triplet can be made of them")

    return draw


def streamed_images(cfg: Config, encoder: OpenClipDualEncoder) -> ShardStream | None:
    """Unlabelled training images of shards; None if ``data.images`` is a folder or not read.

    Raises:
        UserError: a missing shard.
    """
    data = cfg.data
    if data.source != "files" or not names_shards(data.images):
        return None
    return ShardStream(
        expand_shards(str(data.images), data_root(data.root)),
        UnlabelledSamples(tower_transform(encoder), cfg.seed),
        batch_size=cfg.phi.batch_size,
        seed=cfg.seed,
        num_workers=data.num_workers,
    )


def host_images(cfg: Config, encoder: OpenClipDualEncoder) -> tuple[im.ImageSource, int]:
    """Unlabelled training images, prepared as the encoder wants them."""
    data, transform = cfg.data, tower_transform(encoder)
    if data.source == "files":
        folder = data_root(data.root) / str(data.images)
        paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in PICTURES)
        if not paths:
            raise UserError(f"{folder} (data.images) has no picture ({', '.join(PICTURES)})")
        return im.ImageFiles(lambda i: paths[i], len(paths), transform), len(paths)
    if data.source == "synthetic":
        images = synthetic_set(cfg).images
    else:
        drawings = read_drawings(data.root)
        held = set(unseen(drawings))
        kept = [d for i, d in enumerate(drawings) if i not in held]
        images = decode(kept, data.image_size, data.root)
    return im.CachedImages(images, transform), len(images)


@torch.no_grad()
def image_embeddings(
    composer: Composer, source: im.ImageSource, size: int, batch_size: int
) -> Tensor:
    """(N, P) of all images of a source, on the CPU; the ranks share them."""

    def block(start: int) -> Tensor:
        rows = list(range(start, min(size, start + batch_size)))
        images, _ = source.load(rows, [sample_rng(0, 0, row) for row in rows])
        return composer.encoder.encode_image(images.to(composer.device)).float().cpu()

    return over_ranks(size, batch_size, block)


def concepts_of(cfg: Config) -> list[str]:
    """SEARLE's vocabulary: a file, else the key phrases of the captions."""
    path = cfg.phi.searle.vocabulary
    if path is not None:
        return [line for line in read_lines(data_root(cfg.data.root) / path) if line]
    if cfg.data.source == "files" and cfg.data.captions is None:
        raise UserError("phi.host=searle needs phi.searle.vocabulary, one concept per line")
    return key_phrases(train_captions(cfg), tagger_of(cfg))


def tokenizer_of(composer: Composer) -> Tokenize:
    """The tokenizer of CLIP."""
    tokenizer: Any = composer.encoder.tokenizer
    return lambda texts: tokenizer(texts)
