"""Positive-aware mining of texts with BM25 and with an encoder; planted false negatives."""

import pytest
import torch

from common.evaluation.retrieval.bm25 import BM25
from common.evaluation.retrieval.text_mining import mine_text_negatives, planted_share

DOCUMENTS = ["red fox", "red fox runs", "red car", "blue car", "green tree"]
POINTS = {
    "q": [1.0, 0.0],
    **dict(
        zip(DOCUMENTS, [[1.0, 0.0], [1.0, 0.1], [0.8, 0.6], [0.0, 1.0], [-1.0, 0.2]], strict=True)
    ),
}


def embed(texts):
    return torch.tensor([POINTS[text] for text in texts])


def test_encoder_as_teacher():
    """Document 1 is a planted positive: its cosine is above 0.95 of the positive's."""
    options = {"query_encoder": embed, "num_negatives": 2}
    kept = mine_text_negatives(["q"], DOCUMENTS, [[0]], **options)
    assert kept.indices.tolist() == [[2, 3]]
    assert kept.removed == 0.5
    naive = mine_text_negatives(["q"], DOCUMENTS, [[0]], ratio=None, **options)
    assert naive.indices.tolist() == [[1, 2]]
    assert naive.texts(DOCUMENTS) == [["red fox runs", "red car"]]
    planted = [{1}]
    assert planted_share(kept, planted) == 0.0
    assert planted_share(naive, planted) == 0.5


def test_bm25_as_teacher():
    naive = mine_text_negatives(["red fox"], DOCUMENTS, [[0]], 2, ratio=None)
    assert naive.indices.tolist() == [[1, 2]]
    kept = mine_text_negatives(["red fox"], DOCUMENTS, [[0]], 2, ratio=0.5)
    assert 1 not in kept.indices[0].tolist()
    assert 0 not in kept.indices[0].tolist()


def test_pair_scores_are_the_lowest_of_a_querys_documents():
    index = BM25(DOCUMENTS)
    actual = index.search(["red fox", "blue car"], k=5)
    table = torch.zeros(2, 5, dtype=torch.float64).scatter(1, actual.indices, actual.scores)
    scores = index.pair_scores(["red fox", "blue car"], [[0, 2], [3]])
    torch.testing.assert_close(scores, torch.stack([table[0, [0, 2]].min(), table[1, 3]]))
    with pytest.raises(ValueError, match="every query"):
        index.pair_scores(["red"], [[]])
