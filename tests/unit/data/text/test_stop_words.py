"""Stop words, and EDA with weights."""

from collections import Counter

import numpy as np
import pytest

from common.data.text.augment import Eda
from common.data.text.stop_words import FUNCTION_WORDS, StopWordFilter


def test_function_words_go_whatever_their_case_and_punctuation():
    rng = np.random.default_rng(0)
    assert StopWordFilter(1.0)("The cat, and THE dog.", rng) == "cat, dog."
    assert StopWordFilter(1.0)("it was his", rng) == "it was his"
    assert StopWordFilter(0.0)("the cat", rng) == "the cat"
    assert {"i", "the", "don't", "very", "s"} <= FUNCTION_WORDS
    assert not {"cat", "red", "two"} & FUNCTION_WORDS
    with pytest.raises(ValueError, match="prob"):
        StopWordFilter(1.5)


def test_eda_takes_operations_by_weight_and_keep_changes_nothing():
    eda = Eda({"red": ["crimson"]}, operations=("replace", "keep"), weights=(1.0, 3.0))
    rng = np.random.default_rng(0)
    actual = Counter(eda("red cat", rng) for _ in range(800))
    assert set(actual) == {"red cat", "crimson cat"}
    assert abs(actual["red cat"] / 800 - 0.75) < 0.05
    for weights in ((1.0,), (0.0, 0.0), (1.0, -1.0)):
        with pytest.raises(ValueError, match="weight"):
            Eda(operations=("replace", "keep"), weights=weights)
