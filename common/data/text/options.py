"""Options of text data, for config schemas; nothing here imports torch."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.ranges import Count, Rate, Share

TRANSFER_NAMES = ("MR", "CR", "SUBJ", "MPQA", "SST2", "TREC", "MRPC")
PAIR_FILES = (".csv", ".tsv", ".jsonl")  # scored pairs of your own; each also .gz


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


def is_pair_file(name: str) -> bool:
    """Whether an STS set is a file of scored pairs instead of a name of `STS_NAMES`."""
    return name.removesuffix(".gz").endswith(PAIR_FILES)


def metric_prefix(name: str) -> str:
    """Name of a set within the names of metrics; of a file the name without its endings.

    >>> metric_prefix("stsb-test"), metric_prefix("senteval:STS12"), metric_prefix("my/own-1.csv")
    ('stsb_test', 'sts12', 'own_1')
    """
    if is_pair_file(name):
        stem = Path(name.removesuffix(".gz")).stem
        return re.sub(r"\W+", "_", stem).strip("_").lower() or "pairs"
    return name.rpartition(":")[2].lower().replace("-", "_")


def check_sets(names: Sequence[str]) -> None:
    """Refuse sets of graded pairs whose metrics would have the same name.

    Raises:
        ValueError: names two of them.
    """
    counts = Counter(map(metric_prefix, names))
    twice = [name for name in names if counts[metric_prefix(name)] > 1]
    if twice:
        raise ValueError(
            f"the sets '{twice[0]}' and '{twice[1]}' would both be called"
            f" '{metric_prefix(twice[0])}' in the metrics: rename a file, or leave one out"
        )
