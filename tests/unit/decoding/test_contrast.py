"""The contrast of two distributions: values, what is removed, and the limits of its weights."""

import pytest
import torch

from common.decoding.contrast import contrast, plausible


def logits(seed: int, *shape: int) -> torch.Tensor:
    return 3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_values_by_hand():
    expert = torch.tensor([0.6, 0.35, 0.05], dtype=torch.float64)
    amateur = torch.tensor([0.8, 0.1, 0.1], dtype=torch.float64)
    # logits differ from log-probabilities by a constant, which must not matter
    actual = contrast(expert.log() + 5, amateur.log() - 2, alpha=0.1, beta=0.5)
    expected = expert.log() - 0.5 * amateur.log()
    expected[2] = -torch.inf  # 0.05 < 0.1 * 0.6
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=0)


def test_the_likeliest_token_is_never_removed():
    expert, amateur = logits(0, 4, 5, 9), logits(1, 4, 5, 9)
    assert bool(plausible(expert, 1.0).any(-1).all())
    chosen = contrast(expert, amateur, alpha=1.0).argmax(-1)
    assert torch.equal(chosen, expert.argmax(-1))
    assert bool(plausible(expert, 0.0).all())
    assert bool(contrast(expert, amateur, alpha=0.0).isfinite().all())


def test_without_weight_an_amateur_says_nothing_even_where_it_rules_a_token_out():
    expert, amateur = logits(0, 2, 6), logits(1, 2, 6)
    amateur[:, 2] = -torch.inf
    actual = contrast(expert, amateur, alpha=0.0, beta=0.0)
    torch.testing.assert_close(actual, expert.log_softmax(-1))


def test_half_precision_is_widened():
    actual = contrast(logits(0, 6).bfloat16(), logits(1, 6).bfloat16(), alpha=0.1)
    assert actual.dtype == torch.float32


def test_other_places_or_an_unknown_share_are_refused():
    with pytest.raises(ValueError, match="same places and vocabulary"):
        contrast(torch.zeros(2, 5), torch.zeros(2, 6), alpha=0.1)
    with pytest.raises(ValueError, match="alpha"):
        plausible(torch.zeros(3), 1.5)
