"""Detection fine-tuning: the pre-trained encoder under a new detector, a random one beside it."""

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from common.config import UserError
from common.data.lidar.augment import PlanarSimilarity, draw_similarity
from common.data.lidar.rays import inside
from common.data.lidar.sequences import LidarFrame, LidarSet
from common.data.module import ContrastiveData
from common.data.samplers import Key, sample_rng
from common.encoders.lidar.bev import BevBackbone, BevNeck, CenterHead, Detections, bev_grid
from common.encoders.lidar.transfusion_head import TransFusionHead
from common.encoders.lidar.voxel_backbone import build_voxel_encoder
from common.engine.module import ContrastiveModule
from common.losses.functional.detection import center_losses, query_losses
from projects.trend.config import Config, Source
from projects.trend.networks import TrendNetwork, encoder_options, network_options
from projects.trend.sources import open_source

CODE_WEIGHTS = (1, 1, 1, 1, 1, 1, 1, 1, 0.2, 0.2)  # OpenPCDet
BOX_WEIGHT = 0.25  # of the box term beside the heat map, as OpenPCDet's CenterPoint configs
WITH_BOXES: tuple[Source, ...] = ("simulated", "npz", "nuscenes", "once", "waymo")


class DetectionBatch(TypedDict):
    """B labelled frames: points (N, 3 + d), owner (N,), boxes and labels per frame."""

    points: Tensor
    owner: Tensor
    boxes: list[Tensor]
    labels: list[Tensor]
    ids: Tensor
    skipped: int


class Detector(nn.Module):
    """Encoder, neck, 2-D backbone and head.

    Args:
        cfg: the experiment's config.
    """

    code_weights: Tensor

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        tune = cfg.finetune
        self.max_boxes, self.threshold = tune.max_boxes, tune.score_threshold
        self.encoder = build_voxel_encoder(**encoder_options(cfg))
        depth, rows, columns = self.encoder.volume_shape
        self.neck = BevNeck(self.encoder.channels, depth)
        self.backbone = BevBackbone(self.neck.out_channels, tune.bev_width, tune.bev_layers)
        grid = bev_grid(self.encoder.grid, (rows, columns))
        size = self.backbone.out_channels, tune.head_width, len(tune.classes)
        self.head: Any = (
            CenterHead(*size, grid)
            if tune.detector == "center"
            else TransFusionHead(*size, grid, tune.proposals)
        )
        for layer in (*self.neck.modules(), *self.backbone.modules(), *self.head.modules()):
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.momentum = tune.norm_momentum
        weights = torch.tensor(CODE_WEIGHTS, dtype=torch.float32)
        self.register_buffer("code_weights", weights, persistent=False)

    def forward(self, points: Tensor, owner: Tensor, batch_size: int) -> Any:
        """Points -> the head's predictions."""
        return self.head(self.backbone(self.neck(self.encoder(points, owner, batch_size))))

    def losses(self, batch: DetectionBatch) -> dict[str, Tensor]:
        """Terms of one batch with their sum."""
        out = self(batch["points"], batch["owner"], len(batch["boxes"]))
        boxes, labels, grid = batch["boxes"], batch["labels"], self.head.grid
        if isinstance(self.head, CenterHead):
            terms = center_losses(out[0], out[1], boxes, labels, grid, self.code_weights)
        else:
            terms = query_losses(out, boxes, labels, grid, self.code_weights)
        others = sum(v for k, v in terms.items() if k != "box")
        return {"loss": others + BOX_WEIGHT * terms["box"], **terms}

    def detect(self, points: Tensor, owner: Tensor, batch_size: int) -> list[Detections]:
        """Boxes of each frame."""
        out = self(points, owner, batch_size)
        parts = out if isinstance(self.head, CenterHead) else (out,)
        found: list[Detections] = self.head.decode(
            *parts, max_boxes=self.max_boxes, threshold=self.threshold
        )
        return found


class Finetune(ContrastiveModule):
    """Trains one detector from the pre-trained encoder and, as a reference, one from scratch.

    Both have the same design, the same initial neck, backbone and head, the same batches and the
    same number of steps; they share no parameter. The pre-training network stays beside them,
    frozen, so that forecasts can be evaluated.

    Source: Chen et al. 2025, "TREND", section 4 (fine-tuning protocol), arXiv 2412.03054.

    Args:
        cfg: the experiment's config.
        network: the pre-trained network; None: random weights of the config.

    Distributed: local; gradients are averaged over ranks.
    """

    in_batch_negatives = False

    def __init__(self, cfg: Config, network: TrendNetwork | None = None) -> None:
        optim = dataclasses.replace(
            cfg.optim, lr=cfg.optim.lr * cfg.finetune.lr_scale, warmup_steps=0
        )
        super().__init__(optim)
        self.network = network or TrendNetwork(**network_options(cfg))
        self.network.requires_grad_(False)
        scratch = Detector(cfg)
        pretrained = copy.deepcopy(scratch)
        transfer_encoder(self.network, pretrained)
        self.detectors = nn.ModuleDict({"pretrained": pretrained})
        if cfg.finetune.scratch:
            self.detectors["scratch"] = scratch

    def losses(self, batch: DetectionBatch) -> dict[str, Tensor]:
        """Sum over the detectors, whose parameters are disjoint."""
        logged: dict[str, Tensor] = {}
        for name, detector in self.detectors.items():
            terms: dict[str, Tensor] = detector.losses(batch)  # type: ignore[operator]
            logged |= {f"{name}_{term}": value for term, value in terms.items()}
        total = torch.stack([logged[f"{name}_loss"] for name in self.detectors]).sum()
        return {"loss": total, **logged}


