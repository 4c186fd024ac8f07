"""Losses of rankers against written-out values, gradients and their errors."""

import pytest
import torch

from common.losses.functional.ranking import groupwise, ranking_loss, softmax_hinge

SCORES = torch.tensor([[0.3, -1.0], [0.1, 2.0]], dtype=torch.float64)


def test_softmax_hinge_is_twice_the_probability_of_the_wrong_one():
    positive, negative = SCORES.unbind(1)
    out = softmax_hinge(positive, negative)
    torch.testing.assert_close(out.per_sample, 2 * torch.sigmoid(negative - positive))
    assert out.hits.tolist() == [True, False]
    wide = softmax_hinge(positive, negative, margin=0.2)
    assert wide.per_sample[0] == 0
    torch.autograd.gradcheck(
        lambda p, n: softmax_hinge(p, n).loss,
        (positive.clone().requires_grad_(), negative.clone().requires_grad_()),
    )


def test_groupwise_is_the_logistic_loss_for_two_and_does_not_see_a_shift():
    out = groupwise(SCORES)
    torch.testing.assert_close(
        out.per_sample, torch.nn.functional.softplus(SCORES[:, 1] - SCORES[:, 0])
    )
    torch.testing.assert_close(groupwise(SCORES + 7).loss, out.loss)
    assert groupwise(torch.tensor([[1.0, 1.0]])).hits.tolist() == [False]  # a tie is not a hit
    torch.autograd.gradcheck(
        lambda s: groupwise(s).loss, (torch.randn(3, 4, dtype=torch.float64, requires_grad=True),)
    )


@pytest.mark.parametrize("kind", ["hinge", "softmax_hinge", "groupwise"])
def test_each_kind_is_lowest_for_the_right_order(kind):
    assert ranking_loss(SCORES[:1], kind).loss < ranking_loss(SCORES[1:], kind).loss
    assert float(ranking_loss(torch.tensor([[9.0, -9.0]]), kind).loss) == pytest.approx(0, abs=1e-6)


def test_errors_name_what_is_wrong():
    with pytest.raises(ValueError, match=r"\(B, 2\), got shape \(2, 3\)"):
        ranking_loss(torch.zeros(2, 3), "hinge")
    with pytest.raises(ValueError, match="G > 1"):
        groupwise(torch.zeros(2, 1))
    with pytest.raises(ValueError, match=r"\(2,\) and \(3,\)"):
        softmax_hinge(torch.zeros(2), torch.zeros(3))
    with pytest.raises(ValueError, match="use hinge"):
        ranking_loss(SCORES, "other")  # type: ignore[arg-type]
