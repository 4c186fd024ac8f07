"""Claims of configs/close/compare.yaml that compare more than one arm with another."""

from collections.abc import Mapping
from typing import Any


def most_of_images(values: Mapping[str, Any]) -> tuple[Any, Any]:
    """Training on texts alone, against four fifths of training on images."""
    return values["noise"], 0.8 * values["images"]
