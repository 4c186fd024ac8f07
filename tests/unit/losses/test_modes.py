"""Every loss in every mode of torch, below and above the size from which fused operations run."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from common.kernels import crossover
from common.losses.align_uniform import AlignUniformLoss
from common.losses.auxiliary.vicreg import vicreg_terms
from common.losses.functional.info_nce import info_nce
from common.losses.functional.kernel import runs_plain
from common.losses.functional.soft import cwcl
from common.losses.image_text import ClipLoss, SigLipLoss
from common.losses.info_nce import InfoNCELoss
from common.losses.multi_positive import HydraLoss, OneToKLoss, SupConLoss
from common.losses.soft import CWCLLoss, DistillationLoss
from common.losses.two_view import DCLLoss, DebiasedLoss, NTXentLoss, TargetAnchoredLoss
from tests.unit.losses.test_properties import LOSSES as PROPERTY_LOSSES
from tests.unit.losses.test_properties import D, normal

LOSSES = {**PROPERTY_LOSSES, "align_uniform": lambda x, y, s: AlignUniformLoss()(x, y)}
STOPPED = ("info_nce_symmetric", "cwcl")  # weights without gradient: not the full derivative
SIZES = (4, 6)  # 16 pairs and 36, of a limit of 20
SCALE = 4.0


@pytest.fixture(autouse=True)
def _small_limit(monkeypatch):
    for key in crossover.PAIRS:
        monkeypatch.setitem(crossover.PAIRS, key, (20, 20))


def test_the_limit_lies_between_the_sizes():
    small, large = (normal(n, D) for n in SIZES)
    assert runs_plain(small, small, "one-way", {})
    assert not runs_plain(large, large, "one-way", {})


def of(name: str, size: int) -> tuple[Callable[[Tensor], Tensor], Tensor, Tensor]:
    """A loss as a function of its first input, that input and a direction."""
    y = normal(size, D, seed=2)
    function = lambda x: LOSSES[name](x, y, SCALE).loss  # noqa: E731
    return function, normal(size, D, seed=1), normal(size, D, seed=3)


def slope(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Gradient by the ordinary backward."""
    x = x.clone().requires_grad_()
    return torch.autograd.grad(function(x), x)[0]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", LOSSES)
def test_forward_mode(name, size):
    function, x, t = of(name, size)
    expected = (slope(function, x) * t).sum()
    torch.testing.assert_close(torch.func.jvp(function, (x,), (t,))[1], expected)
    with forward_ad.dual_level():
        out = function(forward_ad.make_dual(x, t))
        torch.testing.assert_close(forward_ad.unpack_dual(out).tangent, expected)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", LOSSES)
