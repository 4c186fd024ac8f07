"""Sections of the config: training data, the data engine, evaluation, annotation."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from common.families.image_text.config import ImageTextData, ImageTextEval, TwoTowers
from common.ranges import Count, NonNegative, Positive, Probability, Rate, Whole, between


@dataclass
class EntityData(ImageTextData):
    """Images with alt-texts and entities (I2E)."""

    # jsonl: rows of the data engine; pool: bundled drawings and photographs, sent through the
    # engine
    source: Literal["jsonl", "pool", "synthetic"] = "jsonl"  # type: ignore[assignment]
    files: str | None = None  # JSONL of the engine, below data.root; entities.tsv lies beside it
    image_root: str | None = None  # folder of its image paths, below data.root; None: the JSONL's
    text: Literal["name", "name_description", "alt_text"] = "name_description"  # contrastive text
    max_entities: Count = 8  # of an image; the engine keeps build.max_mentions
    flip_prob: Probability = 0.5  # horizontal flip of training images
    photos: Whole = 5000  # pool: CIFAR-10 photographs, drawn by the seed


@dataclass
class SelectConfig:
    """Which entities of an image count, by the cosine of image and entity text."""

    # absolute cosine of a CLIP model; calibrate it on pairs that you have looked at
    threshold: Annotated[float, between(-1, 1)] = 0.20
    slack: NonNegative = 0.05  # at most this much below the image's best entity
    enabled: bool = True  # False keeps all linked entities
    min_images: Count = 5  # entities of fewer images are dropped
    cap: Count | None = None  # entities of n > cap images keep sqrt(cap / n) of them


@dataclass
class BuildConfig:
    """`make run TASK=build`: images with alt-texts -> images with entities."""

    input: str | None = None  # JSONL with image, alt_text and perhaps title
    output: str | None = None  # JSONL; entities.tsv and report.json are written beside it
    images: str | None = None  # folder of the image paths; None: that of the input
    # tab-separated: id, name, description, prior, aliases joined by |; None: bundled WordNet nouns
    knowledge: str | None = None
    vectors: str | None = (
        None  # safetensors with (K, D) entity vectors; None: words of descriptions
    )
    extractor: Literal["dictionary", "ner", "lm"] = "dictionary"
    linker: Literal["context", "prior", "lm"] = "context"
    describe: Literal["knowledge", "lm"] = "knowledge"
    ner_model: str | None = None  # token classification: folder or hub id
    lm: str | None = None  # causal or encoder-decoder model: folder, bundled:<name> or hub id
    clip: str | None = None  # two towers: folder in open_clip's format, or open_clip:<name>/<tag>
    max_mentions: Count = 8  # of a caption
    max_new_tokens: Count = 64
    batch_size: Count = 64
    device: str = "auto"
    chunk_size: Count = 1024  # rows that a kill can cost


@dataclass
class FilterConfig:
    """Two CLIP models on halves of the bundled pool, each scoring the half that it never saw."""

    steps: Count = 200  # optimiser steps of each
    lr: Positive | None = None  # None: optim.lr


@dataclass
class EntityTowers(TwoTowers):
    """Two towers of open_clip."""


@dataclass
class EntityEval(ImageTextEval):
    """Retrieval, zero-shot and probes in one report."""

    gpr1200: str | None = None  # folder of GPR1200's images, below eval.root or data.root
    gpr_resize: Literal["pil", "tensor"] = "pil"  # tensor: as released, not antialiased
    knn: Count = 20  # neighbours of the vote
    probe: bool = True  # linear probe on the photographs of source=pool
    near_copy: Rate = 0.9  # pixel correlation from which a held-out drawing is left out


@dataclass
class AnnotateConfig:
    """`make run TASK=annotate`: entities of pictures of your own, by the exported model."""

    run: str | None = None  # folder of an export
    entities: str | None = None  # entities.tsv of the data engine
    inputs: list[str] = field(default_factory=list)  # image files
    text: Literal["name", "name_description"] = "name_description"
    top: Count = 5


@dataclass
class SearchConfig:
    """`make run TASK=search`: pictures of a folder nearest to pictures of your own."""

    run: str | None = None  # folder of an export
    gallery: str | None = None  # folder of images
    inputs: list[str] = field(default_factory=list)  # image files
    top: Count = 5
