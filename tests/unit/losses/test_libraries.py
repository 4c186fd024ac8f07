"""Equality with other libraries; a library that is not installed skips its test."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from common.losses import image_text
from common.losses.info_nce import InfoNCELoss
from common.losses.multi_positive import SupConLoss
from common.losses.two_view import DCLLoss, NTXentLoss

N, D = 9, 6


def embeddings() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    pair = torch.randn(2, N, D, dtype=torch.float64, generator=generator)
    return tuple(x.requires_grad_() for x in pair)


def gradients(loss: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return loss.detach(), *torch.autograd.grad(loss, inputs)


def assert_same(found: tuple[Tensor, ...], wanted: tuple[Tensor, ...], rel: float = 1e-10) -> None:
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=rel, atol=rel)


@pytest.mark.parametrize("scale", [14.3, 100.0])
def test_open_clip_clip(scale):
    from open_clip.loss import ClipLoss

    (x, y), s = embeddings(), torch.tensor(scale, dtype=torch.float64, requires_grad=True)
    expected = ClipLoss()(F.normalize(x, dim=1), F.normalize(y, dim=1), s)
    assert_same(
        gradients(image_text.ClipLoss()(x, y, s).loss, x, y, s), gradients(expected, x, y, s)
    )


def test_open_clip_siglip():
    from open_clip.loss import SigLipLoss

    (x, y) = embeddings()
    s, b = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (10.0, -10.0))
    expected = SigLipLoss()(F.normalize(x, dim=1), F.normalize(y, dim=1), s, b)
    actual = image_text.SigLipLoss()(x, y, s, b).loss
    assert_same(gradients(actual, x, y, s, b), gradients(expected, x, y, s, b))


def test_sentence_transformers_multiple_negatives_ranking():
    library = pytest.importorskip(
        "sentence_transformers.losses", reason="sentence-transformers is not installed"
    )
    x, y = embeddings()
    hard = torch.randn(N, D, dtype=torch.float64)
    loss = library.MultipleNegativesRankingLoss(model=None, scale=20.0)
    expected = loss.compute_loss_from_embeddings([x, y, hard], None)
    actual = InfoNCELoss()(x, y, 20.0, hard_negatives=hard).loss
    assert_same(gradients(actual, x, y), gradients(expected, x, y), rel=1e-6)


def test_lightly_nt_xent_and_dcl():
    library = pytest.importorskip("lightly.loss", reason="lightly is not installed")
    x, y = embeddings()
    expected = library.NTXentLoss(temperature=0.1)(x, y)
    assert_same(gradients(NTXentLoss()(x, y, 10.0).loss, x, y), gradients(expected, x, y), 1e-6)
    expected = library.DCLLoss(temperature=0.1)(x, y)  # mean of the directions, ours is the sum
    actual = 0.5 * DCLLoss()(x, y, 10.0).loss
    assert_same(gradients(actual, x, y), gradients(expected, x, y), 1e-6)


def test_pytorch_metric_learning_sup_con():
    library = pytest.importorskip(
        "pytorch_metric_learning.losses", reason="pytorch-metric-learning is not installed"
    )
    x, y = embeddings()
    labels = torch.arange(2 * N) % 4
    z = torch.cat([x, y])
    expected = library.SupConLoss(temperature=0.1)(z, labels)
    actual = SupConLoss()(z, labels, 10.0).loss
    assert_same(gradients(actual, x, y), gradients(expected, x, y), rel=1e-6)
