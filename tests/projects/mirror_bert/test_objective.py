"""The loss: golden values, what counts as a negative, temperature, two processes."""

import pytest
import torch
from torch.nn import functional as F

from tests.distributed.equal import assert_ranks_equal_one
from tests.projects.mirror_bert.conftest import (
    GOLDEN,
    NO_NOISE,
    batch,
    config,
    golden_views,
    module_of,
)
from tests.projects.mirror_bert.workers import loss_of_half, three_steps

CASES = [pytest.param(c, id=f"B{c['B']}-tau{c['temperature']}") for c in GOLDEN["loss_cases"]]


def close(found, wanted, rel=1e-9):
    found = torch.as_tensor(found, dtype=torch.float64).detach().flatten()
    wanted = torch.as_tensor(wanted, dtype=torch.float64).flatten()
    torch.testing.assert_close(found[: wanted.numel()], wanted, rtol=rel, atol=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_checklist_3_loss_and_gradients_equal_the_golden_values(case):
    """Checklist 3: symmetric NT-Xent of the pinned reference, value and gradients of both views."""
    views = golden_views(case)
    module = module_of(config(f"method.temperature={case['temperature']}"))
    loss = module.contrast(*views).loss
    loss.backward()
    close(loss, case["outputs"]["loss"])
    for number, view in enumerate(views):
        close(view.grad.norm(), case["outputs"][f"grad_norm_view{number}"])
    close(views[0].grad[0], case["outputs"]["grad_view0_row0_first5"])
    close(views[1].grad[1], case["outputs"]["grad_view1_row1_first5"])


def test_checklist_3_negative_twin_another_temperature_misses_the_values():
    case = GOLDEN["loss_cases"][0]
    actual = module_of(config("method.temperature=0.05")).contrast(*golden_views(case)).loss
    assert abs(float(actual) - case["outputs"]["loss"]) > 0.1


@pytest.mark.parametrize("rows", [2, 5, 8])
def test_checklist_3_an_anchor_meets_2n_minus_2_negatives(rows):
    """Checklist 3: equal vectors give log(2N - 1), positive and negatives; mean over 2N anchors."""
    module, same = module_of(config()), torch.ones(rows, 4, dtype=torch.float64)
    close(module.contrast(same, same).loss, torch.log(torch.tensor(2.0 * rows - 1)).double(), 1e-6)
    assert module.negatives_per_query(rows) == 2 * rows - 2


def test_checklist_3_both_views_carry_gradient_and_the_loss_is_symmetric():
    view_1, view_2 = golden_views(GOLDEN["loss_cases"][1])
    contrast = module_of(config()).contrast
    close(contrast(view_1, view_2).loss, contrast(view_2, view_1).loss)
    contrast(view_1, view_2).loss.backward()
    assert view_1.grad.abs().sum() > 0
    assert view_2.grad.abs().sum() > 0


def test_loss_of_a_batch_is_the_formula_on_the_encoder_s_outputs():
    """View-major batch, pooled, cosine, temperature of the config."""
    cfg = config(*NO_NOISE)
    module = module_of(cfg).double()
    rows = batch(cfg, module)
    z = F.normalize(module.encoder(rows["input_ids"], rows["attention_mask"]), dim=1)
    logits = (z @ z.T / cfg.method.temperature).fill_diagonal_(-torch.inf)
    partner = torch.arange(16).roll(8)
    close(module.losses(rows)["loss"], F.cross_entropy(logits, partner))


def test_checklist_8_temperatures():
    """Checklist 8: 0.04 for sentences, 0.2 for words."""
    for name in ("paper", "paper_drophead", "paper_roberta", "paper_roberta_drophead", "mini"):
        assert config(name=name).method.temperature == 0.04
    assert config(name="paper_word").method.temperature == 0.2


def test_similarities_are_float32_under_half_precision():
    """At tau = 0.04 the logits span +-25; bf16 similarities would be off by 0.1 there."""
    case = GOLDEN["loss_cases"][0]
    views = [view.detach().float() for view in golden_views(case)]
    with torch.autocast("cpu", torch.bfloat16):
        actual = module_of(config("method.temperature=0.04")).contrast(*views).loss
    assert actual.dtype == torch.float32
    close(actual, case["outputs"]["loss"], 1e-5)


# -- two processes -------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_checklist_12_negatives_are_global(two_ranks, case):
    """Checklist 12: the mean over two ranks is the loss of the whole batch."""
    actual = two_ranks.run(loss_of_half, case=case, gather=True)
    close(sum(actual) / 2, case["outputs"]["loss"])


def test_checklist_12_negative_twin_without_gathering_it_is_not(two_ranks):
    case = GOLDEN["loss_cases"][1]
    actual = two_ranks.run(loss_of_half, case=case, gather=False)
    assert abs(sum(actual) / 2 - case["outputs"]["loss"]) > 0.1


def test_checklist_12_two_processes_train_as_one(two_ranks):
    """Checklist 12: equal weights after three steps; without gathering they differ."""
    expected = assert_ranks_equal_one(two_ranks, three_steps, rtol=1e-8, atol=1e-10)
    local = two_ranks.run(three_steps, distributed=True, gather=False)[0]
    assert any(not torch.allclose(local[name], expected[name], atol=1e-6) for name in expected)
