"""What can be set in an experiment of MOFI."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from common.config import ExperimentConfig
from common.data.row_map.options import RowMapConfig
from common.decoding.options import ServerConfig
from common.families.image_text.config import ImageTextData, ImageTextEval, TwoTowers
from common.ranges import Count, NonNegative, Positive, Probability, Rate, Whole, at_least, between


@dataclass
class EntityData(ImageTextData):
    """Images with alt-texts and entities (I2E)."""

    # jsonl: rows of the data engine; webdataset: such rows as key.json next to key.jpg, in
    # data.shards; pool: bundled drawings and photographs, sent through the engine
    source: Literal["jsonl", "webdataset", "pool", "synthetic"] = "jsonl"  # type: ignore[assignment]
    files: str | None = None  # JSONL of the engine, below data.root; entities.tsv lies alongside it
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
    output: str | None = None  # JSONL; entities.tsv and report.json are written alongside it
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
    output: str | None = None  # .jsonl file of inputs with their hits; None: they are only printed
    top: Count = 5

    def __post_init__(self) -> None:
        if self.output is not None and not self.output.endswith(".jsonl"):
            raise ValueError(f"search.output={self.output} must end in .jsonl")


@dataclass
class ReleasedConfig:
    """`make run TASK=released`: GPR1200 of a checkpoint that the authors released."""

    model: str | None = None  # unpacked folder for transformers, such as mofi-b16-hf
    batch_size: Count = 64
    device: Literal["auto", "cpu", "cuda"] = "auto"


@dataclass
class MethodConfig:
    """The three recipes."""

    recipe: Literal["supervised", "contrastive", "multitask"] = "multitask"
    cls_weight: Probability = 0.9  # lambda of multitask; supervised is 1, contrastive 0
    margin: NonNegative = 0.15  # m, of the true class, in training
    margin_on: Literal["cosine", "angle"] = "cosine"  # CosFace or ArcFace
    scale: Positive = 32.0  # s of the classifier
    sampled: Count = 524288  # N', classes of a step
    sampling: Literal["uniform", "frequency"] = "uniform"
    frequency_power: Probability = 0.5  # odds of a class are its images to this power
    logq_correction: bool = False  # of frequency sampling
    # an image's texts of entities that it shares with others: no negatives, negatives, or positives
    same_entity: Literal["masked", "negative", "positive"] = "masked"
    num_classes: Count | None = None  # C of a set that is not on disk, for `make check`
    class_lr_scale: Positive = 1.0  # times optim.lr, of class vectors
    class_weight_decay: NonNegative = 0.0
    class_moments: Literal["full", "row"] = "full"  # row: one number a class
    class_std: Annotated[float, at_least(1e-6)] = 0.02  # of their initialisation


@dataclass
class Config(ExperimentConfig):
    """One recipe on images with entities."""

    data: EntityData = field(default_factory=EntityData)
    model: EntityTowers = field(default_factory=EntityTowers)
    method: MethodConfig = field(default_factory=MethodConfig)
    select: SelectConfig = field(default_factory=SelectConfig)
    filter: FilterConfig = field(default_factory=FilterConfig)
    eval: EntityEval = field(default_factory=EntityEval)
    build: BuildConfig = field(default_factory=BuildConfig)
    annotate: AnnotateConfig = field(default_factory=AnnotateConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    released: ReleasedConfig = field(default_factory=ReleasedConfig)
    generator: ServerConfig = field(default_factory=ServerConfig)  # build with extractor=lm
    task: RowMapConfig = field(default_factory=RowMapConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        method = self.method
        if self.model.open_clip is None:
            raise ValueError("set model.open_clip; this project trains open_clip's towers")
        if self.data.source == "jsonl" and self.data.files is None:
            raise ValueError("data.source=jsonl needs data.files, a JSONL file of TASK=build")
        if self.data.source == "webdataset":
            self.data.check_source()
        if method.logq_correction and method.sampling == "uniform":
            raise ValueError("method.logq_correction needs method.sampling=frequency")
        if method.recipe != "contrastive":
            if self.trainer.accumulate_grad_batches > 1:
                raise ValueError("class vectors move once a batch: accumulate_grad_batches=1")
            if self.trainer.precision == "16-mixed":
                raise ValueError("scaled gradients do not fit class vectors: precision=bf16-mixed")
            if self.trainer.strategy == "fsdp":
                raise ValueError("class vectors are sharded by themselves: trainer.strategy=ddp")
