"""Measures of generated text: golden values of the released code, and cases by hand."""

import json

import numpy as np
import pytest

from common.config import ROOT, UserError
from common.evaluation.generation.measures import (
    mauve,
    repetition,
    truncate,
    word_overlap,
)

GOLDEN = json.loads((ROOT / "tests/golden/rankgen.json").read_text())
PAIRS = GOLDEN["inputs"]["rep_and_f1_pairs_prefix_suffix"]


def test_truncation_reproduces_the_released_strings():
    """RankGen checklist 12; unchanged where no sentence ends."""
    actual = [truncate(text) for text in GOLDEN["inputs"]["truncate"]]
    assert actual == GOLDEN["outputs"]["truncate"]
    assert truncate("nothing ends here") == "nothing ends here"
    assert truncate("Yes; no", ends=".?!") == "Yes; no"


def test_repetition_and_overlap_reproduce_the_released_values():
    for (prefix, suffix), rep, f1 in zip(
        PAIRS,
        GOLDEN["outputs"]["rep_window20"],
        GOLDEN["outputs"]["f1_of_suffix_vs_prefix_P_R_F"],
        strict=True,
    ):
        assert repetition(prefix, suffix, wrap=True) == pytest.approx(rep)
        assert word_overlap(suffix, prefix) == pytest.approx(tuple(f1))


def test_wrapping_matters_for_short_prefixes_only():
    prefix, suffix = PAIRS[0]
    assert repetition(prefix, suffix) == 0.75  # six of eight words were there before
    long = " ".join(f"w{i}" for i in range(30))
    for text in ("w29 w1 new new", "one one"):
        assert repetition(long, text) == repetition(long, text, wrap=True)
    assert repetition(long, "w29 w1") == 0.5  # w1 is more than 20 words back
    assert repetition("a", "") == 0.0


def test_mauve_of_equal_and_of_other_texts():
    pytest.importorskip("mauve", reason="mauve-text is not installed (group 'eval')")
    rng = np.random.default_rng(0)
    human = rng.normal(size=(60, 8)).astype(np.float32)
    other = human + 50
    assert mauve(human, human, num_buckets=6) == pytest.approx(1.0, abs=1e-6)
    assert mauve(human, other, num_buckets=6) < 0.5


def test_missing_mauve_is_a_user_error(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="mauve-text"):
        mauve(np.zeros((2, 2), np.float32), np.zeros((2, 2), np.float32))
