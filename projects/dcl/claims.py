"""Claims of configs/dcl/compare.yaml over the learning rates of two losses."""

from collections.abc import Mapping
from typing import Any

import numpy as np


def means(values: Mapping[str, Any]) -> tuple[Any, Any]:
    """Mean over the rates of the decoupled loss, and of InfoNCE."""
    decoupled, infonce = by_loss(values)
    return np.mean(decoupled, axis=0), np.mean(infonce, axis=0)


def spreads(values: Mapping[str, Any]) -> tuple[Any, Any]:
    """Best minus worst rate of the decoupled loss, and of InfoNCE."""
    decoupled, infonce = by_loss(values)
    return np.ptp(decoupled, axis=0), np.ptp(infonce, axis=0)


def by_loss(values: Mapping[str, Any]) -> tuple[list[Any], list[Any]]:
    """Values of the decoupled loss, then of InfoNCE, one for each rate."""
    infonce = [value for arm, value in values.items() if arm.startswith("infonce@")]
    return [value for arm, value in values.items() if not arm.startswith("infonce@")], infonce
