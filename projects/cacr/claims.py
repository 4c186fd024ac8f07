"""Claims of configs/cacr/compare.yaml that compare more than one arm with another."""

from collections.abc import Mapping
from typing import Any


def gains_under_imbalance(values: Mapping[str, Any]) -> tuple[Any, Any]:
    """What the imbalance changes for CACR, against what it changes for InfoNCE."""
    return (
        values["full_exponential"] - values["full"],
        values["infonce_exponential"] - values["infonce"],
    )