def test_transforms(name, size):
    function, x, t = of(name, size)
    torch.testing.assert_close(torch.func.grad(function)(x), slope(function, x))
    both = torch.stack([x, t])
    expected = torch.stack([slope(function, x), slope(function, t)])
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(function))(both), expected)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", [n for n in LOSSES if n not in STOPPED])
def test_second_derivatives(name, size):
    """Against a difference of gradients."""
    function, x, t = of(name, size)
    leaf = x.clone().requires_grad_()
    first = torch.autograd.grad(function(leaf), leaf, create_graph=True)[0]
    torch.testing.assert_close(first, slope(function, x))
    second = torch.autograd.grad((first * t).sum(), leaf)[0]
    step = 1e-5
    expected = (slope(function, x + step * t) - slope(function, x - step * t)) / (2 * step)
    torch.testing.assert_close(second, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", LOSSES)
def test_batched_gradients(name, size):
    """Gradients of all samples at once, as `jacobian(vectorize=True)` asks for them."""
    x = normal(size, D, seed=1).requires_grad_()
    rows = LOSSES[name](x, normal(size, D, seed=2), SCALE).per_sample
    one = torch.autograd.grad(rows[0], x, retain_graph=True)[0]
    all_rows = torch.eye(len(rows), dtype=rows.dtype)
    batched = torch.autograd.grad(rows, x, all_rows, is_grads_batched=True)[0]
    torch.testing.assert_close(batched[0], one)


FREE_OF_LABELS = {
    "clip": ClipLoss(),
    "siglip": SigLipLoss(),
    "info_nce": InfoNCELoss(),
    "hardness": InfoNCELoss(hardness=1.0),
    "nt_xent": NTXentLoss(),
    "dcl": DCLLoss(weighted=True),
    "debiased": DebiasedLoss(),
    "target_anchored": TargetAnchoredLoss(),
    "cwcl": CWCLLoss(),
    "one_to_k": OneToKLoss(1),
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", FREE_OF_LABELS)
def test_meta_tensors(name, size):
    x, y = (torch.empty(size, D, device="meta", requires_grad=True) for _ in range(2))
    out = FREE_OF_LABELS[name](x, y, SCALE)
    out.loss.backward()
    assert (out.loss.shape, out.per_sample.shape) == ((), (size,))
    assert name == "target_anchored" or x.grad.shape == (size, D)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", FREE_OF_LABELS)
def test_wrong_inputs_are_refused_in_a_sentence(name, size):
    loss, x = FREE_OF_LABELS[name], torch.randn(size, D)
    wrong = {
        "tensor": ([x.tolist(), x.tolist()], "must be .*tensors?.*got list"),
        "dtype": ([x, x.double()], "torch.float32 and torch.float64"),
        "rows": ([x, x[1:]], rf"\({size}, {D}\) and \({size - 1}, {D}\)"),
        "dim": ([x, x[:, 1:]], rf"\({size}, {D}\) and \({size}, {D - 1}\)"),
    }
    for inputs, message in wrong.values():
        with pytest.raises(ValueError, match=message):
            loss(*inputs, SCALE)
    for scale in (float("nan"), torch.ones(2)):
        with pytest.raises(ValueError, match="scale must"):
            loss(x, x, scale)


def test_labels_and_features_that_do_not_fit_are_refused():
    x = torch.randn(4, D)
    with pytest.raises(ValueError, match="embeddings must be a tensor, got list"):
        SupConLoss()(x.tolist(), torch.arange(4), SCALE)
    with pytest.raises(ValueError, match="labels must be a tensor, got list"):
        SupConLoss()(x, [0, 0, 1, 1], SCALE)
    with pytest.raises(ValueError, match="must be tensors .*, got Tensor and list"):
        HydraLoss()(x, x.tolist(), torch.arange(4), torch.arange(4), SCALE)
    with pytest.raises(ValueError, match=r"features .*\(3, 5\) and \(4, 5\) for 4 queries"):
        cwcl(x, x, x[:3], x, SCALE)
    with pytest.raises(ValueError, match=r"teacher .*\(4, 5\) and \(2, 5\) for 4 queries"):
        DistillationLoss()(x, x, x, x[:2], SCALE, SCALE)
    with pytest.raises(ValueError, match=r"one image has no variance.*\(1, 5\)"):
        vicreg_terms(x[:1], x[:1])


@pytest.mark.parametrize("backend", ["dense", "blocked"])
@pytest.mark.parametrize("loss", [InfoNCELoss, ClipLoss, NTXentLoss, TargetAnchoredLoss])
def test_a_single_sample_has_no_loss(loss, backend):
    """Nothing but the positive is in the denominator."""
    x = normal(1, D, seed=1).requires_grad_()
    y = normal(1, D, seed=2).requires_grad_()
    out = loss(backend=backend)(x, y, SCALE)
    out.loss.backward()
    assert out.loss.abs() < 1e-12
    assert y.grad.abs().max() < 1e-12
    assert out.hits.tolist() == [True]


@pytest.mark.parametrize("backend", ["dense", "blocked"])
def test_a_single_sample_of_sup_con_does_not_count(backend):
    x = normal(1, D, seed=1).requires_grad_()
    out = SupConLoss(backend=backend)(x, torch.tensor([3]), SCALE)
    out.loss.backward()
    assert out.loss.item() == 0
    assert x.grad.abs().max() == 0


def test_an_option_changed_later_counts():
    """Whether the plain form applies is asked in each call."""
    loss, x, y = InfoNCELoss(), normal(4, D, seed=1), normal(4, D, seed=2)
    loss.margin = 0.2
    torch.testing.assert_close(loss(x, y, SCALE).loss, InfoNCELoss(margin=0.2)(x, y, SCALE).loss)
    assert not torch.isclose(loss(x, y, SCALE).loss, InfoNCELoss()(x, y, SCALE).loss)


def test_half_precision_is_left_to_the_kernels():
    x = torch.randn(4, D).bfloat16()
    assert not runs_plain(x, x, "one-way", {})
    assert info_nce(x, x, SCALE).loss.dtype == torch.float32
