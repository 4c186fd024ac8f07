"""The public functions: values by hand, reductions, arguments, dispatch, fallback."""

import logging
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from common.kernels import dispatch
from common.kernels.gpu import toolchain
from common.kernels.pair import blocked_autograd, info_nce, pair_stats
from common.kernels.specs.weights import Diagonal, Index, Labels, OnlyPositive
from tests.unit.kernels.cases import labels, small_tiles, unit

__all__ = ["small_tiles"]

BACKENDS = ["dense", "blocked"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("symmetric", [True, False])
def test_info_nce_is_cross_entropy(symmetric: bool, backend: str) -> None:
    q, k = unit(20), unit(20, seed=1)
    logits, target = 7 * q @ k.T, torch.arange(20)
    want = F.cross_entropy(logits, target)
    if symmetric:
        want = (want + F.cross_entropy(logits.T, target)) / 2
    torch.testing.assert_close(info_nce(q, k, 7.0, symmetric=symmetric, backend=backend), want)
    rows = info_nce(q, k, 7.0, symmetric=symmetric, backend=backend, reduction="none")
    torch.testing.assert_close(rows.mean(), want)
    total = info_nce(q, k, 7.0, symmetric=symmetric, backend=backend, reduction="sum")
    torch.testing.assert_close(total, 20 * want)


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_without_positive_do_not_count(backend: str) -> None:
    q, k = unit(4), unit(6, seed=1)
    spec = Index(torch.tensor([2, -1, 0, -1]))
    got = info_nce(q, k, 7.0, spec, symmetric=False, backend=backend)
    want = F.cross_entropy(7 * q[[0, 2]] @ k.T, torch.tensor([2, 0]))
    torch.testing.assert_close(got, want)


def test_no_row_counts() -> None:
    for backend in BACKENDS:
        q = unit(4).requires_grad_()
        spec = Labels(torch.zeros(4).long(), torch.ones(5).long()) & OnlyPositive()
        loss = info_nce(q, unit(5, seed=1), 7.0, spec, symmetric=False, backend=backend)
        assert loss.item() == 0
        assert torch.autograd.grad(loss, q)[0].abs().max() == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_top1_tells_retrieval_hits(backend: str, small_tiles: None) -> None:
    q, k = unit(50, 4), unit(50, 4, seed=1)
    k = F.normalize(q + 0.8 * k)
    stats = pair_stats(q, k, 5.0, Diagonal(), top1=True, backend=backend)
    assert stats.top1 is not None
    hits = (q @ k.T).argmax(1) == torch.arange(50)
    assert torch.equal(stats.top1, hits)
    assert 0 < hits.sum() < 50
    same = pair_stats(q, k, 5.0, Labels(labels(50), labels(50, seed=8)), top1=True, backend=backend)
    assert torch.equal(same.top1, labels(50) == labels(50, seed=8)[(q @ k.T).argmax(1)])


def test_absent_statistics_are_none() -> None:
    stats = pair_stats(unit(3), unit(4), 1.0, Diagonal())
    assert (stats.col_lse, stats.row_mom, stats.top1) == (None, None, None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": torch.zeros(4, 5)}, r"\(N, D\) and \(M, D\), got q \(3, 12\)"),
        ({"k": torch.zeros(0, 12)}, "must not be empty"),
        ({"k": torch.zeros(4, 12).long()}, "floating point"),
        ({"q": unit(3)}, "agree in device and in being float64"),
        ({"scale": torch.ones(3)}, "goes into row_scale"),
        ({"scale": float("nan")}, "scale must be finite"),
        ({"row_scale": torch.ones(4)}, r"row_scale must be \(3,\)"),
        ({"spec": Index(torch.zeros(4).long())}, r"Index\.pos has 4 entries, expected 3"),
        ({"backend": "cuda"}, "backend must be one of"),
        ({"backend": "triton"}, "backend='triton' is impossible here: "),
    ],
)
def test_wrong_arguments_are_refused(changes: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {
        "q": unit(3).float(),
        "k": unit(4).float(),
        "scale": 1.0,
        "spec": Diagonal(),
    }
    with pytest.raises(ValueError, match=message):
        pair_stats(**{**arguments, **changes})  # type: ignore[arg-type]


def test_symmetric_info_nce_needs_pairs() -> None:
    with pytest.raises(ValueError, match="as many keys as queries, got 3 and 4"):
        info_nce(unit(3), unit(4), 1.0)
    with pytest.raises(ValueError, match="mean, sum or none"):
        info_nce(unit(3), unit(3), 1.0, reduction="median")  # type: ignore[arg-type]


def test_auto_is_announced_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "_announced", set())
    monkeypatch.setattr(dispatch, "plain_pairs", lambda *_: 20)
    with caplog.at_level(logging.INFO):
        for size in (3, 9, 3, 9):
            info_nce(unit(size), unit(size), 1.0)
    messages = [r.getMessage() for r in caplog.records if "back end" in r.getMessage()]
    assert [m.split("the ")[1].split()[0] for m in messages] == ["dense", "blocked"]


@pytest.mark.parametrize("lacks", ["", "a C compiler"])
def test_auto_without_a_compiler_warns_once_and_takes_tiles(
    lacks: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "_announced", set())
    monkeypatch.setattr(dispatch, "plain_pairs", lambda *_: 0)
    monkeypatch.setattr(dispatch, "_triton_reason", lambda problem: None)
    monkeypatch.setattr(toolchain, "unmet", lambda: lacks)
    monkeypatch.setattr(dispatch, "_toolchain_reason", dispatch._toolchain_reason.__wrapped__)
    on_card = SimpleNamespace(
        q=SimpleNamespace(device=torch.device("cuda"), shape=(4, 2)),
        num_rows=4,
        num_cols=4,
        kind="one-way",
    )
    with caplog.at_level(logging.WARNING):
        chosen = [dispatch.choose(on_card, "auto") for _ in range(2)]  # type: ignore[arg-type]
    assert chosen == 2 * ["blocked" if lacks else "triton"]
    warned = [r.getMessage() for r in caplog.records]
    assert len(warned) == bool(lacks)
    assert all("Triton needs a C compiler" in message for message in warned)


def test_fallback_equals_plain_autograd() -> None:
    def angular(q: torch.Tensor, k: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Not a bilinear form: no spec describes it."""
        return weight * (q[:, None] - k[None]).norm(dim=-1).neg().logsumexp(1)

    q, k, w = unit(23).requires_grad_(), unit(31, seed=1).requires_grad_(), torch.rand(23).double()
    got = blocked_autograd(angular, q, k, side={"weight": w}, block_rows=5)
    want = angular(q, k, w)
    torch.testing.assert_close(got, want)
    for left, right in zip(
        torch.autograd.grad(got.sin().sum(), [q, k]),
        torch.autograd.grad(want.sin().sum(), [q, k]),
        strict=True,
    ):
        torch.testing.assert_close(left, right)
    with pytest.raises(ValueError, match=r"side\['weight'\] has 3 rows, expected 23"):
        blocked_autograd(angular, q, k, side={"weight": w[:3]})
