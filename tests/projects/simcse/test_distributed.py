"""Two processes against one."""

import pytest
import torch

from tests.projects.simcse.workers import gradient, masked_term


@pytest.mark.parametrize(("kind", "factor"), [("full", 1.0), ("local", 0.5)])
def test_two_ranks_see_each_others_negatives(two_ranks, kind, factor):
    """Checklist 9: negatives from all ranks; gradient through the own rows (the global batch's
    divided by the number of ranks) or through all."""
    want_loss, want = gradient(kind, distributed=False)
    actual = two_ranks.run(gradient, gather_grad=kind, distributed=True)
    assert sum(loss for loss, _ in actual) / 2 == pytest.approx(want_loss, rel=1e-9)
    for _, grad in actual:
        torch.testing.assert_close(grad, factor * want, rtol=1e-9, atol=1e-12)
    other = gradient(kind, distributed=False)[1] * (1.5 - factor)
    assert not torch.allclose(actual[0][1], other, rtol=1e-3)


def test_masked_words_of_two_ranks_form_one_mean(two_ranks):
    """Ranks hold unequal numbers of masked words: the mean of their means would be another loss."""
    want_loss, want = masked_term(distributed=False)
    actual = two_ranks.run(masked_term, distributed=True)
    assert sum(loss for loss, _ in actual) / 2 == pytest.approx(want_loss, rel=1e-9)
    torch.testing.assert_close((actual[0][1] + actual[1][1]) / 2, want, rtol=1e-9, atol=1e-12)
