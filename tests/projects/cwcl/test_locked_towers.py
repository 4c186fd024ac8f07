"""Given image towers see the pixels that their weights learnt with, whatever library they are
from."""

import pytest
import torch
from torch import nn

from common.config import UserError
from common.data.image.sources import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD
from common.encoders.image.towers import ImageTower
from common.encoders.image_text.open_clip_dual import OpenClipDualEncoder
from common.export.open_clip import save_open_clip
from projects.cwcl import locked_towers as locked

IMAGENET, CLIP = (IMAGENET_MEAN, IMAGENET_STD), (CLIP_MEAN, CLIP_STD)
TEXT = {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
VIT = {"layers": 1, "width": 16, "head_width": 8, "patch_size": 16, "image_size": 32}
TIMM = {
    "timm_model_name": "test_vit",
    "timm_pool": "token",
    "timm_proj": "linear",
    "image_size": 160,
}


def normalised(pixels, pair):
    mean, std = (torch.tensor(values)[:, None, None] for values in pair)
    return (pixels - mean) / std


@pytest.mark.parametrize(("bias", "padding"), [(True, 0), (False, 0), (True, 1)])
def test_weights_of_torchvision_see_the_pixels_that_they_learnt_with(monkeypatch, bias, padding):
    """Only timm's did; the patches of a ViT take the difference up, other first layers are
    refused."""

    def tower(*_):
        torch.manual_seed(0)
        conv = nn.Conv2d(3, 4, 4, 4, bias=bias, padding=padding)
        return ImageTower(nn.Sequential(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten()), 4)

    monkeypatch.setattr(locked, "image_tower", tower)
    options = {"vision": "vit_b_32", "vision_pretrained": "torchvision:vit_b_32", "text": TEXT}
    pixels = torch.rand(2, 3, 8, 8)
    want = tower()(normalised(pixels, IMAGENET))
    for pair in (IMAGENET, None):  # as the weights want them
        same = locked.build_locked(**options, normalization=pair)
        assert torch.equal(locked.tower_features(same, normalised(pixels, IMAGENET)), want)
    if bias and not padding:
        folded = locked.build_locked(**options, normalization=CLIP)
        actual = locked.tower_features(folded, normalised(pixels, CLIP))
        torch.testing.assert_close(actual, want, atol=1e-5, rtol=1e-4)
    else:
        with pytest.raises(UserError, match=r"set data\.normalize to theirs"):
            locked.build_locked(**options, normalization=CLIP)


@pytest.mark.parametrize("vision", [VIT, TIMM])
def test_a_whole_open_clip_model_sees_the_pixels_that_it_learnt_with(tmp_path, vision):
    """CLIP's patches have no bias, so that it is refused; timm's have."""
    torch.manual_seed(0)
    encoder = OpenClipDualEncoder({"embed_dim": 16, "vision_cfg": vision, "text_cfg": TEXT}).eval()
    save_open_clip(
        encoder, tmp_path, log_scale=torch.tensor(1.0), mean=IMAGENET_MEAN, std=IMAGENET_STD
    )
    pixels = torch.rand(1, 3, vision["image_size"], vision["image_size"])
    with torch.no_grad():
        want = encoder.encode_image(normalised(pixels, IMAGENET))
        rounded = (tuple(value + 1e-5 for value in IMAGENET_MEAN), IMAGENET_STD)
        for pair in (IMAGENET, rounded, None):
            same = locked.build_locked(pretrained=str(tmp_path), normalization=pair).eval()
            assert torch.equal(same.encode_image(normalised(pixels, IMAGENET)), want)
        if vision is VIT:
            with pytest.raises(UserError, match=r"set data\.normalize to theirs"):
                locked.build_locked(pretrained=str(tmp_path), normalization=CLIP)
            return
        folded = locked.build_locked(pretrained=str(tmp_path), normalization=CLIP).eval()
        actual = locked.tower_features(folded, normalised(pixels, CLIP))
        torch.testing.assert_close(actual, want, atol=1e-4, rtol=1e-3)
