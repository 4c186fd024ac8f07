"""Patch tokens of open_clip towers."""

import timm
import torch
from open_clip.timm_model import TimmModel
from torch import nn

from projects.cosmo.visual_language.patch_tokens import patch_tokens


def test_a_trunk_with_channels_last_has_one_token_for_each_place():
    torch.manual_seed(0)
    tower = TimmModel.__new__(TimmModel)  # its own constructor takes full sizes alone
    nn.Module.__init__(tower)
    tower.trunk = timm.create_model(
        "swin_tiny_patch4_window7_224",
        depths=(1, 1, 1, 1),
        num_heads=(1, 1, 1, 1),
        num_classes=0,
        img_size=64,
        embed_dim=12,
        window_size=2,
    ).eval()
    pixels = torch.randn(2, 3, 64, 64)
    actual = patch_tokens(tower, pixels)
    assert actual.shape == (2, 4, tower.trunk.num_features)
    torch.testing.assert_close(actual.mean(1), tower.trunk(pixels))
