"""Surface similarity: edit distance against a plain loop, properties, overlap."""

import numpy as np
import pytest

from common.data.text.lexical import SurfaceSimilarity, edit_distance, surface_similarity, words

KINDS = ("word_levenshtein", "char_levenshtein", "jaccard")


def slow(a, b):
    """The textbook table."""
    table = np.zeros((len(a) + 1, len(b) + 1), dtype=int)
    table[:, 0], table[0] = range(len(a) + 1), range(len(b) + 1)
    for i, x in enumerate(a, 1):
        for j, y in enumerate(b, 1):
            table[i, j] = min(
                table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + (x != y)
            )
    return table[-1, -1]


def sentences(count=60, seed=0, vocabulary=6, longest=9):
    rng = np.random.default_rng(seed)
    pool = np.array([f"w{i}" for i in range(vocabulary)])
    return [" ".join(rng.choice(pool, size=rng.integers(1, longest))) for _ in range(count)]


def test_edit_distance_equals_the_table():
    texts = [t.split() for t in sentences()]
    rng = np.random.default_rng(1)
    i, j = rng.integers(60, size=(2, 400))
    ids = {w: k for k, w in enumerate(sorted({w for t in texts for w in t}))}
    padded = [
        np.array([[ids[w] for w in texts[k]] + [fill] * (9 - len(texts[k])) for k in side])
        for side, fill in ((i, -1), (j, -2))
    ]
    sizes = np.array([len(t) for t in texts])
    actual = edit_distance(padded[0], sizes[i], padded[1], sizes[j])
    assert actual.tolist() == [slow(texts[a], texts[b]) for a, b in zip(i, j, strict=True)]


def test_edit_distance_of_nothing():
    empty = np.empty((2, 0), dtype=np.int64)
    zero, some = np.zeros(2, dtype=np.int64), np.array([2, 0])
    right = np.array([[1, 2], [-2, -2]])
    assert edit_distance(empty, zero, right, some).tolist() == [2, 0]
    assert edit_distance(right, some, empty, zero).tolist() == [2, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_item_11_symmetric_and_one_for_equal_texts(kind):
    """Checklist 11 of the pair-sampling sheet: symmetry and identity, in [0, 1]."""
    texts = sentences()
    similarity = SurfaceSimilarity(texts, kind)
    i, j = np.random.default_rng(2).integers(60, size=(2, 300))
    values = similarity(i, j)
    np.testing.assert_array_equal(values, similarity(j, i))
    assert similarity(i, i).tolist() == [1.0] * 300
    assert values.min() >= 0
    assert values.max() <= 1
    assert 0 < values.mean() < 0.9


@pytest.mark.parametrize("kind", ["word_levenshtein", "jaccard"])
def test_item_11_zero_for_disjoint_lists_of_equal_length(kind):
    """Checklist 11: nothing shared, nothing similar; one shared word is."""
    assert surface_similarity(["a b c"], ["x y z"], kind).tolist() == [0.0]
    assert surface_similarity(["a b c"], ["x b z"], kind)[0] > 0


def test_item_14_bounded_by_the_ratio_of_lengths():
    """Checklist 14: s <= min / max number of words, reached by a prefix."""
    texts = sentences(longest=14)
    similarity = SurfaceSimilarity(texts)
    i, j = np.random.default_rng(3).integers(60, size=(2, 500))
    sizes = similarity.word_counts
    bound = np.minimum(sizes[i], sizes[j]) / np.maximum(sizes[i], sizes[j])
    assert (similarity(i, j) <= bound + 1e-12).all()
    assert surface_similarity(["a b"], ["a b c d"]).tolist() == [0.5]


def test_case_and_punctuation_do_not_count():
    assert surface_similarity(["The RED, fox!"], ["the red fox"]).tolist() == [1.0]
    assert words("...") == ["..."]
    assert words("  ") == []


def test_blocks_do_not_change_the_values(monkeypatch):
    texts = sentences()
    i, j = np.random.default_rng(4).integers(60, size=(2, 200))
    whole = {kind: SurfaceSimilarity(texts, kind)(i, j) for kind in KINDS}
    monkeypatch.setattr("common.data.text.lexical._CELLS", 300)
    for kind in KINDS:
        np.testing.assert_array_equal(SurfaceSimilarity(texts, kind)(i, j), whole[kind])


def test_jaccard_counts_each_word_once():
    assert surface_similarity(["a a b"], ["a c"], "jaccard")[0] == pytest.approx(1 / 3)
    assert surface_similarity(["", "a"], ["", ""], "jaccard").tolist() == [1.0, 0.0]
    assert surface_similarity([""], [""]).tolist() == [1.0]


def test_lists_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match="equal length"):
        surface_similarity(["a"], [])
