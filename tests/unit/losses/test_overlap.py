"""Two views with a weight for every pair of samples, and weights made of sets in tiles."""

import pytest
import torch
from torch.nn import functional as F

from common.losses.functional.soft import weighted_info_nce
from common.losses.weighted import overlap
from common.losses.weighted.overlap import Given, SetOverlap, weighted_two_view


def sets_of(size=11, seed=0):
    """Python sets, and the same as flat ids and sizes."""
    g = torch.Generator().manual_seed(seed)
    own = [
        set(torch.randint(0, 9, (int(n),), generator=g).tolist())
        for n in torch.randint(0, 5, (size,), generator=g)
    ]
    ids = torch.tensor([i + 2**40 for s in own for i in sorted(s)])
    return own, SetOverlap(ids, torch.tensor([len(s) for s in own]))


def dense(own):
    """Jaccard with loops."""
    return torch.tensor(
        [
            [1.0 if i == j else len(a & b) / max(1, len(a | b)) for j, b in enumerate(own)]
            for i, a in enumerate(own)
        ],
        dtype=torch.float64,
    )


def views(size=11, dim=5):
    z = torch.randn(2, size, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    return F.normalize(z, dim=-1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_tiles_are_jaccard_indices(dtype):
    own, sets = sets_of()
    actual = torch.cat(
        [sets.rows(a, min(a + 4, 11), torch.empty(0, dtype=dtype)) for a in (0, 4, 8)]
    )
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 1e-2}[dtype]
    torch.testing.assert_close(actual.double(), dense(own), atol=tolerance, rtol=0)
    empty = SetOverlap(torch.empty(0, dtype=torch.long), torch.zeros(3, dtype=torch.long))
    assert torch.equal(empty.rows(0, 3, torch.empty(0)), torch.eye(3))
    with pytest.raises(ValueError, match="add up"):
        SetOverlap(torch.tensor([1, 2]), torch.tensor([1]))


def test_tiles_of_a_later_rank_are_rows_of_the_whole():
    own, sets = sets_of()
    late = SetOverlap(sets.ids, sets.counts, first=6)
    torch.testing.assert_close(late.rows(0, 5, torch.empty(0, dtype=torch.float64)), dense(own)[6:])


@pytest.mark.parametrize("tile", [1, 3, 1024])
def test_loss_and_gradient_are_those_of_the_dense_form(tile, monkeypatch):
    """Weights that stand in a (2N, 2N) matrix, against tiles of any size."""
    monkeypatch.setattr(overlap, "TILE", tile)
    own, sets = sets_of()
    actual, want = (views().requires_grad_() for _ in range(2))
    tiled = weighted_two_view(actual[0], actual[1], 9.0, sets)
    both = want.flatten(0, 1)
    whole = weighted_info_nce(both, both, 9.0, dense(own).repeat(2, 2), exclude_self=True)
    torch.testing.assert_close(tiled.loss, whole.loss)
    torch.testing.assert_close(tiled.per_sample, whole.per_sample.view(2, -1).mean(0))
    tiled.loss.backward()
    whole.loss.backward()
    torch.testing.assert_close(actual.grad, want.grad)


def test_weights_need_not_be_symmetric():
    weights = torch.rand(
        4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    ).fill_diagonal_(1.0)
    z = torch.randn(
        2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True
    )
    assert torch.autograd.gradcheck(
        lambda x: weighted_two_view(x[0], x[1], 1.5, Given(weights), unit_norm=False).loss, z
    )


def test_a_batch_is_never_a_matrix_of_pairs(monkeypatch):
    """Peak of what is alive: tiles of rows, not all weights."""
    monkeypatch.setattr(overlap, "TILE", 64)
    sizes = []
    made = SetOverlap.rows

    def watched(self, start, stop, like):
        actual = made(self, start, stop, like)
        sizes.append(tuple(actual.shape))
        return actual

    monkeypatch.setattr(SetOverlap, "rows", watched)
    g = torch.Generator().manual_seed(0)
    z = F.normalize(torch.randn(2, 300, 8, generator=g), dim=-1).requires_grad_()
    sets = SetOverlap(torch.randint(0, 50, (300,), generator=g), torch.ones(300, dtype=torch.long))
    weighted_two_view(z[0], z[1], 10.0, sets, backend="blocked").loss.backward()
    assert len(sizes) == 10  # five tiles forward, five backward
    assert max(rows for rows, _ in sizes) == 64
