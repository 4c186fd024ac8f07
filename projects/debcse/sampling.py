"""Inverse-propensity-weighted sampling of positives and negatives from candidate pools.

Legend: N anchors, K candidates. s surface similarity, m semantic similarity, both (N, K).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from common.config import UserError
from common.data.samplers import sample_rng
from projects.debcse.config import IpwConfig

Side = Literal["positive", "negative"]
POSITIVE_STREAM, NEGATIVE_STREAM = 41, 42


@dataclass(frozen=True)
class Pools:
    """Candidates of N anchors; ids index the texts, -1 fills up short pools.

    Attributes:
        num_anchors: N; the anchors are the first N texts, further ones are generated variants.
        positive_ids: (N, P) int32.
        negative_ids: (N, Q) int32, never the anchor itself.
        surface: s of positives and negatives.
        semantic: m of positives and negatives.
        theta_pos: least m of a positive.
        theta_neg: largest m of a negative, below `theta_pos`.
    """

    positive_ids: np.ndarray
    negative_ids: np.ndarray
    surface: tuple[np.ndarray, np.ndarray]
    semantic: tuple[np.ndarray, np.ndarray]
    theta_pos: float
    theta_neg: float

    def __post_init__(self) -> None:
        if not self.theta_neg < self.theta_pos:
            raise UserError(
                f"the thresholds overlap: theta_neg={self.theta_neg:.3f} must lie below "
                f"theta_pos={self.theta_pos:.3f}; change ipw.theta_*"
            )

    @property
    def num_anchors(self) -> int:
        """N."""
        return len(self.positive_ids)


@dataclass(frozen=True)
class Draws:
    """One positive and one negative for each of B anchors; column 0 positives, 1 negatives.

    Without negatives, column 1 holds id -1 and similarities NaN.

    Attributes:
        anchors: (B,) ids.
        ids: (B, 2) drawn ids.
        surface: (B, 2).
        semantic: (B, 2); NaN for a random sentence that was drawn for want of a candidate.
        fallback: (B, 2) bool, no candidate could be drawn.
        effective: (B, 2) effective number of candidates, 1 / sum p^2.
    """

    anchors: np.ndarray
    ids: np.ndarray
    surface: np.ndarray
    semantic: np.ndarray
    fallback: np.ndarray
    effective: np.ndarray


def inverse_propensity(
    surface: np.ndarray,
    present: np.ndarray,
    *,
    side: Side,
    temperature: float,
    clip: float | None = None,
) -> np.ndarray:
    """Logarithm of min(1 / pi, c), where pi is what a rule that looks at the surface would do.

    Equation: ``pi = softmax_j(s / lambda)`` for positives, ``softmax_j(-s / lambda)`` for
    negatives; ``c = clip K`` with K the number of candidates of the anchor.

    Args:
        surface: (N, K) s.
        present: (N, K) bool.
        side: whose propensity.
        temperature: lambda > 0; infinity makes pi uniform.
        clip: c / K; None: no clipping.

    Returns:
        (N, K) float64; 0 where there is no candidate.
    """
    sign = 1.0 if side == "positive" else -1.0
    logits = np.where(present, sign * surface.astype(np.float64) / temperature, -np.inf)
    total = np.where(present, _log_sum_exp(logits), 0.0)
    inverse: np.ndarray = total - np.where(present, logits, 0.0)
    if clip is None:
        return inverse
    count = np.maximum(present.sum(axis=1, keepdims=True), 1)
    return np.where(present, np.minimum(inverse, np.log(clip * count)), 0.0)


def probabilities(
    surface: np.ndarray,
    semantic: np.ndarray,
    present: np.ndarray,
    options: IpwConfig,
    *,
    side: Side,
    threshold: float,
) -> np.ndarray:
    """Probability of drawing each candidate.

    Equations, up to a factor per anchor:
        positives: ``[m >= theta] exp(m / kappa) min(1 / pi, c)``
        negatives: ``[m <= theta] exp(-m / kappa) min(1 / pi, c)``

    The propensity counts all candidates, the threshold only removes some afterwards.
    Source: this project's reading of Miao et al. 2023, abstract, arXiv 2309.07396.

    Args:
        surface: (N, K) s.
        semantic: (N, K) m.
        present: (N, K) bool.
        options: temperatures, clip and switches; "uniform" draws evenly from what is present.
        side: positives or negatives.
        threshold: theta.

    Returns:
        (N, K) float64, rows sum to 1, or are 0 where nothing can be drawn.
    """
    if (options.positives if side == "positive" else options.negatives) == "uniform":
        even: np.ndarray = present / np.maximum(present.sum(axis=1, keepdims=True), 1)
        return even
    weights, eligible = np.zeros(surface.shape), present
    if options.semantic:
        sign, kappa = 1.0, options.semantic_temperature
        if side == "negative":
            sign, kappa = -1.0, options.negative_temperature or kappa
        weights += sign * semantic / kappa
        eligible = present & (sign * semantic >= sign * threshold)
    if options.surface:
        weights += inverse_propensity(
            surface,
            present,
            side=side,
            temperature=options.surface_temperature,
            clip=options.clip,
        )
    weights = np.where(eligible, weights, -np.inf)
    total = _log_sum_exp(weights)
    return np.where(eligible, np.exp(weights - np.where(np.isfinite(total), total, 0.0)), 0.0)


class PairSampler:
    """Draws a positive and a negative for an anchor in an epoch; a function of (seed, epoch, id).

    Where no positive candidate passes, the sentence itself is the positive; where no negative
    passes, another sentence of the corpus drawn evenly. If a side is drawn without threshold, the
    negatives leave out what is also a candidate for the positive.

    Args:
        pools: candidates.
        options: switches and temperatures.
        seed: the experiment's seed.

    Raises:
        UserError: one sentence alone, which has no negatives.
    """

    def __init__(self, pools: Pools, options: IpwConfig, seed: int) -> None:
        if options.negatives != "none" and pools.num_anchors < 2:
            raise UserError("one sentence has no negatives: give more texts")
        self.pools, self.options, self.seed = pools, options, seed

    def probabilities(self, anchors: np.ndarray, side: Side) -> np.ndarray:
        """(B, K) probabilities of the candidates of some anchors."""
        pools, column = self.pools, 0 if side == "positive" else 1
        ids = (pools.positive_ids, pools.negative_ids)[column][anchors]
        present = ids >= 0
        if side == "negative" and self._overlapping:
            positive = pools.positive_ids[anchors]
            present &= ~(ids[:, :, None] == positive[:, None, :]).any(axis=2)
        return probabilities(
            pools.surface[column][anchors],
            pools.semantic[column][anchors],
            present,
            self.options,
            side=side,
            threshold=pools.theta_neg if column else pools.theta_pos,
        )

    def draw(self, anchors: np.ndarray, epochs: np.ndarray) -> Draws:
        """One positive and one negative each.

        Args:
            anchors: (B,) ids in [0, N).
            epochs: (B,) pass over the data.
        """
        count = len(anchors)
        draws = Draws(
            anchors,
            np.full((count, 2), -1),
            np.full((count, 2), np.nan),
            np.full((count, 2), np.nan),
            np.zeros((count, 2), dtype=bool),
            np.ones((count, 2)),
        )
        if self.options.positives in ("ipw", "uniform"):
            self._draw_side(draws, epochs, "positive")
        else:
            draws.ids[:, 0], draws.surface[:, 0], draws.semantic[:, 0] = anchors, 1.0, 1.0
        if self.options.negatives != "none":
            self._draw_side(draws, epochs, "negative")
        return draws

    @property
    def _overlapping(self) -> bool:
        options = self.options
        from_pool = options.positives in ("ipw", "uniform")
        both = options.positives == options.negatives == "ipw" and options.semantic
        return from_pool and not both

    def _draw_side(self, draws: Draws, epochs: np.ndarray, side: Side) -> None:
        column, stream = (0, POSITIVE_STREAM) if side == "positive" else (1, NEGATIVE_STREAM)
        pool = (self.pools.positive_ids, self.pools.negative_ids)[column]
        chance = self.probabilities(draws.anchors, side)
        for row, (anchor, epoch) in enumerate(zip(draws.anchors, epochs, strict=True)):
            rng = sample_rng(self.seed, int(epoch), int(anchor), stream)
            cumulative = np.cumsum(chance[row])
            if cumulative.size and cumulative[-1] > 0:
                place = int(np.searchsorted(cumulative, rng.random() * cumulative[-1], "right"))
                place = min(place, int(np.flatnonzero(chance[row])[-1]))
                draws.ids[row, column] = pool[anchor, place]
                draws.surface[row, column] = self.pools.surface[column][anchor, place]
                draws.semantic[row, column] = self.pools.semantic[column][anchor, place]
                draws.effective[row, column] = 1 / float((chance[row] ** 2).sum())
                continue
            draws.fallback[row, column] = True
            if side == "positive":
                draws.ids[row, 0], draws.surface[row, 0], draws.semantic[row, 0] = anchor, 1.0, 1.0
            else:
                other = int(rng.integers(self.pools.num_anchors - 1))
                draws.ids[row, 1] = other + (other >= anchor)


def _log_sum_exp(logits: np.ndarray) -> np.ndarray:
    """Over the last axis, kept; -inf for a row without a finite entry."""
    if not logits.shape[1]:
        return np.full((len(logits), 1), -np.inf)
    top = logits.max(axis=1, keepdims=True)
    shift = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        total: np.ndarray = np.log(np.exp(logits - shift).sum(axis=1, keepdims=True)) + shift
    return total
