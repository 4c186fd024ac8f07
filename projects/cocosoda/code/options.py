"""Options of code data, for config schemas; nothing here imports torch."""

from dataclasses import dataclass, field

from common.ranges import Probability, Share
from projects.cocosoda.code.types import STRATEGIES, Strategy


@dataclass
class SodaConfig:
    """Soft data augmentation, see projects.cocosoda.code.soda."""

    # DM, DR, DRST, DMST, one a step in turn; []: nothing is augmented
    strategies: list[Strategy] = field(default_factory=lambda: list(STRATEGIES))
    ratio: Probability = 0.15  # of the tokens that mask and replace choose
    type_ratio: Share = 1.0  # of the tokens of the type that the other two change
    queries_in: list[Strategy] = field(default_factory=lambda: ["mask"])  # queries are masked too
