"""Loss: golden values, gradients, switches, gradient cache, two processes."""

import pytest
import torch

from projects.rankgen.config import MethodConfig
from projects.rankgen.data import TripleBatches, train_triples
from projects.rankgen.module import Objective, RankGen
from tests.projects.rankgen.conftest import config, encoder
from tests.projects.rankgen.workers import three_steps
from tests.unit.losses.golden import assert_close, flat, load

CASES = load("rankgen")["outputs"]["loss_cases"]


def vectors(batch=4, dim=6):
    """Prefix, gold and generated vectors of the golden file."""
    shape = (batch, dim)
    return flat(shape, "sin", 1, 0.41), flat(shape, "cos", 0.5, 0.37), flat(shape, "sin", 2, 0.53)


@pytest.mark.parametrize("case", CASES, ids=["both", "inbook"])
def test_golden_loss_and_gradients(case):
    """Checklist 3, 4, 6: the denominator holds positive, other golds and all generations."""
    p, c, g = vectors(case["B"], case["D"])
    both = case["with_generative"]
    out = Objective(MethodConfig(negatives="both" if both else "inbook"))(p, c, g if both else None)
    assert_close(out.loss, case["loss_mean"])
    assert_close(out.per_sample.sum(), case["loss_sum"])
    out.per_sample.sum().backward()
    assert_close(p.grad.norm(), case["grad_norm_P"])
    assert_close(c.grad.norm(), case["grad_norm_C"])
    assert_close(p.grad[0], case["grad_P_row0_first4"])
    if both:
        assert_close(g.grad.norm(), case["grad_norm_G"])


def slow(p, c, g, negatives):
    """The equation, one prefix at a time."""
    total = 0.0
    for i in range(len(p)):
        golds = [c[i]] if negatives == "generative" else list(c)
        others = [] if negatives == "inbook" else list(g)
        z = sum(torch.exp(p[i] @ x) for x in [*golds, *others])
        total = total - torch.log(torch.exp(p[i] @ c[i]) / z)
    return total / len(p)


@pytest.mark.parametrize("negatives", ["both", "inbook", "generative"])
def test_switches_equal_the_equation(negatives):
    """Checklist 6: each variant by a loop; the variants differ."""
    p, c, g = (x.detach() for x in vectors(5, 7))
    actual = Objective(MethodConfig(negatives=negatives))(p, c, g).loss
    assert_close(actual, slow(p, c, g, negatives))
    other = "inbook" if negatives != "inbook" else "both"
    assert abs(float(actual - slow(p, c, g, other))) > 1e-3


def test_large_dot_products_do_not_overflow():
    """Logits are computed in float32 also from half-precision vectors."""
    p, c, g = (30 * x.detach().to(torch.bfloat16) for x in vectors())
    out = Objective(MethodConfig())(p, c, g)
    assert out.loss.dtype == torch.float32
    assert torch.isfinite(out.loss)


def test_generations_are_needed_where_they_are_negatives():
    p, c, _ = vectors()
    with pytest.raises(ValueError, match="negatives=both needs generated"):
        Objective(MethodConfig())(p, c, None)


def module_and_batch(*overrides):
    cfg = config(*overrides)
    module = RankGen(cfg, encoder(dropout_rate=0.0)).double()
    batches = TripleBatches(train_triples(cfg), module.encoder, cfg.method.negatives != "inbook")
    return module, batches[[(i, 0) for i in range(6)]]


def test_gradient_reaches_every_weight_through_all_three_texts():
    """Checklist 4: prefix, gold and generated vectors all carry gradient to the encoder."""
    module, batch = module_and_batch("method.chunk_size=null")
    module.losses(batch)["loss"].backward()
    untouched = [
        n for n, p in module.named_parameters() if p.grad is None or not p.grad.abs().sum()
    ]
    assert untouched == []
    for name in ("prefix", "gold", "generated"):
        actual = module._vectors
        module._vectors = lambda x, n=name, f=actual: f(x) if x is batch[n] else f(x).detach()
        module.zero_grad()
        module.losses(batch)["loss"].backward()
        assert module.encoder.projection.weight.grad.abs().sum() > 0, name
        module._vectors = actual


def test_gradient_cache_changes_nothing():
    """Loss and every gradient equal those of one pass; another chunk of texts differs."""
    results = []
    for chunk in ("null", "2", "5"):
        module, batch = module_and_batch(f"method.chunk_size={chunk}")
        terms = module.losses(batch)
        terms["loss"].backward()
        results.append((terms["loss"].detach(), {n: p.grad for n, p in module.named_parameters()}))
    for loss, grads in results[1:]:
        assert_close(loss, float(results[0][0]), rel=1e-12)
        for name, grad in grads.items():
            torch.testing.assert_close(grad, results[0][1][name], rtol=1e-9, atol=1e-12, msg=name)
    module, _ = module_and_batch()
    other = TripleBatches(train_triples(config()), module.encoder, True)[
        [(i, 0) for i in range(6, 12)]
    ]
    assert float(module.losses(other)["loss"]) != pytest.approx(float(results[0][0]))


def test_without_gathering_two_processes_differ(two_ranks):
    """The comparison can fail."""
    overrides = ["method.negatives=both"]
    expected = three_steps(overrides, distributed=False)
    (state, _) = two_ranks.run(
        three_steps, overrides=[*overrides, "method.gather=false"], distributed=True
    )
    name = "encoder.projection.weight"
    assert not torch.allclose(state[name], expected[name], rtol=1e-8, atol=1e-10)


def test_negatives_per_query():
    counts = {}
    for negatives in ("both", "inbook", "generative"):
        cfg = config(f"method.negatives={negatives}")
        counts[negatives] = RankGen(cfg, encoder()).negatives_per_query(8)
    assert counts == {"both": 15, "inbook": 7, "generative": 8}