def transfer_encoder(network: TrendNetwork, detector: Detector) -> list[str]:
    """Copy the encoder, and nothing else, into a detector.

    Returns:
        Names of the copied tensors.

    Raises:
        UserError: the encoders differ; the message lists the keys.
    """
    source, target = network.encoder.state_dict(), detector.encoder.state_dict()
    missing, unexpected = (
        sorted(target.keys() - source.keys()),
        sorted(source.keys() - target.keys()),
    )
    shapes = [k for k in source.keys() & target.keys() if source[k].shape != target[k].shape]
    if missing or unexpected or shapes:
        raise UserError(
            f"the pre-trained encoder does not fit the detector's: missing {missing}, unexpected "
            f"{unexpected}, of another shape {sorted(shapes)}. Use equal model and data sections."
        )
    detector.encoder.load_state_dict(source)
    return sorted(source)


class LabelledFrames(Dataset[DetectionBatch]):
    """Frames with boxes of the wanted classes.

    Args:
        data: the set.
        frames: (sequence, index) of the frames.
        cfg: grid, classes and augmentation.
    """

    def __init__(self, data: LidarSet, frames: Sequence[tuple[int, int]], cfg: Config) -> None:
        self.data, self.frames, self.cfg = data, list(frames), cfg

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, keys: list[Key]) -> DetectionBatch:
        tune = self.cfg.finetune
        samples = []
        for index, epoch in keys:
            rng = sample_rng(self.cfg.seed, epoch, index, stream=1)
            change = draw_similarity(
                rng, rotation=tune.rotation, scale=tune.scale,
                flip_x_prob=tune.flip_x_prob, flip_y_prob=tune.flip_y_prob,
            )  # fmt: skip
            samples.append(detection_sample(self.data.frame(*self.frames[index]), change, self.cfg))
        return collate_frames(samples, [index for index, _ in keys])


def detection_sample(frame: LidarFrame, change: PlanarSimilarity, cfg: Config) -> dict[str, Any]:
    """Points and boxes inside the grid; boxes without a point and of other classes are out."""
    low, high = np.array(cfg.data.low), np.array(cfg.data.high)
    points = change.points(frame.points[:, : 3 + cfg.data.num_features])
    boxes = change.boxes(frame.boxes)
    known = {name: i for i, name in enumerate(cfg.finetune.classes)}
    labels = np.array([known.get(name, -1) for name in frame.names], dtype=np.int64)
    kept = (labels >= 0) & (frame.num_points != 0) & inside(boxes, low, high)
    return {
        "points": points[inside(points, low, high)],
        "boxes": boxes[kept],
        "labels": labels[kept],
    }


def collate_frames(samples: Sequence[dict[str, Any]], ids: Sequence[int]) -> DetectionBatch:
    """Stack frames; points stay ragged with the number of their frame."""
    counts = torch.tensor([len(s["points"]) for s in samples])
    return {
        "points": torch.from_numpy(np.concatenate([s["points"] for s in samples])).float(),
        "owner": torch.repeat_interleave(torch.arange(len(samples)), counts),
        "boxes": [torch.from_numpy(s["boxes"]).float() for s in samples],
        "labels": [torch.from_numpy(s["labels"]) for s in samples],
        "ids": torch.tensor(ids),
        "skipped": 0,
    }


def labelled_source(cfg: Config) -> Source:
    """The set that the detector is trained and evaluated on.

    Raises:
        UserError: no set of the config has boxes.
    """
    if cfg.finetune.source is not None:
        return cfg.finetune.source
    for name in cfg.data.sources:
        if name in WITH_BOXES:
            return name
    raise UserError(
        f"no set of data.sources={cfg.data.sources} has boxes: set finetune.source to one of "
        f"{', '.join(WITH_BOXES)}, or finetune.steps=0"
    )


def labelled_frames(data: LidarSet, count: int) -> list[tuple[int, int]]:
    """`count` evenly spaced frames with boxes; 0 takes all of them."""
    every = [
        (sequence, index)
        for sequence, length in enumerate(data.lengths)
        for index in (data.labelled(sequence) if hasattr(data, "labelled") else range(length))
    ]
    if count == 0 or count >= len(every):
        return every
    return [every[i * len(every) // count] for i in range(count)]


def build_finetune_data(cfg: Config) -> ContrastiveData:
    """Training frames of the detector."""
    data = open_source(cfg, labelled_source(cfg), "labelled", cfg.finetune.folder)
    frames = LabelledFrames(data, labelled_frames(data, cfg.finetune.frames), cfg)
    return ContrastiveData(
        frames, batch_size=cfg.finetune.batch_size, seed=cfg.seed, num_workers=cfg.data.num_workers
    )
