"""Losses under other libraries' names in two processes: open_clip's flags, lightly's gathering."""

import pytest
import torch
import torch.nn.functional as F
from open_clip import loss as open_clip
from torch import Tensor

from common.distributed import process
from common.distributed.collectives import all_gather_no_grad
from common.losses import two_view
from common.losses.adapters import lightly, sentence_transformers
from common.losses.adapters.open_clip import ClipLoss, SigLipLoss

FLAGS = [(False, False), (False, True), (True, False), (True, True)]


def batch() -> tuple[list[Tensor], list[Tensor]]:
    """Three rows of two sides for this process, and the parameters of a model."""
    generator = torch.Generator().manual_seed(process.rank())
    sides = torch.randn(2, 3, 5, dtype=torch.float64, generator=generator)
    scalars = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (9.0, -2.0)]
    return [side.requires_grad_() for side in sides.unbind()], scalars


def gradients(loss: Tensor, sides: list[Tensor], scalars: list[Tensor]) -> list[Tensor]:
    """The loss, gradients of the rows, and those of the parameters as DDP averages them."""
    *rows, scale, bias = torch.autograd.grad(loss, [*sides, *scalars], allow_unused=True)
    parameters = [torch.zeros(1) if g is None else g.reshape(1) for g in (scale, bias)]
    averaged = [all_gather_no_grad(g).mean() for g in parameters]
    return [loss.detach(), *rows, *averaged]


def clip_worker(local_loss: bool, gather_with_grad: bool) -> list[list[Tensor]]:
    arguments = {
        "local_loss": local_loss,
        "gather_with_grad": gather_with_grad,
        "rank": process.rank(),
        "world_size": process.world_size(),
    }
    results = []
    for module in (ClipLoss, open_clip.ClipLoss):
        sides, scalars = batch()
        features = [F.normalize(side, dim=1) for side in sides]
        loss = module(**arguments)(*features, *scalars, output_dict=True)["contrastive_loss"]
        results.append(gradients(loss, sides, scalars))
    return results


def siglip_worker(dist_impl: str) -> list[list[Tensor]]:
    arguments = {"rank": process.rank(), "world_size": process.world_size(), "dist_impl": dist_impl}
    results = []
    for module in (SigLipLoss, open_clip.SigLipLoss):
        sides, scalars = batch()
        features = [F.normalize(side, dim=1) for side in sides]
        results.append(gradients(module(**arguments)(*features, *scalars), sides, scalars))
    return results


def gathering_worker() -> list[float]:
    """Losses with gathering, and those of all rows in one process."""
    (x, y), _ = batch()
    everyone = [all_gather_no_grad(side) for side in (x, y)]
    alone = two_view.NTXentLoss(gather=False)(*everyone, 10.0).loss
    gathered = lightly.NTXentLoss(0.1, gather_distributed=True)(x, y)
    ranking = sentence_transformers.MultipleNegativesRankingLoss
    joint = {"directions": sentence_transformers.DIRECTIONS}
    ranked = ranking(None, gather_across_devices=True, **joint)
    return [
        float(value)
        for value in (
            all_gather_no_grad(gathered.reshape(1)).mean(),
            alone,
            lightly.NTXentLoss(0.1)(x, y),
            all_gather_no_grad(ranked.compute_loss_from_embeddings([x, y]).reshape(1)).mean(),
            ranking(None, **joint).compute_loss_from_embeddings(everyone),
        )
    ]


def bank_worker() -> list[Tensor]:
    (x, y), _ = batch()
    loss = lightly.NTXentLoss(memory_bank_size=(8, 5), gather_distributed=True)
    loss(x, y)
    return [loss.memory_bank.bank[:6], F.normalize(all_gather_no_grad(y), dim=1).float()]


def assert_pairs(results: list[list[list[Tensor]]]) -> None:
    for ours, theirs in results:
        for actual, expected in zip(ours, theirs, strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10, check_dtype=False)


@pytest.mark.parametrize(("local_loss", "gather_with_grad"), FLAGS)
def test_clip_follows_open_clips_flags(two_ranks, local_loss, gather_with_grad):
    assert_pairs(
        two_ranks.run(clip_worker, local_loss=local_loss, gather_with_grad=gather_with_grad)
    )


def test_the_flags_make_a_difference(two_ranks):
    rows = [two_ranks.run(clip_worker, local_loss=a, gather_with_grad=b)[0][0] for a, b in FLAGS]
    full = rows[3][1]
    torch.testing.assert_close(rows[0][1], full / 2)
    torch.testing.assert_close(rows[1][1], full)
    assert not torch.allclose(rows[2][1], full, rtol=1e-2)
    assert not torch.allclose(rows[1][0], rows[3][0])


@pytest.mark.parametrize("dist_impl", ["bidir", "gather"])
def test_siglip_equals_open_clip(two_ranks, dist_impl):
    assert_pairs(two_ranks.run(siglip_worker, dist_impl=dist_impl))


def test_gathering_is_the_loss_of_all_rows(two_ranks):
    for nt_xent, alone, local, ranked, ranked_alone in two_ranks.run(gathering_worker):
        assert nt_xent == pytest.approx(alone)
        assert nt_xent != pytest.approx(local, rel=1e-3)
        assert ranked == pytest.approx(ranked_alone)


def test_the_bank_stores_rows_of_all_processes(two_ranks):
    for bank, rows in two_ranks.run(bank_worker):
        torch.testing.assert_close(bank, rows)
