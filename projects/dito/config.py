"""What can be set in a DITO experiment."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from common.config import DataConfig, ExperimentConfig
from common.data.layouts import Layout
from common.evaluation.own_data import Judge, OwnData
from common.ranges import (
    Count,
    Counts,
    Interval,
    NonNegative,
    Positive,
    Probability,
    Share,
    Whole,
    ascending,
    at_least,
    between,
    not_empty,
)

StageName = Literal["image", "region", "detect"]
Plan = Annotated[list[StageName], not_empty]
Span = Annotated[tuple[Positive, Positive], ascending]  # positive, least and largest
Names = Annotated[list[str], not_empty]


@dataclass
class DitoData(DataConfig):
    """Image-text pairs, and annotated images for the detector."""

    # shapes, emoji: bundled scenes with boxes; csv, webdataset: pairs; coco: COCO or LVIS files
    source: Literal["shapes", "emoji", "csv", "webdataset", "coco"] = "emoji"
    image_size: Annotated[int, at_least(2)] = 64  # side of the square input in pixels
    # scenes
    scenes: Count = 3000  # training scenes, drawn by the seed
    eval_scenes: Count = 600  # of dev and of test, the same for every seed
    names: Count = 120  # pictures that are pasted
    objects: Count = 3  # of a scene, all different
    object_scale: Interval = (0.3, 0.6)  # side of an object over that of the scene
    # pairs
    captions: str | None = None  # CSV path,caption without header, below data.root
    images: str | None = None  # folder of the CSV's image paths, below data.root; None: the CSV's
    shards: str | None = None  # webdataset pattern, below data.root
    num_samples: Count | None = None  # pairs of an epoch of shards
    crop_scale: Interval = (0.5, 1.0)  # area of the random crop of pairs
    # annotated images, below data.root
    train_json: str | None = None
    train_images: str | None = None
    eval_json: str | None = None
    eval_images: str | None = None
    novel: Literal["lvis", "coco", "none"] = "none"  # which classes are never trained on
    jitter: Span = (0.1, 2.0)  # large-scale jitter of training images

    def check(self) -> None:
        """Refuse a source without its files.

        Raises:
            ValueError: see above.
        """
        if self.source == "csv" and self.captions is None:
            raise ValueError("data.source=csv needs data.captions, the CSV file of the pairs")
        if self.source == "webdataset" and (self.shards is None or self.num_samples is None):
            raise ValueError("data.source=webdataset needs data.shards and data.num_samples")
        if self.source == "coco" and self.eval_json is None:
            raise ValueError("data.source=coco needs data.eval_json (and data.train_json to train)")


@dataclass
class ModelConfig:
    """Backbone, text tower, pyramid and heads."""

    patch_size: Count = 16
    width: Count = 768
    depth: Count = 12
    heads: Count = 12
    position_grid: Count = 14
    windows_per_side: Count = 4  # K
    global_layers: Counts = field(default_factory=lambda: [3, 6, 9, 12])
    shift: Whole = 8  # s of shifted-window learning in tokens; 0: without
    image_shift: bool = False  # also in image-level pretraining
    image_windows: bool = False  # windows in image-level pretraining (its grid must divide)
    embed_dim: Count = 512  # D of texts and regions
    text_tower: Literal["clip", "bag"] = "clip"
    text: dict[str, Any] = field(default_factory=dict)  # sizes; empty: CLIP's
    channels: Count = 256  # of the pyramid
    scales: Annotated[list[Positive], not_empty] = field(
        default_factory=lambda: [4.0, 2.0, 1.0, 0.5]
    )
    canonical_size: Positive = 224.0  # side of a box on level 4, in pixels
    head_convs: Whole = 4
    head_hidden: Count = 1024
    head_unit_rows: bool = False  # of the head's layer into the space of texts, as released
    masks: bool = False  # a mask head next to the box head, trained in the detect stage
    logit_scale_init: Positive = 1 / 0.07
    init_from: str | None = None  # export of an earlier stage; stages without image need it


@dataclass
class MethodConfig:
    """Stages, random boxes, pooling and what is frozen."""

    stages: Plan = field(default_factory=lambda: ["image", "region"])
    continues: bool = False  # an image stage that continues from model.init_from and needs it
    image_steps: Count | None = None  # of the first image stage; None: trainer.max_steps
    image_lr: Positive | None = None  # of the first image stage; None: optim.lr
    detect_steps: Count | None = None
    detect_lr: Positive | None = None
    loss: Literal["info_nce", "focal"] = "info_nce"
    focal_alpha: Probability = 0.5
    focal_gamma: NonNegative = 1.0
    boxes: Count = 16  # R, random boxes of an image
    area: Interval = (0.05, 1.0)  # share of the image
    aspect: Span = (0.5, 2.0)
    pool: Literal["max", "mean"] = "max"
    freeze_backbone: bool = True  # in the region stage
    freeze_text: bool = True  # in the region stage
    detect_freeze_backbone: bool = False

    def needs_start(self) -> bool:
        """Whether the first stage makes no sense from random weights."""
        return self.continues or self.stages[0] != "image"


@dataclass
class DetectConfig:
    """Fine-tuning of the detector."""

    backbone_gradient: Probability = 0.6  # factor on what flows into the backbone
    background_weight: Positive = 0.9
    regions: Count = 512  # of an image
    positive_fraction: Share = 0.25
    positive_iou: Share = 0.5
    places: Count = 256  # RPN places of an image
    rpn_box_weight: NonNegative = 8.0
    box_loss: Literal["huber", "iou"] = "huber"
    l2: NonNegative = 1e-4
    rpn_convs: Count = 1
    # proposals in training; score.rpn_top, rpn_keep and rpn_nms are those of evaluation
    top: Count = 1000  # of a level before NMS
    keep: Count = 1000  # after it
    nms: Share = 0.7
    milestones: list[Probability] = field(default_factory=list)  # lr / 10 at these shares


@dataclass
class ScoreConfig:
    """How a detection is scored."""

    alpha: Probability = 0.35  # weight of the frozen VLM for base classes
    beta: Probability = 0.65  # for novel ones, and for all if the split is not known
    objectness_exp: NonNegative = 3.0
    # times the learned temperature; `make run` and the loaded detector take their export's
    temp_det: Positive = 0.1
    temp_vlm: Positive = 0.01
    vlm: bool = True  # False: the detector alone
    proposals: Literal["auto", "rpn", "grid"] = "auto"  # auto: the RPN if it was trained
    grid_sides: Annotated[list[Share], not_empty] = field(
        default_factory=lambda: [0.2, 0.35, 0.5, 0.75, 1.0]
    )
    nms: Share = 0.5
    rpn_nms: Share = 1.0
    rpn_top: Count = 1000  # proposals of a level
    rpn_keep: Count = 1000  # of an image
    keep: Count = 300  # detections of an image
    threshold: Annotated[float, between(0, 1, "[)")] = 0.0


@dataclass
class EvalConfig(OwnData):
    """What is measured."""

    judges: ClassVar[Mapping[Layout, Judge]] = {Layout.BOXES: Judge()}

    split: Literal["test", "dev"] = "test"
    # what is compared with the class texts; auto: the head if it was trained, else the map
    regions: Literal["auto", "head", "map", "crop", "whole", "centre"] = "auto"
    templates: Literal["plain", "clip"] = "clip"  # plain: the name alone
    batch_size: Count = 64
    limit: Count | None = None  # images
    detections: bool = False  # average precision, besides the recall of boxes; needs the group eval
    masks: bool = (
        False  # average precision of masks too; needs model.masks and polygons in the file
    )
    transfer: bool = True  # scenes of clip art with its own class list
    mechanism: bool = True  # pointing, variance under shifts


@dataclass
class RunConfig:
    """`make run`: what is detected where, and whose locality is reported."""

    model: str | None = None  # folder written by make export
    models: list[str] = field(default_factory=list)  # TASK=locality: folders, side by side
    inputs: list[str] = field(default_factory=list)  # pictures
    names: list[str] = field(default_factory=list)  # class names, free text
    # those of them that were trained with boxes; empty: those that the export names
    base: list[str] = field(default_factory=list)
    threshold: Probability = 0.3
    most: Count = 20  # boxes of a picture
    examples: Count = 6  # TASK=locality: scenes drawn


@dataclass
class Config(ExperimentConfig):
    """Experiment with DITO."""

    data: DitoData = field(default_factory=DitoData)
    model: ModelConfig = field(default_factory=ModelConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    detect: DetectConfig = field(default_factory=DetectConfig)
    score: ScoreConfig = field(default_factory=ScoreConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.data.check()
        stages, source = self.method.stages, self.data.source
        if "detect" in stages and stages.index("detect") != len(stages) - 1:
            raise ValueError("method.stages: detect comes last, and once")
        if "detect" in stages and source in ("csv", "webdataset"):
            raise ValueError("method.stages: detect needs boxes: data.source=coco (or scenes)")
        if "detect" in stages and self.trainer.precision == "bf16-true":
            raise ValueError(
                "trainer.precision=bf16-true: boxes in pixels need float32; take bf16-mixed"
            )
        if source == "coco" and stages != ["detect"]:
            raise ValueError("data.source=coco trains method.stages=[detect]: it has no captions")
        if self.method.image_steps is None and stages[0] == "image" and len(stages) > 1:
            raise ValueError("several stages need method.image_steps, those of the first")
        if "detect" in stages and len(stages) > 1 and self.method.detect_steps is None:
            raise ValueError("several stages need method.detect_steps")
        if self.model.masks and source != "coco":
            raise ValueError("model.masks=true needs data.source=coco: other data has no outlines")
        if self.eval.masks and not (self.model.masks and self.eval.detections):
            raise ValueError("eval.masks=true needs model.masks=true and eval.detections=true")
