"""One random similarity of the ground plane for points, poses, actions and boxes of a sequence."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from projects.trend.scans.options import PlanarAugment

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class PlanarSimilarity:
    """p -> scale * R(angle) * F p with optional mirroring, applied to every sensor's axes alike.

    The augmented drive has the poses ``M T M^-1``: a rotation turns the translation of an action, a
    mirroring changes the sign of its lateral part and of the yaw, a scaling stretches it.

    Attributes:
        angle: radians about z.
        scale: > 0.
        flip_x: mirror x.
        flip_y: mirror y.
    """

    angle: float = 0.0
    scale: float = 1.0
    flip_x: bool = False
    flip_y: bool = False

    @property
    def matrix(self) -> Floats:
        """(3, 3) linear map."""
        c, s = np.cos(self.angle), np.sin(self.angle)
        turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
        mirror = np.diag([-1.0 if self.flip_x else 1.0, -1.0 if self.flip_y else 1.0, 1.0])
        matrix: Floats = self.scale * turn @ mirror
        return matrix

    @property
    def mirrored(self) -> bool:
        """Whether the map changes handedness."""
        return self.flip_x != self.flip_y

    def points(self, points: Floats) -> Floats:
        """(N, 3 + d) points or directions of any of the frames; further columns stay."""
        moved = (points[:, :3] @ self.matrix.T).astype(points.dtype)
        return np.concatenate([moved, points[:, 3:]], axis=1)

    def pose(self, pose: Floats) -> Floats:
        """Pose of one sensor position in the frame of another, after the change of both."""
        out: Floats = np.array(pose, dtype=np.float64)
        linear = self.matrix / self.scale
        out[:3, :3] = linear @ pose[:3, :3] @ linear.T
        out[:3, 3] = self.matrix @ pose[:3, 3]
        return out

    def actions(self, actions: Floats) -> Floats:
        """(L, 3) actions dx, dy, dyaw."""
        shift = actions[:, :2] @ self.matrix[:2, :2].T
        sign = -1.0 if self.mirrored else 1.0
        changed: Floats = np.c_[shift, sign * actions[:, 2]]
        return changed

    def boxes(self, boxes: Floats) -> Floats:
        """(K, 9) boxes x, y, z, l, w, h, yaw, vx, vy."""
        yaw = boxes[:, 6]
        heading = np.stack([np.cos(yaw), np.sin(yaw)], axis=1) @ self.matrix[:2, :2].T
        out = boxes.copy()
        out[:, :3] = boxes[:, :3] @ self.matrix.T
        out[:, 3:6] = boxes[:, 3:6] * self.scale
        out[:, 6] = np.arctan2(heading[:, 1], heading[:, 0])
        out[:, 7:9] = boxes[:, 7:9] @ self.matrix[:2, :2].T
        return out


def draw_similarity(rng: np.random.Generator, options: PlanarAugment) -> PlanarSimilarity:
    """Random augmentation.

    Args:
        rng: generator of this access.
        options: bounds of angle and factor, probabilities of mirroring.
    """
    return PlanarSimilarity(
        float(np.deg2rad(rng.uniform(-options.rotation, options.rotation))),
        float(rng.uniform(*options.scale)),
        bool(rng.uniform() < options.flip_x_prob),
        bool(rng.uniform() < options.flip_y_prob),
    )
