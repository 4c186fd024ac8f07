"""Options of text data, for config schemas; nothing here imports torch."""

from dataclasses import dataclass
from typing import Literal

from common.ranges import Count, Rate, Share

TRANSFER_NAMES = ("MR", "CR", "SUBJ", "MPQA", "SST2", "TREC", "MRPC")


@dataclass
class RepetitionConfig:
    """Doubled elements in every view but the first, see common.data.Repetition."""

    level: Literal["subword", "word", "none"] = "subword"  # none: nothing is repeated
    rate: Share = 0.32  # share of the elements that may be doubled
    rule: Literal["code", "paper"] = "code"  # bounds of the number of repetitions
    cap: Count = 10  # rule=code: fewer repetitions than this


@dataclass
class TokenNoise:
    """Change of the tokens of a view."""

    kind: Literal["none", "delete", "mask", "replace", "shuffle"] = "none"
    probability: Rate = 0.1  # of each token
