"""lightly's losses: against our own, and against the library where it is installed."""

import pytest
import torch
import torch.nn.functional as F

from common.losses import two_view
from common.losses.adapters.lightly import DCLLoss, DCLWLoss, NTXentLoss
from tests.unit.losses.adapters.equal import assert_same, matrices


def test_temperature_divides():
    x, y = matrices()
    assert_same(lambda: NTXentLoss(0.1)(x, y), lambda: two_view.NTXentLoss()(x, y, 10.0).loss, x, y)
    assert_same(lambda: DCLLoss(0.1)(x, y), lambda: 0.5 * two_view.DCLLoss()(x, y, 10.0).loss, x, y)
    weighted = two_view.DCLLoss(weighted=True, sigma=0.3, detach_weight=True)
    assert_same(
        lambda: DCLWLoss(0.1, sigma=0.3)(x, y), lambda: 0.5 * weighted(x, y, 10.0).loss, x, y
    )


def test_the_bank_holds_the_only_negatives_and_replaces_its_oldest_rows():
    loss = NTXentLoss(temperature=0.2, memory_bank_size=(5, 6))
    x, y = matrices(rows=3)
    bank = loss.memory_bank.bank.clone()
    u, v = F.normalize(x, dim=1), F.normalize(y, dim=1)
    logits = torch.cat([(u * v).sum(1, keepdim=True), u @ bank.double().T], dim=1) / 0.2
    expected = F.cross_entropy(logits, torch.zeros(3, dtype=torch.long))
    torch.testing.assert_close(loss(x, y), expected)
    torch.testing.assert_close(loss.memory_bank.bank[:3], v.float())
    torch.testing.assert_close(loss.memory_bank.bank[3:], bank[3:])
    loss(x, y)  # two rows fit before the end
    torch.testing.assert_close(loss.memory_bank.bank[3:], v[:2].float())
    assert loss.memory_bank.start == 0


def test_evaluation_leaves_the_bank():
    loss = NTXentLoss(memory_bank_size=(5, 6))
    bank = loss.memory_bank.bank.clone()
    x, y = (z.detach() for z in matrices(rows=3))
    loss(x, y)
    assert torch.equal(loss.memory_bank.bank, bank)
    assert "memory_bank.bank" not in loss.state_dict()


def test_one_sample_has_no_loss_but_a_gradient():
    x, y = matrices(rows=1)
    loss = NTXentLoss()(x, y)
    assert float(loss) == 0
    assert not torch.autograd.grad(loss, x)[0].any()


def test_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="temperature must differ from 0"):
        NTXentLoss(temperature=0.0)
    with pytest.raises(ValueError, match=r"must be \(rows, dim\)"):
        NTXentLoss(memory_bank_size=-1)


@pytest.mark.parametrize("temperature", [0.1, 0.5, -1.0])
def test_equals_the_library(temperature):
    library = pytest.importorskip("lightly.loss", reason="not installed: make test-peers")
    x, y = matrices()

    def weights(out0, out1):
        return (out0[:, 0] - 2 * out1[:, 1]) ** 2

    for ours, theirs in [
        (NTXentLoss(temperature), library.NTXentLoss(temperature)),
        (DCLLoss(temperature), library.DCLLoss(temperature)),
        (DCLLoss(temperature, weights), library.DCLLoss(temperature, weights)),
        (DCLWLoss(temperature, 0.3), library.DCLWLoss(temperature, 0.3)),
    ]:
        assert_same(lambda ours=ours: ours(x, y), lambda loss=theirs: loss(x, y), x, y)


def test_the_bank_equals_the_library():
    library = pytest.importorskip("lightly.loss", reason="not installed: make test-peers")
    ours, theirs = NTXentLoss(0.2, (20, 6)), library.NTXentLoss(0.2, (20, 6))
    theirs.memory_bank.bank.copy_(ours.memory_bank.bank)
    for x, y in [matrices(2, rows) for rows in (9, 9, 2, 1, 20, 7)]:
        x, y = x.float(), y.float()  # the library's bank is float32
        assert_same(lambda: ours(x, y), lambda: theirs(x, y), x, tolerance=2e-6)  # noqa: B023
        assert torch.equal(ours.memory_bank.bank, theirs.memory_bank.bank)
