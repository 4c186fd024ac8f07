"""What can be set in a TREND experiment."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from common.config import ExperimentConfig
from common.data.layouts import Layout
from common.evaluation.own_data import OWN, Judge, OwnData
from projects.trend.encoders.options import DetectorOptions
from projects.trend.scans.options import LidarData, PlanarAugment

from common.ranges import (  # isort: skip
    Count,
    Counts,
    Inner,
    NonNegative,
    Positive,
    Real,
    Whole,
    at_least,
    not_empty,
)

Source = Literal[
    "simulated", "kitti_clip", "npz", "kitti", "semantic_kitti", "nuscenes", "once", "waymo"
]


@dataclass
class TrendData(LidarData):
    """Sequences of scans."""

    # simulated: own ray caster; kitti_clip: the bundled drive; the others in their official layouts
    sources: list[Source] = field(default_factory=lambda: ["simulated"])
    folder: str | None = None  # below data.root; None: the usual name of the source
    train_sequences: Count = 200  # simulated
    test_sequences: Count = 40  # simulated
    beams: Count = 16  # simulated
    columns: Count = 180  # simulated
    stride: Count = 1  # frames between two used ones; bundled drive: 5 (0.5 s)
    # frames that must follow a training scan; None: the longest horizon. Arms of other horizons
    # train on the same scans, in the same proportions of the sets, when it is given
    frames_ahead: Whole | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.sources:
            raise ValueError("data.sources names no set")


@dataclass
class ModelConfig:
    """Encoder, recurrent embedding and temporal LiDAR neural field."""

    encoder: Literal["dense", "voxel_res_8x"] = "dense"
    widths: Counts = field(default_factory=lambda: [16, 32, 32])  # last: d-hat
    strides: list[list[Count]] = field(
        default_factory=lambda: [[1, 1, 1], [2, 2, 2], [2, 2, 2]]
    )  # of dense, along z, y, x
    norm: Literal["batch", "group"] = "group"  # of dense layers and of the recurrent embedding
    backend: Literal["auto", "torch", "spconv"] = "auto"  # of voxel_res_8x
    time_dim: Count = 32  # d_sin, of translations and of times
    action_dim: Count = 16  # d_act
    action_hidden: Count = 32
    recurrent_residual: bool = False
    geometry_dim: Count = 16  # d_geo
    hidden_dim: Count = 64  # of the field's MLPs
    direction_dim: Count = 16
    activation: Literal["softplus", "relu"] = "softplus"  # of MLP_geo
    sharpness_init: Real = 0.3  # v of z = exp(10 v)

    def __post_init__(self) -> None:
        if self.time_dim % 4:
            raise ValueError("model.time_dim must be a multiple of 4 (two sinusoidal scalars)")


@dataclass
class MethodConfig:
    """Objective, curriculum and rendering."""

    # horizons: future frames of each stage; epochs: their lengths (N_curri). A horizon of 0 is
    # reconstruction of the current frame (T = 0)
    horizons: Annotated[list[Whole], not_empty] = field(default_factory=lambda: [1, 4])
    epochs: list[Positive] = field(default_factory=lambda: [12, 36])
    steps: list[Count] | None = None  # optimiser steps of the stages in place of epochs
    time_encoding: bool = True  # False: a field without f_t ("recurrent only")
    actions: Literal["true", "zero", "shuffled"] = "true"
    decay: Inner = 0.5  # p(m) ~ decay^m
    samples: Annotated[int, at_least(2)] = 48  # N_ray
    importance_samples: Whole = 0  # added where a first pass puts the weights
    jitter: bool = True  # stratified samples in training
    alpha_mode: Literal["consecutive", "midpoint"] = "consecutive"
    nearest: Positive = 1.0  # metres to the first sample
    intensity_at: Literal["observed", "rendered"] = "observed"
    range_weight: NonNegative = 1.0
    intensity_weight: NonNegative = 1.0
    surface_weight: NonNegative = 1.0
    range_unit: Literal["metres", "scaled"] = "metres"
    ray_chunk: Count | None = None  # rays rendered at once, recomputed in the backward pass
    sharpness_lr_scale: NonNegative = 0.1  # learning rate of z

    def __post_init__(self) -> None:
        if sorted(set(self.horizons)) != self.horizons:
            raise ValueError("method.horizons must grow from stage to stage (curriculum)")
        lengths = self.epochs if self.steps is None else self.steps
        if len(lengths) != len(self.horizons):
            raise ValueError("method: one length (epochs or steps) for each horizon")


@dataclass
class FinetuneConfig(DetectorOptions, PlanarAugment):
    """Detection fine-tuning after pre-training; the encoder is all that is transferred."""

    steps: Whole = 0  # optimiser steps; 0: none
    epochs: Positive | None = None  # in place of steps
    source: Source | None = None  # None: the first of data.sources that has boxes
    folder: str | None = None
    frames: Whole = 30  # labelled frames, evenly spaced; 0: all
    scratch: bool = True  # train the same detector from random weights alongside it
    batch_size: Count = 4  # per device
    lr_scale: Positive = 1.0  # of optim.lr
    # in place of pre-training: the folder of an exported backbone, or random (scratch); batch_size
    # and length of this section then stand for data.batch_size and trainer.max_*
    encoder_weights: str | None = None


@dataclass
class EvalConfig(OwnData):
    """Forecast errors and probes."""

    judges: ClassVar[Mapping[Layout, Judge]] = {
        layout: Judge(
            {
                "data.sources": [source],
                "data.folder": OWN,
                "eval.split": "test",
                "eval.max_windows": 0,
                "eval.segmentation_frames": 0,
            },
            baselines=True,
        )
        for layout, source in ((Layout.DRIVES, "kitti"), (Layout.SCANS, "npz"))
    }

    split: Literal["test", "dev"] = "test"
    horizon: Count = 3  # future frames
    rays: Count = 400  # of a frame: half on moving objects where there are enough
    ground_threshold: Real = 0.3  # as data.ground_threshold, of the rays that are judged
    clip_rays: Count = 400
    clip_step: Count = 2  # frames between the starts on the bundled drive
    max_windows: Whole = 200  # of a set, evenly spaced; 0: all
    batch_size: Count = 8  # sequences per forward pass
    untrained: bool = True  # the same errors of the network before training
    segmentation_frames: Whole = 0  # frames of the linear probe of points; 0: none
    figures: bool = True  # rendered scans, boxes, maps


@dataclass
class Config(ExperimentConfig):
    """TREND experiment."""

    data: TrendData = field(default_factory=TrendData)
    model: ModelConfig = field(default_factory=ModelConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.model.strides) != len(self.model.widths) and self.model.encoder == "dense":
            raise ValueError("model.widths and model.strides: one stride for each layer")
        if self.model.encoder == "voxel_res_8x" and len(self.model.widths) != 4:
            raise ValueError("model.encoder=voxel_res_8x has four widths")
        if self.finetune.encoder_weights is not None and not self.finetunes:
            raise ValueError("finetune.encoder_weights needs finetune.steps or finetune.epochs")
        if self.frames_ahead < max(self.method.horizons):
            raise ValueError("data.frames_ahead must reach as far as method.horizons")
        if self.method.actions == "shuffled" and self.data.batch_size < 2:
            raise ValueError("method.actions=shuffled needs data.batch_size >= 2")
        if self.finetune.encoder_weights is not None:  # no other stage; `make check` reads these
            self.data.batch_size = self.finetune.batch_size
            self.trainer.max_epochs = self.finetune.epochs
            self.trainer.max_steps = None if self.finetune.epochs else self.finetune.steps

    @property
    def frames_ahead(self) -> int:
        """Frames after the current one that every training window has."""
        frames = self.data.frames_ahead
        return max(self.method.horizons) if frames is None else frames

    @property
    def finetunes(self) -> bool:
        """Whether a detector is trained."""
        return self.finetune.steps > 0 or self.finetune.epochs is not None
