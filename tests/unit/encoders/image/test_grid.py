"""Towers that keep their grid: one token for every place and none for anything else."""

import pytest
import timm
import torch

from common.config import UserError
from common.encoders.image.grid import GridTower, grid_tokens, grid_tower


@pytest.mark.parametrize("name", ["conv", "test_vit", "test_convnext"])
def test_a_tower_has_one_token_for_each_place_and_their_mean(name):
    """A transformer's class token has no place: counted, it would shift the match of places by
    one."""
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


SMALL = {"depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1), "num_classes": 0, "img_size": 64}


@pytest.mark.parametrize(
    ("name", "window"), [("swin_tiny_patch4_window7_224", 2), ("swinv2_cr_tiny_224", 2)]
)
def test_the_axis_of_the_channels_follows_from_their_number(name, window):
    """Swin has them last, the variant cr of its second version first."""
    torch.manual_seed(0)
    model = timm.create_model(name, embed_dim=12, window_size=window, **SMALL).eval()
    width = model.num_features
    with torch.no_grad():
        tokens = GridTower(model, width)(torch.randn(1, 3, 64, 64))
        pooled = model(torch.zeros(1, 3, 64, 64))
    assert tokens.shape == (1, 1 + 4, width)
    assert pooled.shape == (1, width)


def test_both_layouts_give_the_same_tokens():
    grid = torch.randn(2, 5, 3, 4)
    want = grid.flatten(2).transpose(1, 2)
    assert torch.equal(grid_tokens(grid, 5), want)
    assert torch.equal(grid_tokens(grid.permute(0, 2, 3, 1), 5), want)


def test_the_width_is_that_of_the_map_and_not_of_a_layer_behind_its_pool():
    tower = grid_tower("mobilenetv3_small_050").eval()
    assert tower.width == tower.backbone.num_features < tower.backbone.head_hidden_size
    with torch.no_grad():
        assert tower(torch.randn(1, 3, 64, 64)).shape == (1, 1 + 4, tower.width)


@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_only_swin_is_resized(name):
    """A ViT of timm has a method of that name that takes no window."""
    with pytest.raises(UserError, match="only Swin"):
        grid_tower(name).resize(96, 6)
