"""Options of LiDAR networks, for config schemas; nothing here imports torch."""

from dataclasses import dataclass, field
from typing import Literal

from common.ranges import Count, NonNegative, Probability, Share, Whole


@dataclass
class DetectorOptions:
    """2-D backbone and head over a feature volume, see `projects.trend.encoders.detector`."""

    detector: Literal["center", "transfusion"] = "center"
    classes: list[str] = field(default_factory=lambda: ["car", "cyclist", "pedestrian"])
    bev_width: Count = 32
    bev_layers: Whole = 2
    head_width: Count = 32  # transfusion: a multiple of its eight attention heads
    norm_momentum: Share = 0.01  # of the batch norms behind the encoder; more for short runs
    proposals: Count = 40  # transfusion: queries
    crowded: list[str] = field(default_factory=list)  # transfusion: classes with neighbouring peaks
    score_threshold: Probability = 0.1
    max_boxes: Count = 60
    box_weight: NonNegative = 0.25  # of the box term alongside the heat map

    def __post_init__(self) -> None:
        if len(set(self.classes)) != len(self.classes) or not self.classes:
            raise ValueError("finetune.classes: at least one, and no name twice")
        if self.crowded and self.detector != "transfusion":
            raise ValueError(
                "finetune.crowded needs finetune.detector=transfusion: the other has no queries"
            )
        if self.detector == "transfusion" and self.head_width % 8:
            raise ValueError(
                f"finetune.head_width={self.head_width}: finetune.detector=transfusion needs a"
                " multiple of 8"
            )
        if unknown := set(self.crowded) - set(self.classes):
            raise ValueError(f"finetune.crowded: not among finetune.classes: {sorted(unknown)}")
