"""Claims of configs/mirror_bert/compare.yaml on what pre-trained weights add."""

from collections.abc import Mapping
from typing import Any


def sentence_gains(values: Mapping[str, Any]) -> tuple[Any, Any]:
    """Gain from pre-trained weights, and from random ones, on sentences."""
    return values["both"] - values["raw"], values["random_both"] - values["random"]


def word_gains(values: Mapping[str, Any]) -> tuple[Any, Any]:
    """The same on words."""
    return (
        values["both_words"] - values["raw_words"],
        values["random_both_words"] - values["random_words"],
    )
