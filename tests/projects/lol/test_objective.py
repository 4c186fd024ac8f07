"""The equations: golden contrasts, layer choice and measures, and what each weight does alone."""

import pytest
import torch

from projects.lol.early_exit import furthest_layer
from projects.lol.multiple_choice import truthful_choice
from projects.lol.objective import Logits, Weights, lol_scores
from tests.projects.lol.conftest import GOLDEN

ICD = Weights(1.0, 1.0, 1.0, 0.0, 0.0)


def sines(shape, start, step=0.9, scale=3.0):
    """The golden file's logits, float64."""
    count = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    return (scale * (start + step * count).sin()).view(shape)


def drawn(seed):
    return 2 * torch.randn(2, 3, 9, generator=torch.Generator().manual_seed(seed)).double()


@pytest.mark.parametrize("case", GOLDEN["contrast_cases"] + GOLDEN["weighted_contrast_cases"])
def test_contrasts_are_the_golden_ones(case):
    """Checklist 2: lambda = beta = 1 is ICD, other weights the weighted cases; Checklist 7: the
    mask.
    """
    shape, weight = (case["T"], case["V"]), case.get("amateur_weight", 1.0)
    weights = Weights(weight, 1.0, 1.0, 0.0, 0.0, alpha=case["relative_top"])
    logits = Logits(sines(shape, 0.3), sines(shape, 1.1))
    actual = lol_scores(logits, weights, removed=-1000.0)
    expected = torch.tensor(case["contrast_scores"], dtype=torch.float64)
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-9)
    assert actual.argmax(-1).tolist() == case["argmax"]
    if "filtered_out_mask" in case:
        assert torch.equal(actual == -1000, torch.tensor(case["filtered_out_mask"]).bool())


@pytest.mark.parametrize("case", GOLDEN["layer_choice_cases"])
def test_the_layer_choice_is_the_golden_one(case):
    """Checklist 6: divergence in the released form and its largest."""
    size, layers = case["V"], case["layers"]
    exits = torch.stack(
        [sines([size], 0.3 + 0.6 * (k + 1), scale=3 * (0.2 + 0.2 * k)) for k in range(layers)]
    )
    chosen, divergence = furthest_layer(sines([size], 0.3), exits)
    expected = torch.tensor(case["js_div_official_form"], dtype=torch.float64)
    torch.testing.assert_close(divergence, expected, rtol=1e-6, atol=1e-12)
    assert int(chosen) == case["argmax_layer"]


def test_measures_are_the_golden_ones():
    """Checklist 9: MC1, MC2, MC3."""
    sides = [([-3.0, -7.5, -4.2], [-3.5, -6.0]), ([-10.0], [-9.0, -11.0, -12.0])]
    for (true, false), case in zip(sides, GOLDEN["mc_cases"], strict=True):
        actual = truthful_choice(true, false, best=0)
        for name, value in case.items():
            assert actual[name.lower()] == pytest.approx(value, rel=1e-6, abs=1e-9), name


def test_both_weights_of_the_amateur_act_by_themselves():
    """Checklist 2: lambda changes the last layer's contrast alone, lambda' the lower one's."""
    logits = Logits(drawn(0), drawn(1), drawn(2), drawn(3))
    p, q, low_p, low_q = (x.log_softmax(-1) for x in (drawn(0), drawn(1), drawn(2), drawn(3)))
    for final, lower in ((1.0, 1.0), (0.25, 1.0), (1.0, 0.5), (0.0, 0.3)):
        actual = lol_scores(logits, Weights(final, lower, 0.8, 0.3, 0.0))
        expected = 0.8 * (p - final * q) + 0.3 * (low_p - lower * low_q)
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


def test_the_refocus_term_and_the_instructed_original():
    """Eq. 4 and 5, and the alternative that reads the instruction in both contrasts."""
    logits = Logits(drawn(0), drawn(1), drawn(2), drawn(3), drawn(4), drawn(5))
    p, q, low_p, low_q, s, low_s = (drawn(i).log_softmax(-1) for i in range(6))
    added = lol_scores(logits, Weights(1.0, 0.5, 1.0, 0.2, 0.7))
    torch.testing.assert_close(added, p - q + 0.2 * (low_p - 0.5 * low_q) + 0.7 * (s - p))
    instead = lol_scores(logits, Weights(1.0, 0.5, 1.0, 0.2, 0.0, instruct_original=True))
    torch.testing.assert_close(instead, s - q + 0.2 * (low_s - 0.5 * low_q))


def test_an_equal_amateur_leaves_nothing():
    """Checklist 3: theta' = theta and lambda = lambda' = 1 make both contrasts zero."""
    same = Logits(drawn(0), drawn(0), drawn(1), drawn(1))
    assert not lol_scores(same, Weights(1.0, 1.0, 1.0, 0.2, 0.0)).any()
    greedy = lol_scores(Logits(drawn(0), drawn(1)), Weights(0.0, 0.0, 1.0, 0.0, 0.0))
    assert torch.equal(greedy, drawn(0).log_softmax(-1))


def test_plausibility_is_the_original_s_before_anything_is_subtracted():
    """Checklist 7: neither amateur nor instruction nor weights move the mask; one token is left."""
    p = drawn(0).log_softmax(-1)
    kept = p >= p.amax(-1, keepdim=True) + torch.tensor(0.3).double().log()
    for weights in (
        Weights(1.0, 1.0, 1.0, 0.2, 0.5, alpha=0.3),
        Weights(0.5, 1.0, 0.0, 1.0, 0.0, alpha=0.3),
        Weights(1.0, 1.0, 1.0, 0.0, 0.0, alpha=0.3, instruct_original=True),
    ):
        actual = lol_scores(Logits(*(drawn(i) for i in range(6))), weights)
        assert torch.equal(actual.isfinite(), kept)
    strict = lol_scores(Logits(drawn(0), drawn(1)), Weights(1, 1, 1, 0, 0, alpha=1.0))
    assert torch.equal(strict.isfinite().sum(-1), torch.ones(2, 3, dtype=torch.int64))
    assert lol_scores(Logits(drawn(0), drawn(1)), ICD).isfinite().all()


def test_a_contrast_is_normalised_again_before_the_mask():
    """FACTOR, as DoLa's lm_score with post_softmax: p/q = 3, 1/2, 1/2 by hand; the removed token
    keeps its share.
    """
    logits = Logits(torch.tensor([0.6, 0.3, 0.1]).log(), torch.tensor([0.2, 0.6, 0.2]).log())
    for post_softmax, kept in ((True, [3 / 4, 1 / 8]), (False, [3.0, 1 / 2])):
        weights = Weights(1.0, 1.0, 1.0, 0.0, 0.0, alpha=0.2, post_softmax=post_softmax)
        expected = torch.cat([torch.tensor(kept).log(), torch.tensor([-1000.0])])
        torch.testing.assert_close(lol_scores(logits, weights, removed=-1000.0), expected)


def test_a_term_with_a_weight_needs_both_sides():
    with pytest.raises(ValueError, match="both of its sides"):
        lol_scores(Logits(drawn(0)), ICD)
    with pytest.raises(ValueError, match="no score"):
        lol_scores(Logits(drawn(0)), Weights(0.0, 0.0, 0.0, 0.0, 0.0))
