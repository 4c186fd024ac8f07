"""Queries that are the keys: which problems need half of the tiles, and what the halves give."""

import pytest
import torch
from torch.nn.functional import normalize

from common.kernels.arguments import make_problem
from common.kernels.blocked import tiling
from common.kernels.core.linear import is_symmetric
from common.kernels.pair import pair_stats
from common.kernels.specs.weights import (
    Diagonal,
    Exclude,
    ExcludePositive,
    ExcludeSelf,
    Index,
    Labels,
    OnlyPositive,
    Partner,
    nt_xent_spec,
)
from common.losses.functional.two_view import nt_xent

N = 24
RANDOM = torch.Generator().manual_seed(0)
KIND, OTHER = (torch.randint(3, (N,), generator=RANDOM) for _ in range(2))
NEXT = (torch.arange(N) + 1) % N  # the positive of i is i + 1, and that of i + 1 is not i
SPECS = {
    "two views": nt_xent_spec(N // 2),
    "two views, decoupled": nt_xent_spec(N // 2) & ExcludePositive(),
    "labels": Labels(KIND, KIND, exclude_self=True),
    "labels, positives alone": Labels(KIND, KIND, exclude_self=True) & OnlyPositive(),
    "labels, decoupled": Labels(KIND, KIND, exclude_self=True) & ExcludePositive(),
    "ids": Partner(N // 2) & ExcludeSelf() & Exclude(KIND, KIND),
    "others' labels": Labels(OTHER, KIND, exclude_self=True),
    "others' labels, decoupled": Labels(OTHER, KIND, exclude_self=True) & ExcludePositive(),
    "next": Index(NEXT) & ExcludeSelf(),
    "next, decoupled": Index(NEXT) & ExcludeSelf() & ExcludePositive(),
    "next, kept of equal ids": Index(NEXT) & ExcludeSelf() & Exclude(KIND, KIND),
    "others' ids": Diagonal() & Exclude(OTHER, KIND),
    "two views and more rows": Partner(N // 3) & ExcludeSelf() & ExcludePositive(),
}
ONE_SIDED = {"others' labels", "next"}  # of which some rows hit, and others don't
HALF = {
    "two views",
    "two views, decoupled",
    "labels",
    "labels, positives alone",
    "labels, decoupled",
    "ids",
}


def statistics(name, backend, top1):
    steps = torch.randn(N, 3, generator=torch.Generator().manual_seed(1))
    rows = normalize(steps.cumsum(0), dim=-1)  # a walk, so that some positives are the nearest rows
    rows.requires_grad_()
    stats = pair_stats(rows, rows, 5.0, SPECS[name], columns=True, top1=top1, backend=backend)
    finite = [x.masked_fill(x.isneginf(), 0) for x in (stats.row_lse, stats.col_lse, stats.row_lin)]
    weights = torch.linspace(0.5, 1.5, N)
    sum((x * weights * (i + 1)).sum() for i, x in enumerate(finite)).backward()
    return (*finite, rows.grad), stats.top1


@pytest.mark.parametrize("top1", [False, True])
@pytest.mark.parametrize("name", SPECS)
def test_halves_give_what_the_whole_matrix_gives(name, top1, monkeypatch):
    """Index and Labels whose positives are not mutual were halved all the same, with a wrong top-1
    or loss.
    """
    monkeypatch.setattr(tiling, "ROWS", 7)
    monkeypatch.setattr(tiling, "COLS", 7)
    monkeypatch.setattr(tiling, "SINGLE", 1)
    blocked, hits = statistics(name, "blocked", top1)
    dense, expected = statistics(name, "dense", top1)
    for actual, value in zip(blocked, dense, strict=True):
        torch.testing.assert_close(actual, value, rtol=1e-5, atol=1e-5)
    assert hits is None or torch.equal(hits, expected)
    assert not top1 or name not in ONE_SIDED or 0 < expected.sum() < N


@pytest.mark.parametrize("name", SPECS)
def test_which_problems_are_halved(name):
    rows = torch.eye(N)
    problem = make_problem(rows, rows, 1.0, SPECS[name], top1=True)
    assert is_symmetric(problem) == (name in HALF)


def test_positives_that_nothing_asks_for_need_not_be_mutual():
    rows = torch.eye(N)
    assert is_symmetric(make_problem(rows, rows, 1.0, SPECS["next"]))


def test_nt_xent_visits_half_of_the_tiles(monkeypatch):
    """The module asked for all of them, since its denominators leave the positive out."""
    monkeypatch.setattr(tiling, "ROWS", 8)
    monkeypatch.setattr(tiling, "SINGLE", 1)
    visited = []
    tiles = tiling.Sweep.tiles
    monkeypatch.setattr(
        tiling.Sweep,
        "tiles",
        lambda own: visited.extend(actual := list(tiles(own))) or iter(actual),
    )
    views = normalize(torch.randn(2, 16, 8, generator=RANDOM), dim=-1).requires_grad_()
    nt_xent(*views, 5.0, backend="blocked").loss.backward()
    assert len(visited) == 2 * 10  # of 16, forward and backward


def test_excluded_ids_compile():
    """The address of a traced tensor cannot be read."""
    rows = normalize(torch.randn(N, 8, generator=RANDOM), dim=-1)

    def loss(x, ids):
        return pair_stats(
            x, x, 5.0, Diagonal() & Exclude(ids, ids), backend="blocked"
        ).row_lse.sum()

    torch.compiler.reset()
    compiled = torch.compile(loss, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(rows, KIND), loss(rows, KIND))
