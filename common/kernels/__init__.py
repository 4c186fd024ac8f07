"""Fused pairwise contrastive losses: one operation, three back ends (dense, blocked, Triton).

See docs/kernels.md for the formulation and how to add a loss.
"""

from common.kernels.pair import PairStats, blocked_autograd, info_nce, pair_softplus, pair_stats
from common.kernels.specs import (
    All,
    Bias,
    Block,
    Diagonal,
    Exclude,
    ExcludePositive,
    ExcludeSelf,
    Index,
    Labels,
    LowRank,
    OnlyPositive,
    Partner,
    Spec,
    Threshold,
    Tile,
    Uniform,
    Valid,
    nt_xent_spec,
)

__all__ = [
    "All",
    "Bias",
    "Block",
    "Diagonal",
    "Exclude",
    "ExcludePositive",
    "ExcludeSelf",
    "Index",
    "Labels",
    "LowRank",
    "OnlyPositive",
    "PairStats",
    "Partner",
    "Spec",
    "Threshold",
    "Tile",
    "Uniform",
    "Valid",
    "blocked_autograd",
    "info_nce",
    "nt_xent_spec",
    "pair_softplus",
    "pair_stats",
]
