"""Texts of the pool of drawings."""

from pathlib import Path

import pytest

from common.data.image_text.drawings import (
    NUM_PHRASINGS,
    drawings,
    phrasings,
    words,
    write_pool_texts,
)
from common.data.lookup import BUNDLED


@pytest.fixture(scope="module")
def pool():
    return list(drawings(str(BUNDLED)))


def test_every_drawing_has_a_split_and_variants_share_it(pool):
    assert len(pool) > 4500
    splits = {}
    for drawing in pool:
        assert splits.setdefault(drawing.key, drawing.split) == drawing.split
    share = {s: sum(d.split == s for d in pool) / len(pool) for s in ("train", "dev", "test")}
    assert 0.68 < share["train"] < 0.8
    assert 0.04 < share["dev"] < 0.1


def test_queries_and_synonyms_hold_no_word_of_the_name(pool):
    for drawing in pool:
        name = set(words(drawing.name))
        assert not name & set(words(drawing.query)), drawing
        assert not name & set(words(" ".join([*drawing.tags, *drawing.synonyms])))


def test_phrasings_are_varied_and_use_the_drawings_own_words(pool):
    different = 0
    for drawing in pool[::37]:
        texts = phrasings(drawing)
        assert len(texts) == NUM_PHRASINGS
        assert texts == phrasings(drawing)
        bank = [*drawing.tags, *drawing.synonyms, drawing.gloss]
        for text in texts:
            assert text == drawing.name or any(b and b in text for b in bank)
        different += len(set(texts)) == NUM_PHRASINGS
    assert different > 90


@pytest.mark.slow
def test_bundled_texts_are_what_the_code_writes(tmp_path):
    """The tracked files can be made again, byte for byte."""
    write_pool_texts(tmp_path, str(BUNDLED))
    written = sorted(p.name for p in tmp_path.iterdir())
    assert written == sorted(
        ["train.csv", "test.jsonl.gz", "classes.txt"]
        + [f"train_phrasing{i + 1}.txt" for i in range(NUM_PHRASINGS)]
    )
    for name in written:
        assert (tmp_path / name).read_bytes() == Path(BUNDLED, "drawings", name).read_bytes(), name
