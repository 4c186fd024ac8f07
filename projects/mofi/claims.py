"""Claims of configs/mofi/compare.yaml that compare more than one arm with another."""

from collections.abc import Mapping
from typing import Any

EQUAL = 0.02  # accuracy by which two methods may differ and still count as equal


def equal(values: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Neither the multi-task nor the contrastive model is ahead by `EQUAL`."""
    multitask, contrastive = values["multitask"], values["contrastive"]
    return {
        "multitask > contrastive - 0.02": (multitask, contrastive - EQUAL),
        "contrastive > multitask - 0.02": (contrastive, multitask - EQUAL),
    }
