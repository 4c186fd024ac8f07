"""Rigid transforms of moving sensors: 4x4 poses, planar ego actions, quaternions."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def transform(pose: ArrayLike, points: ArrayLike) -> NDArray[np.floating]:
    """Points in the frame that the pose maps to; further columns are kept.

    Args:
        pose: (4, 4), maps the points' frame to the wanted one.
        points: (N, 3 + d).

    Returns:
        (N, 3 + d) of the points' dtype.
    """
    pose, points = np.asarray(pose, dtype=np.float64), np.asarray(points)
    moved = points[:, :3] @ pose[:3, :3].T + pose[:3, 3]
    return np.concatenate([moved.astype(points.dtype), points[:, 3:]], axis=1)


def inverse(pose: ArrayLike) -> Array:
    """Inverse of a rigid 4x4 pose.

    >>> float(inverse(planar_pose(1.0, 0.0, 0.0))[0, 3])
    -1.0
    """
    pose = np.asarray(pose, dtype=np.float64)
    out = np.eye(4)
    out[:3, :3] = pose[:3, :3].T
    out[:3, 3] = -pose[:3, :3].T @ pose[:3, 3]
    return out


def relative(first: ArrayLike, second: ArrayLike) -> Array:
    """Pose of the second sensor position in the frame of the first: first^-1 second."""
    moved: Array = inverse(first) @ np.asarray(second, dtype=np.float64)
    return moved


def planar_pose(x: float, y: float, yaw: float, z: float = 0.0) -> Array:
    """Pose of a translation in metres and a rotation about z in radians."""
    pose = np.eye(4)
    pose[:2, :2] = [[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]]
    pose[:3, 3] = x, y, z
    return pose


def yaw_of(pose: ArrayLike) -> float:
    """Rotation about z of a pose in (-pi, pi]."""
    pose = np.asarray(pose)
    return float(np.arctan2(pose[1, 0], pose[0, 0]))


def planar_action(first: ArrayLike, second: ArrayLike) -> Array:
    """Ego action (dx, dy, dyaw) between two poses, in the frame of the first.

    Args:
        first: (4, 4) sensor to world at t_n.
        second: (4, 4) sensor to world at t_{n+1}.

    Returns:
        (3,) metres, metres, radians.

    >>> planar_action(planar_pose(1, 0, np.pi / 2), planar_pose(1, 2, np.pi / 2)).round(9).tolist()
    [2.0, 0.0, 0.0]
    """
    step = relative(first, second)
    return np.array([step[0, 3], step[1, 3], yaw_of(step)])


def quaternion_rotation(wxyz: ArrayLike) -> Array:
    """Rotation matrix (3, 3) of a quaternion with the scalar first; it is normalised before."""
    w, x, y, z = np.asarray(wxyz, dtype=np.float64) / np.linalg.norm(wxyz)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def quaternion_pose(translation: ArrayLike, wxyz: ArrayLike) -> Array:
    """Pose (4, 4) of a translation in metres and a quaternion with the scalar first."""
    pose = np.eye(4)
    pose[:3, :3] = quaternion_rotation(wxyz)
    pose[:3, 3] = translation
    return pose


def euler_rotation(roll: float, pitch: float, yaw: float) -> Array:
    """Rz(yaw) Ry(pitch) Rx(roll), angles in radians."""
    cx, sx, cy, sy = np.cos(roll), np.sin(roll), np.cos(pitch), np.sin(pitch)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    rotation: Array = planar_pose(0, 0, yaw)[:3, :3] @ about_y @ about_x
    return rotation
