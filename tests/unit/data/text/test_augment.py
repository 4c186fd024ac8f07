from collections import Counter

import numpy as np
import pytest

from common.data.lookup import BUNDLED
from common.data.tables import read_jsonl
from common.data.text.augment import Eda, SpanMask, WordDropout, synonyms_from_synsets

SYNONYMS = {"quick": ["fast", "rapid"], "dog": ["hound"]}
TEXT = "The quick brown dog runs over the hill"


def rng(seed=0):
    return np.random.default_rng(seed)


def test_operations():
    eda, words = Eda(SYNONYMS, alpha=0.3), TEXT.split()
    replaced = eda._replace(words, 2, rng())
    assert replaced[3] == "hound"
    assert replaced[1] in ("fast", "rapid")
    assert [w for i, w in enumerate(replaced) if i not in (1, 3)] == [
        w for i, w in enumerate(words) if i not in (1, 3)
    ]
    inserted = eda._insert(words, 2, rng())
    assert len(inserted) == 10
    assert set(inserted) - set(words) <= {"fast", "rapid", "hound"}
    swapped = eda._swap(words, 1, rng())
    assert Counter(swapped) == Counter(words)
    assert sum(a != b for a, b in zip(swapped, words, strict=True)) == 2
    deleted = eda._delete(words, 2, rng(1))
    assert 0 < len(deleted) < len(words)
    assert words == TEXT.split()  # inputs stay as they are


def test_eda_is_seeded_and_uses_all_four_operations():
    eda = Eda(SYNONYMS, alpha=0.3)
    assert eda(TEXT, rng(3)) == eda(TEXT, rng(3))
    results = [eda(TEXT, rng(i)).split() for i in range(60)]
    lengths = {len(words) for words in results}
    assert any(n > 8 for n in lengths)
    assert any(n < 8 for n in lengths)
    assert any(
        Counter(words) == Counter(TEXT.split()) and words != TEXT.split() for words in results
    )
    assert any(len(words) == 8 and "hound" in words for words in results)


def test_short_texts_and_stop_words():
    eda = Eda({"the": ["le"]}, alpha=0.5)
    for seed in range(20):
        assert eda("", rng(seed)) == ""
        assert eda("sun", rng(seed)) == "sun"
        assert "le" not in eda("the sun", rng(seed))  # stop words are not replaced


def test_dropout_rate_and_floor():
    words = " ".join(str(i) for i in range(1000))
    assert 650 < len(WordDropout(0.3)(words, rng()).split()) < 750
    assert WordDropout(0.0)(words, rng()) == words
    assert all(WordDropout(0.99)("one two", rng(i)) in ("one", "two", "one two") for i in range(20))
    with pytest.raises(ValueError, match="drop_prob"):
        WordDropout(1.0)
    with pytest.raises(ValueError, match="alpha"):
        Eda({}, alpha=0.0)


@pytest.mark.slow
def test_synonyms_of_the_bundled_wordnet():
    table = synonyms_from_synsets(read_jsonl(BUNDLED / "wordnet/synsets.jsonl.gz", ["lemmas"]))
    assert "automobile" in table["car"]
    assert "car" not in table["car"]
    assert all(table.values())


SENTENCE = "Three young women standing in a room together."


def test_span_mask_replaces_exactly_the_drawn_characters():
    for seed in range(50):
        start = int(rng(seed).integers(len(SENTENCE) - 5))
        first = SENTENCE.index(SENTENCE[start : start + 5])
        expected = f"{SENTENCE[:first]} [MASK] {SENTENCE[first + 5 :]}"
        assert SpanMask(5)(SENTENCE, rng(seed)) == expected
    assert SpanMask(5, mask="<mask>")(SENTENCE, rng()) == SpanMask(5)(SENTENCE, rng()).replace(
        "[MASK]", "<mask>"
    )


def test_span_mask_takes_the_first_occurrence():
    """A repeating text: whatever is drawn, what is masked is the first place that reads alike."""
    text = "abcd" * 10
    actual = {SpanMask(4)(text, rng(seed)) for seed in range(40)}
    assert actual == {f"{text[:i]} [MASK] {text[i + 4 :]}" for i in range(4)}


def test_span_mask_leaves_short_texts_and_span_zero():
    short, enough = "x" * 29, "x" * 30
    assert SpanMask(5)(short, rng()) == short
    assert "[MASK]" in SpanMask(5)(enough, rng())
    assert SpanMask(0)(SENTENCE, rng()) == SENTENCE
    assert SpanMask(46, min_chars=0)(SENTENCE, rng()) == SENTENCE  # as long as the text
    assert "[MASK]" in SpanMask(2, min_chars=0)("word", rng())
    with pytest.raises(ValueError, match="span_chars"):
        SpanMask(-1)
