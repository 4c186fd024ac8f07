"""Claims of configs/cosmo/compare.yaml that compare more than one arm with another."""

from collections.abc import Mapping
from typing import Any


def nearly_reference(values: Mapping[str, Any]) -> tuple[Any, Any]:
    """COSMO, against the larger reference less two per cent."""
    return values["cosmo"], 0.98 * values["reference"]
