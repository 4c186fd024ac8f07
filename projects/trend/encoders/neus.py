"""Volume rendering of a signed distance field along rays (NeuS)."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

AlphaMode = Literal["consecutive", "midpoint"]


class Rendering(NamedTuple):
    """What a ray sees.

    Attributes:
        ranges: (...,) expected distance, not divided by the opacity.
        opacity: (...,) sum of the weights, in [0, 1].
        weights: (..., N - 1) of the consecutive, (..., N) of the midpoint mode.
    """

    ranges: Tensor
    opacity: Tensor
    weights: Tensor


def render_sdf(
    sdf: Tensor, distances: Tensor, sharpness: Tensor, mode: AlphaMode = "consecutive"
) -> Rendering:
    """Expected distance at which rays meet the zero level of a signed distance field.

    alpha_n = max((Phi(s_n) - Phi(s_{n+1})) / Phi(s_n), 0), Phi(x) = 1 / (1 + exp(-z x));
    T_n = prod_{i<n} (1 - alpha_i); w_n = T_n alpha_n; r = sum_n w_n lambda_n.

    It is computed with l_n = log(1 - alpha_n) = min(0, log Phi(s_{n+1}) - log Phi(s_n)), so that
    w_n = exp(sum_{i<n} l_i) - exp(sum_{i<=n} l_i) and the sum of the weights is at most 1.

    Source: Wang et al. 2021, "NeuS: learning neural implicit surfaces by volume rendering for
    multi-view reconstruction", Eqs. 10 to 13, arXiv 2106.10689.

    Args:
        sdf: (..., N) signed distances at the samples, N >= 2, positive in free space.
        distances: (..., N) increasing distances lambda of the samples from the ray's origin.
        sharpness: scalar z > 0, in units of 1 / sdf.
        mode: consecutive: neighbouring samples bound a section, whose distance is that of its
            start; midpoint: each sample is the middle of a section, over which the field is
            extended with its slope along the ray.

    Deviation: in the midpoint mode the slope is a difference along the ray, not an analytic
    gradient.

    >>> far = torch.arange(4.0)
    >>> render_sdf(1.5 - far, far, torch.tensor(1e3)).ranges.item()  # the start of the section
    1.0
    """
    if sdf.shape[-1] < 2 or sdf.shape != distances.shape:
        raise ValueError(f"{tuple(sdf.shape)} distances at {tuple(distances.shape)} samples")
    start, end, place = sdf[..., :-1], sdf[..., 1:], distances[..., :-1]
    if mode == "midpoint":
        start, end, place = _sections(sdf, distances)
    passed = (logsigmoid(sharpness * end) - logsigmoid(sharpness * start)).clamp_max(0)  # Eq. 13
    total = passed.cumsum(dim=-1)  # Eq. 11, logarithm of the transmittance
    weights = (total - passed).exp() * -torch.expm1(passed)  # Eq. 10, T_n alpha_n
    return Rendering((weights * place).sum(-1), weights.sum(-1), weights)


def _sections(sdf: Tensor, distances: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Signed distances at both ends of the section around each sample."""
    middle = (distances[..., 1:] + distances[..., :-1]) / 2
    bounds = torch.cat([distances[..., :1], middle, distances[..., -1:]], dim=-1)
    slope = (sdf[..., 1:] - sdf[..., :-1]) / (distances[..., 1:] - distances[..., :-1])
    slope = torch.cat([slope[..., :1], (slope[..., 1:] + slope[..., :-1]) / 2, slope[..., -1:]], -1)
    slope = slope.clamp_max(0)
    start = sdf + slope * (bounds[..., :-1] - distances)
    return start, sdf + slope * (bounds[..., 1:] - distances), distances


def box_span(
    origins: Tensor, directions: Tensor, low: Tensor, high: Tensor, nearest: float
) -> tuple[Tensor, Tensor]:
    """Distances at which rays enter and leave an axis-parallel box.

    Args:
        origins: (..., 3).
        directions: (..., 3) unit vectors.
        low: (3,) lower corner.
        high: (3,) upper corner.
        nearest: smallest distance, > 0.

    Returns:
        near and far (...,), far > near also of rays that miss the box.
    """
    tiny = torch.where(directions < 0, -1e-9, 1e-9).to(directions.dtype)
    safe = torch.where(directions.abs() < 1e-9, tiny, directions)
    a, b = (low - origins) / safe, (high - origins) / safe
    near = torch.minimum(a, b).amax(-1).clamp_min(nearest)
    far = torch.maximum(a, b).amin(-1)
    return near, torch.maximum(far, near + nearest)


def stratified(near: Tensor, far: Tensor, count: int, *, jitter: bool = False) -> Tensor:
    """Distances of samples, one in each of `count` equal parts of [near, far].

    Args:
        near: (...,).
        far: (...,).
        count: samples, >= 2.
        jitter: uniform within each part, from the global generator; False: evenly spaced, both
            ends included.

    Returns:
        (..., count), increasing.
    """
    if jitter:
        steps = torch.arange(count, device=near.device, dtype=near.dtype)
        parts = (
            steps + torch.rand(*near.shape, count, device=near.device, dtype=near.dtype)
        ) / count
    else:
        parts = torch.linspace(0, 1, count, device=near.device, dtype=near.dtype)
    return near[..., None] + parts * (far - near)[..., None]


def importance(distances: Tensor, weights: Tensor, count: int) -> Tensor:
    """Further samples where the weights are, merged with the old ones; no gradient.

    Source: Mildenhall et al. 2020, "NeRF", section 5.2 (inverse transform sampling),
    arXiv 2003.08934.

    Args:
        distances: (..., N) increasing.
        weights: (..., N - 1) of the sections between them, >= 0.
        count: samples to add.

    Returns:
        (..., N + count), increasing.
    """
    share = weights.detach() + 1e-5
    cdf = (share / share.sum(-1, keepdim=True)).cumsum(-1)
    cdf = torch.cat([torch.zeros_like(cdf[..., :1]), cdf], dim=-1)
    quantiles = (torch.arange(count, device=cdf.device, dtype=cdf.dtype) + 0.5) / count
    quantiles = quantiles.expand(*cdf.shape[:-1], count).contiguous()
    upper = torch.searchsorted(cdf, quantiles).clamp(1, cdf.shape[-1] - 1)
    left, right = cdf.gather(-1, upper - 1), cdf.gather(-1, upper)
    part = (quantiles - left) / (right - left).clamp_min(1e-9)
    low, high = distances.gather(-1, upper - 1), distances.gather(-1, upper)
    return torch.cat([distances, low + part.clamp(0, 1) * (high - low)], dim=-1).sort(-1).values
