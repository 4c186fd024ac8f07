"""Claims of configs/moe_embeddings/compare.yaml on models of a single domain."""

from collections.abc import Mapping
from typing import Any


def moe_and_mean(values: Mapping[str, Any]) -> tuple[Any, Any]:
    """The mixture of experts, and the mean of the models of one domain each."""
    singles = [value for arm, value in values.items() if arm.startswith("single@")]
    return values["moe"], sum(singles) / len(singles)


def mean_and_moe(values: Mapping[str, Any]) -> tuple[Any, Any]:
    """The same with the sides exchanged."""
    moe, singles = moe_and_mean(values)
    return singles, moe
