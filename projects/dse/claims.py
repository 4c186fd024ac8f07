"""Claims of configs/dse/compare.yaml that compare more than one arm with another."""

from collections.abc import Mapping
from typing import Any


def student_keeps_up(values: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The teacher has learnt something, and the student keeps nine tenths of it."""
    return {
        "teacher > overlap_trees": (values["teacher"], values["overlap_trees"]),
        "alpha_05 > 0.9 * teacher": (values["alpha_05"], 0.9 * values["teacher"]),
    }
