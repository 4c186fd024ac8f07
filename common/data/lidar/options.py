"""Options of LiDAR data, for config schemas; nothing here imports torch."""

from dataclasses import dataclass
from typing import Literal

from common.config import DataConfig


@dataclass
class PlanarAugment:
    """Random similarity of the ground plane, see `common.data.lidar.augment.draw_similarity`."""

    rotation: float = 0.0  # largest angle in degrees, both ways
    scale: tuple[float, float] = (1.0, 1.0)
    flip_x_prob: float = 0.0  # forwards and backwards
    flip_y_prob: float = 0.0  # left and right


@dataclass
class LidarData(DataConfig, PlanarAugment):
    """Grid that scans are put into, their augmentation, and which returns become rays."""

    low: tuple[float, float, float] = (-25.6, -25.6, -2.4)  # grid in the sensor's frame, metres
    high: tuple[float, float, float] = (25.6, 25.6, 4.0)
    voxel: tuple[float, float, float] = (0.8, 0.8, 0.8)
    num_features: int = 1  # columns of a point beyond xyz
    sensor_height: float = 1.8  # metres above the ground
    ground_threshold: float = 0.3  # z_thd: lower returns are no rays; negative: all are
    sampling: Literal["uniform", "spread"] = "uniform"
    rays: int = 512  # N_render per rendered frame
    mask_rate: float = 0.5  # share of the occupied blocks that the encoder does not see
    mask_block: int = 8  # voxels

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.mask_rate < 1 or self.mask_block < 1:
            raise ValueError("data.mask_rate must be in [0, 1) and data.mask_block >= 1")
        if min(self.rays, self.num_features) < 1:
            raise ValueError("data.rays and data.num_features must be >= 1")
        if not all(
            h > low and v > 0 for low, h, v in zip(self.low, self.high, self.voxel, strict=True)
        ):
            raise ValueError("data.low must be below data.high, and data.voxel > 0")
