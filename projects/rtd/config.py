"""What can be set in an RTD experiment."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from common.config import DataConfig, ExperimentConfig, OptimConfig
from common.data.layouts import Layout
from common.data.row_map.options import RowMapConfig
from common.decoding.options import ServerConfig
from common.evaluation.own_data import Judge, OwnData
from common.ranges import Count, NonNegative, Positive, Probability, Rate, Share, Whole


@dataclass
class TripletData(DataConfig):
    """Text triplets for RTD, captions or images for the host."""

    # drawings: bundled; files: what is named below; synthetic: coloured patterns made from a seed
    source: Literal["drawings", "files", "synthetic"] = "files"
    triplets: str | None = None  # JSON of reference_caption, conditioning_caption, target_caption
    captions: str | None = None  # one caption per line, for the host LinCIR and for rules
    # folder of pictures, for the hosts SEARLE and Pic2Word; for Pic2Word also webdataset shards, a
    # pattern such as cc3m/{00000..00331}.tar
    images: str | None = None
    # finds key phrases: a pipeline of spaCy by package or folder, as LinCIR's release; lemmas:
    # WordNet's nouns and adjectives, which hide verbs too
    tagger: str = "en_core_web_sm"
    rules: bool = False  # make triplets from data.captions by rules, while training
    family_share: Probability = 0.5  # drawings: share of triplets that are changes within a family
    image_size: Count = 224  # of the image tower, in pixels
    num_samples: Count | None = None  # triplets of an epoch, where they are made while training


def names_shards(images: str | None) -> bool:
    """Whether ``data.images`` is a pattern of tar files."""
    return images is not None and images.endswith(".tar")


@dataclass
class ClipConfig:
    """The CLIP that everything starts from."""

    # name or config of an open_clip model; None with a folder or tag in `pretrained`
    open_clip: Any = None
    pretrained: str = (
        "random"  # bundled:dual-encoder, open_clip:ViT-L-14-quickgelu/openai, a folder
    )
    activation_checkpointing: bool = False  # recompute the text blocks in the backward pass


@dataclass
class SearleConfig:
    """Textual inversion of single images, which SEARLE distils."""

    steps: Count = 350
    lr: Positive = 2e-2
    weight_decay: NonNegative = 0.01
    ema_decay: Rate = 0.99
    image_weight: NonNegative = 1.0
    phrase_weight: NonNegative = 0.5
    concepts: Count = 15  # nearest ones of an image
    distil_weight: NonNegative = 1.0
    regular_weight: NonNegative = 0.75
    temperature: Positive = 0.25
    phrases: str | None = None  # JSON concept -> phrases (TASK=phrases); None: fixed sentences
    vocabulary: str | None = None  # one concept per line; None: key phrases of the captions
    batch_size: Count = 128  # images that are inverted together


@dataclass
class HostConfig:
    """The projection phi, and how its host trains it."""

    host: Literal["lincir", "searle", "pic2word"] = "lincir"
    weights: str | None = None  # a checkpoint of phi instead of training it
    hidden_dim: Count | None = None  # None: 4P (LinCIR, SEARLE) or 512 (Pic2Word)
    dropout: Rate | None = None  # None: .5, or .1 of Pic2Word
    noise_scale: NonNegative = 1.0  # LinCIR: of the noise on text embeddings
    steps: Count = 20000
    batch_size: Count = 64
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=1e-4, weight_decay=0.01))
    ema_decay: Rate | None = None  # average of phi's weights, which is what is used
    searle: SearleConfig = field(default_factory=SearleConfig)
    keep: bool = False  # keep the trained phi for other runs of the same settings


@dataclass
class ComposedEval(OwnData):
    """Composed retrieval; folders of the official sets below data.root, None: not evaluated."""

    judges: ClassVar[Mapping[Layout, Judge]] = {Layout.COMPOSED: Judge()}

    split: Literal["test", "dev", "train"] = "test"  # of the drawings; tune on dev
    fashioniq: str | None = None
    cirr: str | None = None
    circo: str | None = None
    genecis: str | None = None
    official_split: Literal["val", "test"] = "val"  # CIRR and CIRCO; test writes server files
    validate: bool = False  # during training: CIRR val, or the drawings' dev part
    target_pad: Positive | None = None  # pad to this ratio of sides (1.25) in place of CLIP's crop
    batch_size: Count = 256


@dataclass
class SearchConfig:
    """`make run TASK=search`: a picture and a sentence over a folder of pictures."""

    run: str | None = None  # exported folder
    gallery: str | None = None  # folder of pictures
    reference: str | None = None  # picture
    text: str | None = None  # what to change: goes on after "a photo of $ that"
    top: Count = 8
    output: str | None = None  # PNG of reference and results; None: plots/ of the task's folder
    hits: str | None = None  # .jsonl file of the results, names and scores; None: only printed

    def __post_init__(self) -> None:
        if self.hits is not None and not self.hits.endswith(".jsonl"):
            raise ValueError(f"search.hits={self.hits} must end in .jsonl")


@dataclass
class MakeTriplets:
    """`make run TASK=triplets`: text triplets from captions, by rules or by a language model."""

    input: str | None = None  # one caption per line
    output: str | None = None  # JSON for data.triplets
    by: Literal["rules", "lm"] = "rules"
    keywords: str | None = None  # rules: a phrase a line; None: key phrases of the captions
    model: str = "bundled:causal-lm"  # lm: any causal model, or a server (generator.*)
    max_new_tokens: Count = 96
    temperature: Positive = 0.7
    retries: Whole = 3
    min_overlap: Share = 0.3  # words of the caption that the edited one keeps
    batch_size: Count = 64


@dataclass
class MakePhrases:
    """`make run TASK=phrases`: phrases of concepts, for SEARLE's regulariser."""

    concepts: str | None = None  # one concept per line
    output: str | None = None  # JSON for phi.searle.phrases
    model: str = "bundled:causal-lm"
    per_concept: Count = 256
    max_new_tokens: Count = 35
    temperature: Positive = 0.5
    no_repeat_ngram: Whole = 2
    batch_size: Count = 64


