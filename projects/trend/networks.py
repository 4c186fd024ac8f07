"""The pre-training network: encoder, recurrent embedding, field, and rays through it."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from projects.trend.config import Config
from projects.trend.encoders.neus import AlphaMode, box_span, importance, render_sdf, stratified
from projects.trend.encoders.voxel_backbone import build_voxel_encoder
from projects.trend.field import TemporalLidarField
from projects.trend.recurrent import RecurrentEmbedding


class Rays(NamedTuple):
    """Rays of one frame of each sample, in the frame of t_0.

    Attributes:
        origins: (B, 3) metres.
        directions: (B, R, 3) unit vectors.
        time: (B,) seconds after t_0.
        ranges: (B, R) observed ranges in metres; None when unknown.
    """

    origins: Tensor
    directions: Tensor
    time: Tensor
    ranges: Tensor | None = None


class Scan(NamedTuple):
    """What is rendered, (B, R) each.

    Attributes:
        ranges: metres.
        intensity: at the observed, else at the rendered point.
        opacity: sum of the weights.
        surface: signed distance at the observed point in scaled units; 0 where there is none.
    """

    ranges: Tensor
    intensity: Tensor
    opacity: Tensor
    surface: Tensor


class TrendNetwork(nn.Module):
    """Forecasts LiDAR scans from one scan and the ego actions.

    Source: Chen et al. 2025, "TREND: unsupervised 3D representation learning via temporal
    forecasting for LiDAR perception", section 3, arXiv 2412.03054.

    Args:
        encoder: options of `build_voxel_encoder`.
        time_dim: d_sin.
        action_dim: d_act.
        action_hidden: of the action MLP.
        norm: of the recurrent embedding.
        residual: of the recurrent embedding.
        geometry_dim: d_geo.
        hidden_dim: of the field.
        direction_dim: of the intensity head.
        activation: of MLP_geo.
        sharpness_init: v.
        time_encoding: whether the field knows the time.
        samples: N_ray.
        importance_samples: added samples.
        alpha_mode: see `render_sdf`.
        nearest: metres to the first sample.
        intensity_at: observed or rendered.
        forecasts: False: never trained to forecast (T = 0), so the present volume is held still.
    """

    def __init__(
        self,
        encoder: dict[str, Any],
        *,
        time_dim: int = 32,
        action_dim: int = 16,
        action_hidden: int = 32,
        norm: Any = "group",
        residual: bool = False,
        geometry_dim: int = 16,
        hidden_dim: int = 64,
        direction_dim: int = 16,
        activation: str = "softplus",
        sharpness_init: float = 0.3,
        time_encoding: bool = True,
        samples: int = 48,
        importance_samples: int = 0,
        alpha_mode: AlphaMode = "consecutive",
        nearest: float = 1.0,
        intensity_at: str = "observed",
        forecasts: bool = True,
    ) -> None:
        super().__init__()
        self.encoder = build_voxel_encoder(**encoder)
        self.recurrent = RecurrentEmbedding(
            self.encoder.channels,
            time_dim=time_dim,
            hidden_dim=action_hidden,
            action_dim=action_dim,
            norm=norm,
            residual=residual,
        )
        self.field = TemporalLidarField(
            self.encoder.grid,
            self.encoder.channels,
            hidden_dim=hidden_dim,
            geometry_dim=geometry_dim,
            direction_dim=direction_dim,
            time_dim=time_dim,
            time_encoding=time_encoding,
            activation=activation,
            sharpness_init=sharpness_init,
        )
        self.samples, self.importance_samples = samples, importance_samples
        self.alpha_mode, self.nearest, self.intensity_at = alpha_mode, nearest, intensity_at
        self.forecasts = forecasts

    def encode(self, points: Tensor, owner: Tensor, batch_size: int) -> Tensor:
        """The volume at t_0 (B, C, D, H, W) of points (N, 3 + d); `owner` (N,) is their sample."""
        volume: Tensor = self.encoder(points, owner, batch_size)
        return volume

    def distances(self, rays: Rays, projected: Tensor, *, jitter: bool) -> Tensor:
        """Distances (B, R, S) of the samples, from `nearest` to the exit of the grid."""
        grid = self.encoder.grid
        low, high = rays.origins.new_tensor(grid.low), rays.origins.new_tensor(grid.high)
        origins = rays.origins[:, None].expand_as(rays.directions)
        near, far = box_span(origins, rays.directions, low, high, self.nearest)
        distances = stratified(near, far, self.samples, jitter=jitter)
        if self.importance_samples:
            with torch.no_grad():
                coarse = self._sdf(projected, rays, distances)
                z = self.field.sharpness
                weights = render_sdf(coarse, distances / self.field.scale, z).weights
            distances = importance(distances, weights, self.importance_samples)
        return distances

    def _sdf(self, projected: Tensor, rays: Rays, distances: Tensor) -> Tensor:
        points = rays.origins[:, None, None] + distances[..., None] * rays.directions[:, :, None]
        return self.field.sdf_at(projected, points.flatten(1, 2)).view(distances.shape)

    def render(
        self, volume: Tensor, rays: Rays, *, jitter: bool = False, chunk: int | None = None
    ) -> Scan:
        """Render rays through volumes.

        Args:
            volume: (B, C, D, H, W) of the rays' frames.
            rays: of the same B frames.
            jitter: stratified instead of evenly spaced samples.
            chunk: rays rendered at once; in the backward pass each chunk is computed again.
        """
        with _full_precision(volume.device.type):
            volume = volume.to(self.field.of_position.weight.dtype)
            projected = self.field.project(volume, rays.time)
            distances = self.distances(rays, projected, jitter=jitter)
            count = rays.directions.shape[1]
            if chunk is None or chunk >= count:
                return self._render(volume, projected, rays, distances)
            parts = []
            for start in range(0, count, chunk):
                rows = slice(start, start + chunk)
                ranges = None if rays.ranges is None else rays.ranges[:, rows]
                part = rays._replace(directions=rays.directions[:, rows], ranges=ranges)
                call = volume, projected, part, distances[:, rows]
                parts.append(
                    checkpoint(self._render, *call, use_reentrant=False)
                    if torch.is_grad_enabled()
                    else self._render(*call)
                )
            return Scan(*(torch.cat(column, dim=1) for column in zip(*parts, strict=True)))

    def _render(self, volume: Tensor, projected: Tensor, rays: Rays, distances: Tensor) -> Scan:
        scale = self.field.scale
        sdf = self._sdf(projected, rays, distances)
        rendering = render_sdf(sdf, distances / scale, self.field.sharpness, self.alpha_mode)
        ranges = rendering.ranges * scale
        observed = self.intensity_at == "observed" and rays.ranges is not None
        place = rays.ranges if observed else ranges
        assert place is not None
        points = rays.origins[:, None] + place[..., None] * rays.directions
        values = self.field.geometry_at(projected, points)
        intensity = self.field.intensity_at(volume, points, rays.directions, values.geometry)
        surface = values.sdf
        if not observed:
            surface = torch.zeros_like(ranges)
            if rays.ranges is not None:
                points = rays.origins[:, None] + rays.ranges[..., None] * rays.directions
                surface = self.field.sdf_at(projected, points)
        return Scan(ranges, intensity, rendering.opacity, surface)

    @torch.no_grad()
    def forecast(
        self, points: Tensor, actions: Tensor, origin: Tensor, directions: Tensor, time: float
    ) -> tuple[Tensor, Tensor]:
        """One future scan of one sequence.

        Args:
            points: (N, 3 + d) current scan in the sensor's frame.
            actions: (n, 3) ego actions dx, dy, dyaw up to the wanted frame; n = 0: the current one.
            origin: (3,) sensor at that time in the frame of the current scan.
            directions: (R, 3) unit vectors in the same frame.
            time: seconds from now.

        Returns:
            ranges (R,) in metres and intensities (R,).
        """
        owner = torch.zeros(len(points), dtype=torch.long, device=points.device)
        volume = self.encode(points, owner, 1)
        if self.forecasts:
            steps = torch.tensor([len(actions)], device=points.device)
            volume = self.recurrent(volume, actions.view(1, -1, 3), steps)
        rays = Rays(
            origin[None], directions[None], origin.new_tensor([time if self.forecasts else 0.0])
        )
        scan = self.render(volume, rays)
        return scan.ranges[0], scan.intensity[0]


def _full_precision(device: str) -> AbstractContextManager[Any]:
    """No autocast inside; the meta device knows none."""
    return nullcontext() if device == "meta" else torch.autocast(device, enabled=False)


def encoder_options(cfg: Config) -> dict[str, Any]:
    """Arguments of `build_voxel_encoder`: what is stored alongside an exported backbone."""
    data, model = cfg.data, cfg.model
    return {
        "name": model.encoder,
        "low": list(data.low),
        "high": list(data.high),
        "voxel": list(data.voxel),
        "num_features": data.num_features,
        "widths": list(model.widths),
        "strides": [list(s) for s in model.strides],
        "norm": model.norm,
        "backend": model.backend,
    }


def network_options(cfg: Config) -> dict[str, Any]:
    """Arguments of `TrendNetwork`."""
    model, method = cfg.model, cfg.method
    return {
        "encoder": encoder_options(cfg),
        "time_dim": model.time_dim,
        "action_dim": model.action_dim,
        "action_hidden": model.action_hidden,
        "norm": model.norm,
        "residual": model.recurrent_residual,
        "geometry_dim": model.geometry_dim,
        "hidden_dim": model.hidden_dim,
        "direction_dim": model.direction_dim,
        "activation": model.activation,
        "sharpness_init": model.sharpness_init,
        "time_encoding": method.time_encoding,
        "samples": method.samples,
        "importance_samples": method.importance_samples,
        "alpha_mode": method.alpha_mode,
        "nearest": method.nearest,
        "intensity_at": method.intensity_at,
        "forecasts": method.horizons[-1] > 0,
    }


def build_network(**options: Any) -> TrendNetwork:
    """`TrendNetwork` from stored options."""
    return TrendNetwork(**options)
