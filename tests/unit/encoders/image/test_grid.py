"""Towers that keep their grid: one token for every place and none for anything else."""

import pytest
import torch

from common.encoders.image.grid import grid_tower


@pytest.mark.parametrize("name", ["conv", "test_vit", "test_convnext"])
def test_a_tower_has_one_token_for_each_place_and_their_mean(name):
    """A transformer's class token has no place: counted, it would shift the match of places by one."""
    size = 16 if name == "conv" else 160
    tower = grid_tower(name, widths=(8, 12)).eval()
    with torch.no_grad():
        tokens = tower(torch.randn(1, 3, size, size))
    places = tokens.shape[1] - 1
    assert round(places**0.5) ** 2 == places
    torch.testing.assert_close(tokens[:, 0], tokens[:, 1:].mean(1), atol=1e-5, rtol=1e-4)
    if name == "test_vit":
        whole = tower.backbone.forward_features(torch.zeros(1, 3, size, size)).shape[1]
        assert places == whole - tower.backbone.num_prefix_tokens < whole
