"""Options of LiDAR data, for config schemas; nothing here imports torch."""

from dataclasses import dataclass
from typing import Annotated, Literal

from common.config import DataConfig
from common.ranges import Count, Degrees, Positive, Probability, Rate, Real, ascending


@dataclass
class PlanarAugment:
    """Random similarity of the ground plane, see `projects.trend.scans.augment.draw_similarity`."""

    rotation: Degrees = 0.0  # largest angle in degrees, both ways
    scale: Annotated[tuple[Positive, Positive], ascending] = (1.0, 1.0)
    flip_x_prob: Probability = 0.0  # forwards and backwards
    flip_y_prob: Probability = 0.0  # left and right


@dataclass
class LidarData(DataConfig, PlanarAugment):
    """Grid that scans are put into, their augmentation, and which returns become rays."""

    low: tuple[Real, Real, Real] = (-25.6, -25.6, -2.4)  # grid in the sensor's frame, metres
    high: tuple[Real, Real, Real] = (25.6, 25.6, 4.0)
    voxel: tuple[Positive, Positive, Positive] = (0.8, 0.8, 0.8)
    num_features: Count = 1  # columns of a point beyond xyz
    sensor_height: Real = 1.8  # metres above the ground
    ground_threshold: Real = 0.3  # z_thd: lower returns are no rays; negative: all are
    sampling: Literal["uniform", "spread"] = "uniform"
    rays: Count = 512  # N_render per rendered frame
    mask_rate: Rate = 0.5  # share of the occupied blocks that the encoder does not see
    mask_block: Count = 8  # voxels

    def __post_init__(self) -> None:
        if not all(high > low for low, high in zip(self.low, self.high, strict=True)):
            raise ValueError("data.low must be below data.high")
