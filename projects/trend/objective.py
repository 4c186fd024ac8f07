"""TREND's loss of a rendered frame, and the draw of the future frame."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from projects.trend.networks import Scan


class FrameTerms(NamedTuple):
    """Mean absolute errors of one frame.

    Attributes:
        range: metres or scaled units.
        intensity: of values in [0, 1].
        surface: absolute signed distance of the observed points, scaled units.
    """

    range: Tensor
    intensity: Tensor
    surface: Tensor


def frame_terms(scan: Scan, ranges: Tensor, intensity: Tensor, unit: float = 1.0) -> FrameTerms:
    """L1 terms of a rendered frame, mean over its rays.

    Source: Chen et al. 2025, "TREND", section 3.4 (|r~ - r| + |I~ - I| + |s(p)|), arXiv 2412.03054.

    Args:
        scan: rendered values (B, R).
        ranges: (B, R) observed, metres.
        intensity: (B, R) observed.
        unit: metres of one unit of the range term.
    """
    return FrameTerms(  # L_tn, section 3.4
        (scan.ranges - ranges).abs().mean() / unit,
        (scan.intensity - intensity).abs().mean(),
        scan.surface.abs().mean(),
    )


def weighted(terms: FrameTerms, weights: Sequence[float]) -> Tensor:
    """w_range range + w_int intensity + w_surf surface."""
    return weights[0] * terms.range + weights[1] * terms.intensity + weights[2] * terms.surface


def horizon_probabilities(horizon: int, decay: float = 0.5) -> NDArray[np.float64]:
    """p(m) for m = 1 .. horizon, proportional to decay^m: nearer frames are drawn more often.

    >>> horizon_probabilities(2).round(3).tolist()
    [0.667, 0.333]
    """
    weights = decay ** np.arange(1, horizon + 1)
    return np.asarray(weights / weights.sum())
