"""Claims of configs/cocosoda/compare.yaml that compare more than one arm with another."""

from collections.abc import Mapping
from typing import Any

import numpy as np

SMALL = 0.1  # MRR by which settings may differ


def spread(values: Mapping[str, Any]) -> tuple[Any, float]:
    """Best minus worst setting, against `SMALL`."""
    settings = list(values.values())
    return np.max(settings, axis=0) - np.min(settings, axis=0), SMALL
