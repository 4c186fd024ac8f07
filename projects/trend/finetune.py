"""Detection fine-tuning: the pre-trained encoder under a new detector, a random one next to it."""

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from common.config import UserError
from common.data.module import ContrastiveData
from common.engine.module import ContrastiveModule
from common.engine.sharding import clip_to
from projects.trend.config import Config, Source
from projects.trend.detection_losses import detector_losses
from projects.trend.encoders.detector import Detector
from projects.trend.module import Trend
from projects.trend.networks import TrendNetwork, encoder_options, network_options
from projects.trend.scans.augment import PlanarSimilarity
from projects.trend.scans.boxes import (
    BoxesInGrid,
    DetectionBatch,
    LabelledFrames,
    labelled_frames,
)
from projects.trend.scans.sequences import LidarSet
from projects.trend.sources import LABEL_SEED, open_source, simulated_frames

WITH_BOXES: tuple[Source, ...] = ("simulated", "npz", "nuscenes", "once", "waymo")
LABELLED = {"once": 4_961, "nuscenes": 28_130, "waymo": 158_081}  # frames of the training parts
LOOKED_AT = 200  # labelled frames, until one has a box


class Finetune(ContrastiveModule):
    """Trains one detector from the pre-trained encoder and, as a reference, one from scratch.

    Both have the same design, the same initial neck, backbone and head, the same batches and the
    same number of steps; they share no parameter, and each is clipped by its own gradient norm.
    What is initialised here depends on the seed alone, so that runs of other pre-training start
    from the same detector. The pre-training network stays alongside them, frozen, so that forecasts
    can be evaluated.

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
        self.box_weight = cfg.finetune.box_weight
        with torch.random.fork_rng(devices=[]):  # of all initialisations alike
            torch.manual_seed(LABEL_SEED + cfg.seed)
            scratch = Detector(encoder_options(cfg), cfg.finetune)
        pretrained = copy.deepcopy(scratch)
        transfer_encoder(self.network, pretrained)
        self.detectors = nn.ModuleDict({"pretrained": pretrained})
        if cfg.finetune.scratch:
            self.detectors["scratch"] = scratch

    def losses(self, batch: DetectionBatch) -> dict[str, Tensor]:
        """Sum over the detectors, whose parameters are disjoint."""
        logged: dict[str, Tensor] = {}
        for name, detector in self.detectors.items():
            assert isinstance(detector, Detector)
            terms = detector_losses(
                detector,
                batch["points"],
                batch["owner"],
                batch["boxes"],
                batch["labels"],
                self.box_weight,
            )
            logged |= {f"{name}_{term}": value for term, value in terms.items()}
        total = torch.stack([logged[f"{name}_loss"] for name in self.detectors]).sum()
        return {"loss": total, **logged}

    def compile_encoders(self) -> None:
        """Each detector; the network alongside them is not trained."""
        for detector in self.detectors.values():
            detector.compile()

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """One norm for each detector: no detector's gradient shortens another's step."""
        for detector in self.detectors.values() if gradient_clip_val else ():
            clip_to(detector.parameters(), float(gradient_clip_val or 0))


def last_module(cfg: Config) -> Trend | Finetune:
    """The last stage's module with random weights."""
    return Finetune(cfg) if cfg.finetunes else Trend(cfg)


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


def labelled_source(cfg: Config) -> Source:
    """The set that the detector is trained and evaluated on.

    Raises:
        UserError: no set of the config has boxes, or that of finetune.source.
    """
    source = cfg.finetune.source
    if source is not None and source not in WITH_BOXES:
        raise UserError(f"finetune.source={source} has no boxes: use {', '.join(WITH_BOXES)}")
    if source is not None:
        return source
    for name in cfg.data.sources:
        if name in WITH_BOXES:
            return name
    raise UserError(
        f"no set of data.sources={cfg.data.sources} has boxes: set finetune.source to one of "
        f"{', '.join(WITH_BOXES)}, or finetune.steps=0"
    )


def num_labelled(cfg: Config) -> int:
    """Frames of an epoch of fine-tuning, also of sets not on disk; 0 where that is not known."""
    if cfg.finetune.frames:
        return cfg.finetune.frames
    source = labelled_source(cfg)
    return simulated_frames(cfg) if source == "simulated" else LABELLED.get(source, 0)


def build_finetune_data(cfg: Config) -> ContrastiveData:
    """Training frames of the detector.

    Raises:
        UserError: files are missing, or no frame has a box of the classes.
    """
    tune = cfg.finetune
    data = open_source(cfg, labelled_source(cfg), "labelled", tune.folder)
    chosen, select = labelled_frames(data, tune.frames), BoxesInGrid(cfg.data, tune.classes)
    check_boxes(data, chosen, select)
    frames = LabelledFrames(data, chosen, select, tune, cfg.seed)
    return ContrastiveData(
        frames, batch_size=tune.batch_size, seed=cfg.seed, num_workers=cfg.data.num_workers
    )


def check_boxes(data: LidarSet, frames: Sequence[tuple[int, int]], select: BoxesInGrid) -> None:
    """Refuse frames without anything to detect, which would train a detector that finds nothing.

    Raises:
        UserError: none of the first frames has a box; the message names the classes that are there.
    """
    seen: set[str] = set()
    for place in frames[:LOOKED_AT]:
        try:
            frame = data.frame(*place)
        except (OSError, ValueError):  # counted when it is trained on
            continue
        if len(select(frame, PlanarSimilarity())["boxes"]):
            return
        seen |= set(frame.names)
    raise UserError(
        f"no box of finetune.classes={list(select.classes)} in the grid in"
        f" {min(len(frames), LOOKED_AT)} labelled frames; their classes:"
        f" {', '.join(sorted(seen)) or 'none'}"
    )