@dataclass
class TableConfig:
    """`make run TASK=table`: before and after RTD, for each host and backbone."""

    runs: list[str] = field(default_factory=list)  # run folders
    output: str | None = None  # Markdown; None: shown alone


@dataclass
class MethodConfig:
    """The objective; each ingredient can be switched off."""

    enabled: bool = True  # False: the host alone, whose text tower stays as it is
    tau: Positive = 0.07
    noise_scale: NonNegative = 0.5  # of the noise on the reference's embedding before phi
    frozen_target: bool = True  # target-anchored; False: targets through the student, with gradient
    refined_batch: bool = True  # references as hard negatives, with their own queries
    refined_concat: bool = True  # through phi; False: "reference that condition" as plain text
    gather_negatives: bool = False  # of all ranks; the release has each rank alone
    l2_normalize: bool = False  # before phi
    template: str = "a photo of $ that {}"
    special: str = "a photo of $"


@dataclass
class Config(ExperimentConfig):
    """A host's projection, then RTD of the text tower."""

    data: TripletData = field(default_factory=TripletData)
    model: ClipConfig = field(default_factory=ClipConfig)
    phi: HostConfig = field(default_factory=HostConfig)
    rtd: MethodConfig = field(default_factory=MethodConfig)
    eval: ComposedEval = field(default_factory=ComposedEval)
    search: SearchConfig = field(default_factory=SearchConfig)
    triplets: MakeTriplets = field(default_factory=MakeTriplets)
    phrases: MakePhrases = field(default_factory=MakePhrases)
    table: TableConfig = field(default_factory=TableConfig)
    generator: ServerConfig = field(default_factory=ServerConfig)
    task: RowMapConfig = field(default_factory=RowMapConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        rtd, data = self.rtd, self.data
        if rtd.template.count("$") != 1 or rtd.template.count("{}") != 1:
            raise ValueError(
                "rtd.template needs one $ (the pseudo word) and one {} (the condition)"
            )
        if rtd.special.count("$") != 1:
            raise ValueError("rtd.special needs one $ (the pseudo word)")
        if self.model.open_clip is None and self.model.pretrained == "random":
            raise ValueError("set model.pretrained, or model.open_clip for a random model")
        if not rtd.enabled and self.phi.weights is not None:
            raise ValueError("rtd.enabled=false with phi.weights trains nothing: use make eval")
        if rtd.enabled and data.source == "files" and (data.triplets is None) != data.rules:
            raise ValueError(
                "data.source=files needs data.triplets, or data.rules=true with data.captions"
            )
        if data.source == "files" and data.rules and data.captions is None:
            raise ValueError("data.rules=true needs data.captions, one caption per line")
        if data.source == "files" and self.phi.weights is None:
            if self.phi.host == "lincir" and data.captions is None:
                raise ValueError("phi.host=lincir needs data.captions, or phi.weights")
            if self.phi.host != "lincir" and data.images is None:
                raise ValueError(f"phi.host={self.phi.host} needs data.images, or phi.weights")
            if self.phi.host == "searle" and names_shards(data.images):
                raise ValueError(
                    "phi.host=searle inverts every image by its number: unpack the shards of "
                    "data.images into a folder"
                )
        if self.eval.validate and data.source == "files" and self.eval.cirr is None:
            raise ValueError("eval.validate=true with data.source=files needs eval.cirr")
