"""Poolers against their definition, with padding on either side."""

import pytest
import torch

from common.encoders import POOLINGS, pool


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
        "avg_first_last": (rows[0] + rows[-1]).mean(0) / 2,
        "avg_top2": (rows[-2] + rows[-1]).mean(0) / 2,
        "last_token": rows[-1][-1],
    }
    assert set(expected) == set(POOLINGS)
    for name, value in expected.items():
        torch.testing.assert_close(pool(layers, mask, name)[0], value)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_padding_has_no_influence_and_tokens_have(pooling):
    layers = states()
    reference = pool(layers, RIGHT, pooling)
    padded = [layer.clone() for layer in layers]
    for layer in padded:
        layer[0, 3] = 1e4
    assert torch.equal(pool(padded, RIGHT, pooling), reference)
    for layer in padded:
        layer[0, :3] += 1.0
    assert not torch.allclose(pool(padded, RIGHT, pooling)[0], reference[0])


def test_bfloat16_mean_is_summed_in_float32():
    layer = torch.full((1, 400, 2), 1.01).bfloat16()
    pooled = pool([layer], torch.ones(1, 400), "avg")
    assert pooled.dtype == torch.bfloat16
    assert torch.equal(pooled, layer[:, 0])


def test_errors():
    with pytest.raises(ValueError, match="no real token"):
        pool(states(), torch.tensor([[0, 0, 0, 0], [1, 1, 1, 1]]), "avg")
    with pytest.raises(ValueError, match="pooling must be one of"):
        pool(states(), RIGHT, "max")
    with pytest.raises(ValueError, match=r"mask \(B, L\)"):
        pool(states(), RIGHT[:, :3], "avg")
