"""What a loss lets the products of its embeddings be rounded to."""

import inspect

import pytest
import torch

import common.losses.align_uniform as align_uniform
import common.losses.cacr as cacr
import common.losses.image_text as image_text
import common.losses.info_nce as info_nce
import common.losses.multi_positive as multi_positive
import common.losses.soft as soft
import common.losses.two_view as two_view
from common.kernels import pair
from common.kernels.arguments import make_problem
from common.kernels.specs.weights import Diagonal
from common.losses.align_uniform import AlignUniformLoss
from common.losses.auxiliary.distillation import teacher_sup_con
from common.losses.auxiliary.prototypes import prototype_softmax
from common.losses.auxiliary.vicreg import vicreg_terms
from common.losses.base import PairLoss
from common.losses.cacr import CACRLoss
from common.losses.functional.margin import candidate_ranking, margin_ranking
from common.losses.image_text import ClipLoss
from common.losses.info_nce import InfoNCELoss
from projects.peft_augmentation.soft_targets import soft_cross_entropy
from projects.sepclr.independence import club_bound, gaussian_kl, gaussian_nll
from projects.vega.adversarial import symmetric_cross_entropy, teacher_cross_entropy

MODULES = (align_uniform, cacr, image_text, info_nce, multi_positive, soft, two_view)
LOSSES = [
    value
    for module in MODULES
    for _, value in inspect.getmembers(module, inspect.isclass)
    if issubclass(value, PairLoss) and value is not PairLoss and value.__module__ == module.__name__
]


def test_auto_is_exact_until_a_gpu_trains_in_mixed_precision(monkeypatch):
    loss = ClipLoss()
    assert loss.kernel["precision"] == "exact"
    with torch.autocast("cpu", torch.bfloat16):  # the CPU path keeps float32: nothing to gain
        assert loss.kernel["precision"] == "exact"
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: device == "cuda")
    assert loss.kernel["precision"] == "half"
    assert ClipLoss(precision="tf32").kernel["precision"] == "tf32"


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_every_pair_loss_takes_the_option(loss):
    options = {"num_texts": 2} if loss.__name__ == "OneToKLoss" else {}
    assert loss(**options, precision="half").kernel["precision"] == "half"
    assert "precision='tf32'" in repr(loss(**options, precision="tf32"))


def test_a_small_positive_keeps_its_term_in_float64():
    """torch's softplus is linear from 20 on, which drops log(1 + e^-20) = 2e-9."""
    left = torch.eye(2, dtype=torch.float64)
    gap = 21.0
    scale = torch.tensor(gap, dtype=torch.float64)
    expected = gap + torch.log1p(torch.exp(-scale))  # the positive is 0, the negative 21
    swapped = left.flip(0)
    loss = InfoNCELoss()(left, swapped, scale).loss
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-12)
    labels = torch.tensor([1, 0])
    loss = prototype_softmax(left, left, labels, scale).loss
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-12)


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match=r"precision must be auto or one of .*half.*'bf16'"):
        InfoNCELoss(precision="bf16")
    x = torch.eye(2)
    with pytest.raises(ValueError, match="precision must be one of"):
        make_problem(x, x, 1.0, Diagonal(), precision="auto")


def test_the_cpu_is_exact_whatever_is_permitted():
    torch.manual_seed(0)
    image, text = (torch.randn(600, 16, requires_grad=True) for _ in range(2))
    for backend in ("dense", "blocked"):
        results = []
        for precision in ("exact", "half"):
            loss = ClipLoss(backend=backend, precision=precision)(image, text, 30.0).loss
            results.append((loss, *torch.autograd.grad(loss, (image, text))))
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_a_large_scale_takes_running_maxima():
    """One shift for all exponentials gave NaN at scales of 200 and 300."""
    x = torch.eye(4)
    assert make_problem(x, x, 100.0, Diagonal()).unit_norm
    assert not make_problem(x, x, 200.0, Diagonal()).unit_norm
    assert not make_problem(x, x, -200.0, Diagonal()).unit_norm
    assert make_problem(x.double(), x.double(), 200.0, Diagonal()).unit_norm


@pytest.mark.parametrize(
    "loss",
    [
        lambda x, y, **k: CACRLoss(**k)(torch.stack([x, y])),
        lambda x, y, **k: CACRLoss(weighting="full", cost="rbf", **k)(torch.stack([x, y])),
        lambda x, y, **k: AlignUniformLoss(**k)(x, y),
    ],
)
def test_squared_distances_are_exact_whatever_is_permitted(loss, monkeypatch):
    """Rounded to half precision, differences of large products are noise."""
    asked = []
    ask = pair.make_problem

    def noted(*words, **options):
        problem = ask(*words, **options)
        asked.append((problem.q.shape[1], problem.precision))
        return problem

    monkeypatch.setattr(pair, "make_problem", noted)
    x, y = (torch.randn(6, 8) for _ in range(2))
    loss(x, y, precision="half")
    lengthened = [precision for width, precision in asked if width == 10]
    assert lengthened
    assert {*lengthened} == {"exact"}


LABELS, ANCHORS = torch.arange(6) % 2, torch.arange(6) < 4

HALVES = {
    "symmetric_cross_entropy": symmetric_cross_entropy,
    "teacher_cross_entropy": teacher_cross_entropy,
    "soft_cross_entropy": lambda x, y: soft_cross_entropy(x, y.softmax(1)),
    "gaussian_nll": lambda x, y: gaussian_nll(x, y, 2 * x),
    "club_bound": lambda x, y: club_bound(x, y, 2 * x),
    "gaussian_kl": gaussian_kl,
    "margin_ranking": lambda x, y: margin_ranking(x[0], y[0]).per_sample,
    "candidate_ranking": lambda x, y: candidate_ranking(x, y[:, 0]).per_sample,
    "vicreg": lambda x, y: torch.stack(list(vicreg_terms(x, y).values())),
    "teacher_sup_con": lambda x, y: teacher_sup_con(x, y, LABELS, ANCHORS, 5.0).per_sample,
}


@pytest.mark.parametrize("name", HALVES)
def test_half_precision_is_widened_before_anything_is_computed(name):
    torch.manual_seed(0)
    x, y = (torch.randn(6, 8).bfloat16().float() for _ in range(2))
    if name == "soft_cross_entropy":  # whose targets would be rounded
        y = torch.zeros(6, 8)
    expected = HALVES[name](x, y)
    with torch.autocast("cpu", torch.bfloat16):
        actual = HALVES[name](x.bfloat16(), y.bfloat16())
    assert actual.dtype == torch.float32
    assert torch.equal(actual, expected)
