"""Image-text matching away from a project: half precision, loss by hand."""

import pytest
import torch

from projects.one_to_k.matching import choose_positive, hard_negatives, matching_loss


def test_the_loss_is_a_mean_over_positives_and_negatives():
    sure = torch.tensor([[0.0, 2.0]])
    by_hand = (2 * torch.tensor(-2.0).exp().log1p() + torch.tensor(2.0).exp().log1p()) / 3
    assert float(matching_loss(sure, -sure, sure)) == pytest.approx(float(by_hand), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_draws_work_in_every_precision_and_at_extreme_scores(dtype):
    torch.manual_seed(0)
    scores = (1000 * torch.eye(3)).repeat_interleave(2, 1).to(dtype)
    ids = torch.arange(3)
    assert bool((hard_negatives(scores, ids, ids.repeat_interleave(2)) // 2 != ids).all())
    assert choose_positive(scores, 2, "aligned_least").shape == (3,)
