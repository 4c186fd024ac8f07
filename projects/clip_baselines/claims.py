"""Claims of configs/clip_baselines/compare.yaml that compare more than one arm with another."""

from collections.abc import Mapping
from typing import Any

EQUAL = 0.03  # accuracy by which two methods may differ and still count as equal


def half_of_the_gain(values: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The strong recipe helps, and stronger augmentation alone gives more than half of its gain."""
    basic, aug, strong = values["clip_basic"], values["clip_aug"], values["clip_strong"]
    return {
        "clip_strong > clip_basic": (strong, basic),
        "(clip_aug - clip_basic) > 0.5 * (clip_strong - clip_basic)": (
            aug - basic,
            0.5 * (strong - basic),
        ),
    }


def equal_under_strong_recipe(values: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Neither SiamLIP nor CLIP is ahead by `EQUAL` under the strong recipe."""
    siam, clip = values["siam_strong"], values["clip_strong"]
    return {
        "siam_strong > clip_strong - 0.03": (siam, clip - EQUAL),
        "clip_strong > siam_strong - 0.03": (clip, siam - EQUAL),
    }
