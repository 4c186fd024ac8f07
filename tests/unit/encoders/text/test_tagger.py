"""Spans of token-classification models."""

import pytest

from common.config import UserError
from common.encoders.text.tagger import span_tagger
from tests.taggers import save_tagger


def test_spans_are_what_the_model_marks_as_the_text_writes_it(tmp_path):
    """In the order of the text, with spaces of any number, of texts that are padded in one
    batch."""
    find = span_tagger(save_tagger(tmp_path, ["an", "in", "a"], ["eagle", "tree"]), 2, "cpu")
    texts = ["an  eagle in a tree", "in a tree", "an"]
    assert find(texts) == [["eagle", "tree"], ["tree"], []]
    assert find(texts[::-1]) == find(texts)[::-1]


def test_a_text_longer_than_the_model_reads_is_read_to_its_end(tmp_path):
    """Each span once, also where two windows hold it; a short text beside it as before."""
    find = span_tagger(save_tagger(tmp_path, ["an", "in", "a"], ["eagle", "tree"], 8), 2, "cpu")
    for count in (7, 8, 9, 30):
        words = ["an"] * count + ["eagle", "in", "a", "tree"]
        assert find([" ".join(words), "in a tree"]) == [["eagle", "tree"], ["tree"]]


def test_absent_weights_are_named(tmp_path):
    with pytest.raises(UserError, match="nothing-here"):
        span_tagger(str(tmp_path / "nothing-here"), 2)
