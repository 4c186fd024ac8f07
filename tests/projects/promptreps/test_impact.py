"""The inverted index against sums by hand, its limits, and hybrid search of kept texts."""

import numpy as np
import pytest
import torch

from common.config import UserError
from common.evaluation.retrieval.fusion import linear_fusion
from projects.promptreps.lexical.hybrid import joined, of_texts, single
from projects.promptreps.lexical.hybrid_texts import HybridTextIndex
from projects.promptreps.lexical.impact_files import read_impacts, write_impacts
from projects.promptreps.lexical.impact_index import ImpactIndex


@pytest.mark.parametrize("scale", [1, 0.37, 2**20])
@pytest.mark.parametrize("k", [3, 40])
def test_the_best_documents_are_those_of_all_sums_with_ties_to_the_lower_index(scale, k):
    """Whole numbers, fractions, and sums beyond single precision; both ways to the k best."""
    rng = np.random.default_rng(0)
    table = rng.integers(0, 3, (500, 12)) * (rng.random((500, 12)) < 0.3) * scale
    vectors = [{t: float(w) for t, w in enumerate(row) if rng.random() < 0.9 or w} for row in table]
    index = ImpactIndex(vectors)
    assert len(index) == 500
    assert index.num_postings == (table > 0).sum()
    queries = [{1: 3, 5: 1, 7: 2}, {0: 1}, {99: 4}, {2: 0}, {}]
    actual = index.search(queries, k)
    for row, query in enumerate(queries):
        scores = sum((w * table[:, t] for t, w in query.items() if t < 12), np.zeros(500))
        order = np.lexsort((np.arange(500), -scores))[:k]
        order = order[scores[order] > 0]
        assert actual.indices[row, : len(order)].tolist() == order.tolist()
        np.testing.assert_allclose(actual.scores[row, : len(order)], scores[order], rtol=1e-12)
        assert actual.indices[row, len(order) :].eq(-1).all()


def test_large_whole_weights_stay_exact():
    """2^24 + 1 is not a number of single precision."""
    index = ImpactIndex([{0: 2**24 + 1}, {0: 2**24, 1: 2}, {0: 2**24}])
    assert index.search([{0: 1}], 3).scores.tolist() == [[2.0**24 + 1, 2.0**24, 2.0**24]]
    assert index.search([{0: 1, 1: 1}], 3).indices.tolist() == [[1, 0, 2]]


def test_what_cannot_be_indexed_or_asked():
    for wrong in ([], [{-1: 2}], [{0: -1.0}]):
        with pytest.raises(ValueError, match=r"no document|>= 0"):
            ImpactIndex(wrong)
    with pytest.raises(ValueError, match="k >= 1"):
        ImpactIndex([{0: 1}]).search([{0: 1}], 0)
    assert ImpactIndex([{}, {0: 0}]).search([{0: 1}], 9).indices.tolist() == [[-1, -1]]


def test_an_impact_file_of_another_layout_is_refused(tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_text('{"id": 1, "content": "", "vector": {"b": 2, "a": 1}}\n')
    assert read_impacts(path) == (["1"], [{0: 2, 1: 1}], {"b": 0, "a": 1})
    with pytest.raises(UserError, match="no token 'b'"):
        read_impacts(path, {"a": 0})
    path.write_text('{"id": 1, "vector": [1]}\n')
    with pytest.raises(UserError, match="must map tokens"):
        read_impacts(path)


def test_weights_that_are_not_whole_are_refused(tmp_path):
    """Cut to whole numbers, an index of real weights would search by others, most of them 0."""
    path = tmp_path / "d.jsonl"
    path.write_text('{"id": 1, "vector": {"a": 3.0}}\n')
    assert read_impacts(path)[1] == [{0: 3}]
    for weight in ("0.37", "NaN", '"2"'):
        path.write_text('{"id": 1, "vector": {"a": ' + weight + "}}\n")
        with pytest.raises(UserError, match="row 1: impact weights are whole numbers"):
            read_impacts(path)
    with pytest.raises(UserError, match="whole numbers"):
        write_impacts(tmp_path / "new.jsonl", ["1", "2"], [{0: np.int64(2)}, {0: 0.37}], {0: "a"})
    assert not (tmp_path / "new.jsonl").exists()


def test_flat_scores_may_count_nothing():
    assert linear_fusion([{"q": {"a": 2.0}}])["q"] == {"a": 1.0}
    assert linear_fusion([{"q": {"a": 2.0}}], flat=0.0)["q"] == {"a": 0.0}


def encode(texts, role, progress=None):
    """Length of a text as its vector, its words as tokens."""
    words = {w: i for i, w in enumerate(["red", "fox", "blue", "whale"])}
    dense = torch.tensor([[float(len(text)), 1.0] for text in texts])
    sparse = [{words[w]: 1 for w in text.split() if w in words} for text in texts]
    return single(torch.nn.functional.normalize(dense, dim=1), sparse)


def test_kept_texts_are_the_same_after_opening_and_extending(tmp_path):
    index = HybridTextIndex(encode, ["red fox", "blue whale"], alpha=0.0)
    index.save(tmp_path, "key")
    again = HybridTextIndex.open(tmp_path, encode, "key", alpha=0.0)
    assert again.search("whale") == index.search("whale")
    assert again.extend(["blue fox", "red fox"]) == 1
    whole = HybridTextIndex(encode, ["red fox", "blue whale", "blue fox"], alpha=0.0)
    assert again.search(["fox", "blue"], k=2) == whole.search(["fox", "blue"], k=2)
    assert whole.search("fox", threshold=0.5) == [[]]  # equal scores count nothing
    with pytest.raises(UserError, match="another encoder or prompt"):
        HybridTextIndex.open(tmp_path, encode, "other")
    with pytest.raises(UserError, match="not an index for hybrid search"):
        HybridTextIndex.open(tmp_path / "no", encode, "key")


def test_parts_of_encoded_texts_and_their_union():
    some = {
        "dense": torch.arange(3.0)[:, None],
        "sparse": [{0: 1}, {1: 1}, {2: 1}],
        "owner": torch.tensor([0, 0, 1]),
    }
    second = of_texts(some, 1, 2)
    assert (second["dense"].tolist(), second["owner"].tolist()) == ([[2.0]], [0])
    both = joined([some, second])
    assert both["owner"].tolist() == [0, 0, 1, 2]
    assert both["sparse"][3] == {2: 1}
