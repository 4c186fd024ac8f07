"""Temporal LiDAR neural field: signed distance and intensity at a place and a time."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from projects.trend.encoders.sinusoidal import sinusoidal
from projects.trend.encoders.trilinear import trilinear
from projects.trend.encoders.voxels import VoxelGrid


class FieldValues(NamedTuple):
    """Values at points.

    Attributes:
        sdf: (B, P) signed distance in scaled units.
        geometry: (B, P, G) f_geo.
    """

    sdf: Tensor
    geometry: Tensor


class TemporalLidarField(nn.Module):
    """s(p, t) and intensity from a feature volume.

    f_geo = MLP_geo([p, SE(t), f_p]); s = MLP_SDF(f_geo); I = f_int([f_dir(d), f_geo, f_p]).

    The first layer of MLP_geo is applied to p, SE(t) and f_p apart, and to f_p and SE(t) on the
    volume before it is interpolated: all are linear and the weights of an interpolation sum to 1,
    so the result is the same, and the volume has far fewer cells than rays have samples. Where the
    signed distance alone is wanted, the last layer of MLP_geo and MLP_SDF, both linear, are one.

    Source: Chen et al. 2025, "TREND", section 3.3, arXiv 2412.03054.

    Attributes:
        centre: (3,) of the box in metres.
        half_size: (3,) half its edges.

    Args:
        grid: box of the volume.
        channels: d-hat.
        hidden_dim: of the MLPs.
        geometry_dim: d_geo.
        direction_dim: of f_dir.
        time_dim: d_sin.
        time_encoding: False leaves SE(t) out.
        activation: softplus (beta 100) or relu in MLP_geo.
        sharpness_init: v of z = exp(10 v).
    """

    centre: Tensor
    half_size: Tensor

    def __init__(
        self,
        grid: VoxelGrid,
        channels: int,
        *,
        hidden_dim: int = 64,
        geometry_dim: int = 16,
        direction_dim: int = 16,
        time_dim: int = 32,
        time_encoding: bool = True,
        activation: str = "softplus",
        sharpness_init: float = 0.3,
    ) -> None:
        super().__init__()
        self.scale, self.time_dim, self.time_encoding = grid.scale, time_dim, time_encoding
        low, high = torch.tensor(grid.low), torch.tensor(grid.high)
        self.register_buffer("centre", (low + high) / 2, persistent=False)
        self.register_buffer("half_size", (high - low) / 2, persistent=False)

        def act() -> nn.Module:
            return nn.Softplus(beta=100) if activation == "softplus" else nn.ReLU(inplace=True)

        self.of_position = nn.Linear(3, hidden_dim)
        self.of_time = nn.Linear(time_dim, hidden_dim, bias=False) if time_encoding else None
        self.of_feature = nn.Linear(channels, hidden_dim, bias=False)
        self.geometry = nn.Sequential(
            act(), nn.Linear(hidden_dim, hidden_dim), act(), nn.Linear(hidden_dim, geometry_dim)
        )
        self.sdf = nn.Linear(geometry_dim, 1)
        nn.init.constant_(self.sdf.bias, 0.1)  # an empty start
        self.direction = nn.Sequential(nn.Linear(3, direction_dim), nn.ReLU())
        self.intensity = nn.Sequential(
            nn.Linear(direction_dim + geometry_dim + channels, hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, 1),
        )
        self.log_sharpness = nn.Parameter(torch.tensor(float(sharpness_init)))

    @property
    def sharpness(self) -> Tensor:
        """Z = exp(10 v), clipped to [1e-6, 1e6], per scaled unit."""
        return (10 * self.log_sharpness).exp().clamp(1e-6, 1e6)

    def project(self, volume: Tensor, time: Tensor) -> Tensor:
        """The part of MLP_geo's first layer that reads f_p and f_t, (B, hidden, D, H, W).

        Args:
            volume: (B, C, D, H, W) in the frame of t_0.
            time: (B,) seconds after t_0.
        """
        moved: Tensor = self.of_feature(volume.movedim(1, -1))
        constant = self.of_position.bias.expand(len(time), -1)
        if self.of_time is not None:
            constant = constant + self.of_time(sinusoidal(time, self.time_dim).to(moved))
        return (moved + constant[:, None, None, None]).movedim(-1, 1)

    def place(self, points: Tensor) -> Tensor:
        """Metres to the [-1, 1]^3 of the volume."""
        return (points - self.centre) / self.half_size

    def _hidden(self, projected: Tensor, points: Tensor) -> Tensor:
        """Input of the last layer of MLP_geo (B, P, hidden)."""
        feature = trilinear(projected, self.place(points))
        place = points / self.scale
        first = torch.addmm(
            feature.flatten(0, 1), place.flatten(0, 1), self.of_position.weight.T
        ).view_as(feature)
        hidden: Tensor = self.geometry[:-1](first)
        return hidden

    def sdf_at(self, projected: Tensor, points: Tensor) -> Tensor:
        """Signed distance (B, P) at points (B, P, 3), as `geometry_at` gives it."""
        last = self.geometry[-1]
        assert isinstance(last, nn.Linear)
        weight = self.sdf.weight @ last.weight
        bias = self.sdf.weight @ last.bias + self.sdf.bias
        return linear(self._hidden(projected, points), weight, bias)[..., 0]

    def geometry_at(self, projected: Tensor, points: Tensor) -> FieldValues:
        """Signed distance and f_geo at points.

        Args:
            projected: `project(volume, time)`.
            points: (B, P, 3) metres in the frame of t_0.
        """
        geometry = self.geometry[-1](self._hidden(projected, points))
        return FieldValues(self.sdf(geometry)[..., 0], geometry)

    def intensity_at(
        self, volume: Tensor, points: Tensor, directions: Tensor, geometry: Tensor
    ) -> Tensor:
        """One intensity per ray (B, R) at its surface point.

        Args:
            volume: (B, C, D, H, W).
            points: (B, R, 3) surface points.
            directions: (B, R, 3) unit directions.
            geometry: (B, R, G) f_geo there.
        """
        feature = trilinear(volume, self.place(points))
        code = torch.cat([self.direction(directions), geometry, feature], dim=-1)
        value: Tensor = self.intensity(code)[..., 0]
        return value
