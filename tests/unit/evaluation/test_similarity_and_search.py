"""Exact search: ties, exclusions, chunk invariance, refusals."""

import numpy as np
import pytest
import torch

from common.evaluation import search as search_module
from common.evaluation.matrices import as_matrix, exact_math, index_pairs
from common.evaluation.search import search, stable_topk


def embeddings(rows: int, dim: int = 8, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("metric", ["cosine", "dot"])
@pytest.mark.parametrize("chunk_size", [1, 3, 7, 4096])
def test_search_equals_full_sort_for_every_chunk_size(metric, chunk_size):
    query, gallery = embeddings(5), embeddings(23, seed=1) * torch.arange(1, 24)[:, None]
    a, b = query.numpy(), gallery.numpy()
    if metric == "cosine":
        a = a / np.linalg.norm(a, axis=1, keepdims=True)
        b = b / np.linalg.norm(b, axis=1, keepdims=True)
    expected = np.argsort(-(a @ b.T), axis=1, kind="stable")[:, :6]
    result = search(query, gallery, 6, metric=metric, chunk_size=chunk_size, backend="torch")
    assert np.array_equal(result.indices.numpy(), expected)
    np.testing.assert_allclose(
        result.scores.numpy(), np.take_along_axis(a @ b.T, expected, axis=1), rtol=1e-12
    )


def test_cosine_and_dot_differ_when_norms_do():
    gallery = torch.tensor([[1.0, 0.0], [3.0, 4.0]])
    query = torch.tensor([[1.0, 0.0]])
    assert search(query, gallery, 1, metric="cosine").indices.item() == 0
    assert search(query, gallery, 1, metric="dot").indices.item() == 1


@pytest.mark.parametrize("chunk_size", [1, 2, 5, 100])
def test_ties_go_to_the_lower_index(chunk_size):
    gallery = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    query = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    result = search(query, gallery, 3, chunk_size=chunk_size, backend="torch")
    assert result.indices.tolist() == [[1, 2, 3], [0, 1, 2]]


def test_stable_topk_orders_ties_and_survives_minus_infinity():
    scores = torch.tensor([[2.0, 5.0, 2.0, 5.0, 2.0], [-torch.inf] * 5])
    result = stable_topk(scores, 4)
    assert result.indices.tolist() == [[1, 3, 0, 2], [0, 1, 2, 3]]
    assert result.scores[0].tolist() == [5.0, 5.0, 2.0, 2.0]


def test_excluded_items_are_never_returned():
    gallery = embeddings(9)
    plain = search(gallery, gallery, 1).indices[:, 0]
    without = search(gallery, gallery, 8, exclude=range(9), chunk_size=4).indices
    assert plain.tolist() == list(range(9))  # the negative twin: without it, all find themselves
    for row, actual in enumerate(without.tolist()):
        assert sorted([*actual, row]) == list(range(9))


def test_half_precision_input_is_searched_in_float32():
    gallery = embeddings(10).half()
    result = search(gallery, gallery, 1)
    assert result.scores.dtype == torch.float32
    assert result.indices[:, 0].tolist() == list(range(10))


@pytest.mark.parametrize("exclude", [None, range(7), [[i, i + 40, 3] for i in range(7)]])
def test_faiss_and_torch_agree_also_on_ties(exclude):
    gallery = embeddings(40, dtype=torch.float32).round()
    gallery = torch.cat([gallery, gallery])  # every item twice
    for k in (1, 5, 77):
        ours, theirs = (
            search(gallery[:7], gallery, k, metric="dot", exclude=exclude, backend=backend)
            for backend in ("torch", "faiss")
        )
        assert torch.equal(ours.indices, theirs.indices)
        torch.testing.assert_close(ours.scores, theirs.scores)
        for row, items in enumerate([] if exclude is None else exclude):
            left_out = {items} if isinstance(items, int) else set(items)
            assert not left_out & set(theirs.indices[row].tolist())


def test_auto_takes_faiss_where_it_is_faster(monkeypatch):
    """Many queries, few exclusions, float32 on the CPU."""
    calls = []
    search_faiss = search_module._search_faiss
    monkeypatch.setattr(
        search_module, "_search_faiss", lambda *x: calls.append(len(x[0])) or search_faiss(*x)
    )
    gallery = embeddings(200, dtype=torch.float32)
    search(gallery[:5], gallery, 3)
    search(gallery, gallery, 3, exclude=range(200))
    assert calls == [5, 200]
    search(gallery[:4], gallery, 3)  # few queries
    search(gallery, gallery, 3, exclude=[range(17)] * 200)
    search(gallery.double(), gallery.double(), 3)
    search(gallery, gallery, 3, backend="torch")
    assert calls == [5, 200]


def test_faiss_where_it_does_not_apply():
    gallery = embeddings(9)  # float64
    with pytest.raises(ValueError, match="float32 on the CPU"):
        search(gallery, gallery, 1, backend="faiss")
    gallery = embeddings(20).float()
    with pytest.raises(ValueError, match="at most 16 excluded items per query, got .* 17"):
        search(gallery[:1], gallery, 1, exclude=[range(17)], backend="faiss")


def test_exact_math_disables_autocast_and_restores_precision():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert (torch.eye(2) @ torch.eye(2)).dtype == torch.bfloat16
            with exact_math(torch.device("cpu")):
                assert (torch.eye(2) @ torch.eye(2)).dtype == torch.float32
                assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_refusals_say_what_is_wrong():
    eye = torch.eye(3)
    with pytest.raises(ValueError, match="1 of 3 rows hold NaN"):
        search(eye.clone().index_fill_(0, torch.tensor([1]), float("nan")), eye, 1)
    with pytest.raises(ValueError, match="must share dimension"):
        search(eye, torch.eye(4), 1)
    with pytest.raises(ValueError, match=r"k must lie in \[1, 2\]"):
        search(eye, eye, 3, exclude=[0, 1, 2])
    with pytest.raises(ValueError, match="metric must be"):
        search(eye, eye, 1, metric="euclid")
    with pytest.raises(ValueError, match="backend must be"):
        search(eye, eye, 1, backend="annoy")
    with pytest.raises(ValueError, match="at least one row"):
        search(eye, eye, 1, chunk_size=0, backend="torch")
    with pytest.raises(ValueError, match="floating-point"):
        as_matrix(torch.ones(2, 2, dtype=torch.long), "x")
    with pytest.raises(ValueError, match="gallery has 3 items"):
        index_pairs([3], 1, 3, "relevance")
    with pytest.raises(ValueError, match="2 entries for 1 queries"):
        index_pairs([0, 1], 1, 3, "relevance")
