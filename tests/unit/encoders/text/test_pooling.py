"""Poolers against their definition, with padding on either side."""

import pytest
import torch

from common.encoders.text.pooling import POOLINGS, pool


def states(count: int = 3) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 4, 5, generator=generator) for _ in range(count)]


RIGHT = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
LEFT = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])


@pytest.mark.parametrize(("mask", "first", "end"), [(RIGHT, 0, 3), (LEFT, 1, 4)])
def test_values_of_the_padded_row(mask, first, end):
    layers = states()
    rows = [layer[0, first:end] for layer in layers]
    expected = {
        "cls": rows[-1][0],
        "cls_before_pooler": rows[-1][0],
        "avg": rows[-1].mean(0),
        "avg_all": layers[-1][0].mean(0),
        "avg_first_last": (rows[1] + rows[-1]).mean(0) / 2,
        "avg_embedding_last": (rows[0] + rows[-1]).mean(0) / 2,
        "avg_top2": (rows[-2] + rows[-1]).mean(0) / 2,
        "mask": rows[-1][1],
        "last_token": rows[-1][-1],
        "max": rows[-1].amax(0),
    }
    assert set(expected) == set(POOLINGS)
    marked = torch.zeros(2, 4, dtype=torch.bool)
    marked[:, first + 1] = True
    for name, value in expected.items():
        actual = pool(layers, mask, name, mask_tokens=marked)
        torch.testing.assert_close(actual[0], value)


@pytest.mark.parametrize("pooling", sorted(set(POOLINGS) - {"avg_all"}))
def test_padding_has_no_influence_and_tokens_have(pooling):
    layers = states(4)
    marked = torch.tensor([[False, True, False, False]] * 2)
    reference = pool(layers, RIGHT, pooling, mask_tokens=marked)
    padded = [layer.clone() for layer in layers]
    for layer in padded:
        layer[0, 3] = 1e4
    assert torch.equal(pool(padded, RIGHT, pooling, mask_tokens=marked), reference)
    assert not torch.equal(pool(padded, RIGHT, "avg_all"), pool(layers, RIGHT, "avg_all"))
    for layer in padded:
        layer[0, :3] += 1.0
    moved = pool(padded, RIGHT, pooling, mask_tokens=marked)
    assert not torch.allclose(moved[0], reference[0])


def test_bfloat16_mean_is_summed_in_float32():
    layer = torch.full((1, 400, 2), 1.01).bfloat16()
    pooled = pool([layer], torch.ones(1, 400), "avg")
    assert pooled.dtype == torch.bfloat16
    assert torch.equal(pooled, layer[:, 0])


def test_errors():
    with pytest.raises(ValueError, match="no real token"):
        pool(states(), torch.tensor([[0, 0, 0, 0], [1, 1, 1, 1]]), "avg")
    with pytest.raises(ValueError, match="pooling must be one of"):
        pool(states(), RIGHT, "min")
    with pytest.raises(ValueError, match="states of all layers"):
        pool(states(1), RIGHT, "avg_first_last")
    with pytest.raises(ValueError, match="needs `mask_tokens`"):
        pool(states(), RIGHT, "mask")
    with pytest.raises(ValueError, match="exactly one mask token"):
        pool(states(), RIGHT, "mask", mask_tokens=torch.zeros(2, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="one mark per state"):
        pool(states(), RIGHT, "mask", mask_tokens=torch.ones(2, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"mask \(B, L\)"):
        pool(states(), RIGHT[:, :3], "avg")
