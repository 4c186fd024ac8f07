"""Options of LiDAR networks, for config schemas; nothing here imports torch."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass
class DetectorOptions:
    """2-D backbone and head over a feature volume, see `common.encoders.lidar.detector`."""

    detector: Literal["center", "transfusion"] = "center"
    classes: list[str] = field(default_factory=lambda: ["car", "cyclist", "pedestrian"])
    bev_width: int = 32
    bev_layers: int = 2
    head_width: int = 32
    norm_momentum: float = 0.01  # of the batch norms behind the encoder; more for short runs
    proposals: int = 40  # transfusion: queries
    score_threshold: float = 0.1
    max_boxes: int = 60
    box_weight: float = 0.25  # of the box term beside the heat map

    def __post_init__(self) -> None:
        if len(set(self.classes)) != len(self.classes) or not self.classes:
            raise ValueError("finetune.classes: at least one, and no name twice")
        if self.box_weight < 0:
            raise ValueError("finetune.box_weight must be >= 0")
