"""Cross-entropy over tokens against plain sums."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from common.losses.auxiliary.tokens import (
    masked_lm_loss,
    token_margin_contrastive,
    token_sums,
)


def test_masked_lm_loss_is_the_mean_over_labelled_positions():
    head = nn.Linear(6, 11).double()
    states = torch.randn(2, 4, 6, dtype=torch.float64)
    labels = torch.full((2, 4), -100)
    labels[0, 1], labels[1, 2] = 3, 7
    want = F.cross_entropy(head(torch.stack([states[0, 1], states[1, 2]])), torch.tensor([3, 7]))
    torch.testing.assert_close(masked_lm_loss(head, states, labels), want)
    assert masked_lm_loss(head, states, torch.full((2, 4), -100)) == 0


def test_masked_lm_loss_gives_gradient_to_labelled_positions_alone_and_none_without_labels():
    head = nn.Linear(6, 11).double()
    states = torch.randn(2, 4, 6, dtype=torch.float64, requires_grad=True)
    labels = torch.full((2, 4), -100)
    masked_lm_loss(head, states, labels).backward()
    assert not states.grad.any()
    assert not head.weight.grad.any()  # there, as on ranks that have labels
    labels[1, 2] = 5
    masked_lm_loss(head, states, labels).backward()
    assert states.grad[1, 2].abs().sum() > 0
    assert float(states.grad.abs().sum()) == pytest.approx(
        float(states.grad[1, 2].abs().sum()), rel=1e-12
    )


def test_masked_lm_loss_of_half_precision_is_taken_in_float32():
    head, states = nn.Linear(6, 11).bfloat16(), torch.randn(1, 2, 6).bfloat16()
    assert masked_lm_loss(head, states, torch.tensor([[3, -100]])).dtype == torch.float32


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_token_sums_are_those_of_each_row_without_padding(smoothing):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 5, generator=generator)
    tokens = torch.tensor([[2, 4, 3, 0], [2, 1, 4, 3]])
    sums, counts = token_sums(logits, tokens, pad_id=0, label_smoothing=smoothing)
    assert counts.tolist() == [2, 3]
    for row, length in enumerate((2, 3)):
        want = F.cross_entropy(
            logits[row, :length],
            tokens[row, 1 : 1 + length],
            reduction="sum",
            label_smoothing=smoothing,
        )
        torch.testing.assert_close(sums[row], want)
    with_padding, every = token_sums(
        logits, tokens, pad_id=0, label_smoothing=smoothing, count_pad=True
    )
    assert every.tolist() == [3, 3]
    assert with_padding[0] > sums[0]
    other = token_sums(logits, tokens, pad_id=3, label_smoothing=smoothing)[1]
    assert other.tolist() == [2, 2]


def test_states_are_held_apart_in_full_precision_under_autocast():
    states, mask = torch.randn(2, 5, 16), torch.ones(2, 5)
    exact = token_margin_contrastive(states, mask, 0.9)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(token_margin_contrastive(states, mask, 0.9), exact)
