"""Loss, losses of the samples and hits come from one pass over the similarities."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from common.kernels import arguments
from common.kernels.arguments import CPU_BUDGET, make_problem
from common.kernels.blocked import sweep as blocked
from common.kernels.specs.weights import Diagonal
from common.losses import base
from common.losses.functional.info_nce import clip, info_nce
from common.losses.functional.masks import id_mask
from common.losses.functional.multi_positive import sup_con
from common.losses.functional.siglip import siglip
from common.losses.functional.soft import cwcl
from common.losses.functional.two_view import dcl, debiased, nt_xent, target_anchored
from common.losses.image_text import ClipLoss

N, M, D = 9, 4, 6
IDS = torch.arange(N) // 2
FUSED = {
    "info_nce": lambda x, y, b: info_nce(x, y, 5.0, backend=b),
    "info_nce_queue": lambda x, y, b: info_nce(
        x, y, 5.0, queue=y[:M].detach().flip(1), mask=id_mask(IDS, IDS[:M] - 1), backend=b
    ),
    "siglip": lambda x, y, b: siglip(x, y, 5.0, -2.0, backend=b),
}
ONE_FORWARD = FUSED | {
    "clip": lambda x, y, b: clip(x, y, 5.0, backend=b),
    "nt_xent": lambda x, y, b: nt_xent(x, y, 5.0, backend=b),
    "dcl": lambda x, y, b: dcl(x, y, 5.0, backend=b),
    "debiased": lambda x, y, b: debiased(x, y, 5.0, tau_plus=0.1, backend=b),
    "target_anchored": lambda x, y, b: target_anchored(x, y, 5.0, backend=b),
    "sup_con": lambda x, y, b: sup_con(x, y, IDS, IDS, 5.0, backend=b),
    "cwcl": lambda x, y, b: cwcl(x, y, x.detach(), y.detach(), 5.0, backend=b),
}


def pair() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    views = torch.randn(2, N, D, dtype=torch.float64, generator=generator)
    return tuple(F.normalize(x, dim=1).requires_grad_() for x in views)


@pytest.mark.parametrize("name", FUSED)
def test_the_mean_and_the_rows_have_the_gradients_of_the_dense_loss(name):
    weight = torch.linspace(0, 2, N, dtype=torch.float64)
    actual = []
    for backend in ("blocked", "dense"):
        x, y = pair()
        out = FUSED[name](x, y, backend)
        for value in (out.loss, (weight * out.per_sample).sum(), 3 * out.loss - out.per_sample[2]):
            actual += [value.detach(), *torch.autograd.grad(value, (x, y), retain_graph=True)]
    half = len(actual) // 2
    for one, other in zip(actual[:half], actual[half:], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", FUSED)
def test_training_on_the_mean_needs_no_second_sweep(name, monkeypatch):
    def refuse(*_: object) -> None:
        raise AssertionError("a second sweep")

    monkeypatch.setattr(blocked, "backward", refuse)
    monkeypatch.setattr(blocked, "softplus_backward", refuse)
    x, y = pair()
    out = FUSED[name](x, y, "blocked")
    torch.autograd.grad(out.loss, (x, y), retain_graph=True)
    with pytest.raises(AssertionError, match="a second sweep"):  # the twin: single rows do
        torch.autograd.grad(out.per_sample[0], x)


@pytest.mark.parametrize("name", ONE_FORWARD)
def test_samples_and_hits_need_no_second_product(name, monkeypatch):
    counts = {"forward": 0, "info_nce_rows": 0, "softplus_fused": 0}
    for function in counts:
        original = getattr(blocked, function)

        def counted(
            *args: object, function=function, original=original, **kwargs: object
        ) -> object:
            counts[function] += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(blocked, function, counted)
    x, y = pair()
    out = ONE_FORWARD[name](x, y, "blocked")
    assert sum(counts.values()) == 1
    assert out.per_sample.requires_grad
    assert (out.hits is None) == (name == "cwcl")


@pytest.mark.parametrize("backend", ["dense", "blocked"])
@pytest.mark.parametrize("scale", [5.0, -5.0])
def test_hits_of_the_sigmoid_loss_are_those_of_the_logits(backend, scale):
    x, y = pair()
    y = F.normalize(y + (torch.arange(N)[:, None] % 2) * x.detach(), dim=1)
    expected = (scale * x @ y.T).argmax(1) == torch.arange(N)
    assert 0 < expected.sum() < N
    assert torch.equal(siglip(x, y, scale, -2.0, backend=backend).hits, expected)


@pytest.mark.parametrize("hard", [False, True])
def test_queue_without_mates_forms_its_gradient_in_one_sweep(hard, monkeypatch):
    """MoCo: 1 + K terms; the fused loss is the cross entropy with the own key at logit 0."""
    from common.losses.functional import info_nce as module

    torch.manual_seed(2)
    query = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    key, queue = torch.randn(6, 5, dtype=torch.float64), torch.randn(40, 5, dtype=torch.float64)
    wrong = torch.randn(6, 2, 5, dtype=torch.float64) if hard else None
    monkeypatch.setattr(module, "_sweeps", None)  # another way would fail
    out = module.info_nce(
        query, key, 0.7, queue=queue, hard_negatives=wrong, in_batch=False, backend="blocked"
    )
    pool = queue if wrong is None else torch.cat([wrong.flatten(0, 1), queue])
    logits = 0.7 * torch.cat([(query * key).sum(1, keepdim=True), query @ pool.T], dim=1)
    wanted = torch.nn.functional.cross_entropy(logits, torch.zeros(6, dtype=torch.long))
    torch.testing.assert_close(out.loss, wanted)
    assert torch.equal(out.hits, logits.argmax(1) == 0)
    actual, expected = (torch.autograd.grad(x, query)[0] for x in (out.loss, wanted))
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize(
    ("device", "ranks", "budget", "expected"),
    [
        ("cpu", 1, None, CPU_BUDGET),
        ("cpu", 1, 0, 0),
        ("cpu", 2, None, 0),  # stored tiles would forbid to compute while keys arrive
        ("cpu", 2, 5, 5),
        ("meta", 1, None, 0),  # as every device where it was not measured
    ],
)
def test_a_module_stores_tiles_by_default_on_one_cpu(monkeypatch, device, ranks, budget, expected):
    monkeypatch.setattr(base, "default_group", lambda: None if ranks == 1 else object())
    options = ClipLoss(memory_budget=budget).kernel
    x = torch.zeros(2, 3, device=device)
    problem = make_problem(x, x, 1.0, Diagonal(), memory_budget=options["memory_budget"])
    assert problem.keep == expected


def test_the_budget_on_cuda_is_a_share_of_free_memory_asked_for_once(monkeypatch):
    """Guards against a budget that changes between steps, and one where storing gains nothing."""
    free, asked = [80_000], []

    def mem_get_info(device):
        asked.append(device)
        return free[0], 10**6

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", mem_get_info)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 900)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 100)
    arguments._cuda_budget.cache_clear()

    def budget(dtype=torch.float32, precision="exact", index=0):
        q = SimpleNamespace(
            is_cpu=False, is_cuda=True, dtype=dtype, device=torch.device("cuda", index)
        )
        return arguments.default_budget(q, precision)

    try:
        with torch.no_grad():
            assert budget() == 0
        assert budget(precision="tf32") == budget(torch.bfloat16) == 0
        assert not asked
        assert budget() == 8192  # the power of two below (80,000 + 800) / 8
        free[0] = 10
        assert budget() == 8192
        assert budget(index=1) == 64
        assert asked == [torch.device("cuda", 0), torch.device("cuda", 1)]
    finally:
        arguments._cuda_budget.cache_clear()
