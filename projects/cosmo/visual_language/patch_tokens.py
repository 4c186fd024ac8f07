"""Tokens of an image before it is pooled, from the frozen tower of an open_clip model.

# B images, N tokens, W width
"""

from typing import Any

import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from torch import Tensor

from common.config import UserError
from common.encoders.image.grid import grid_tokens
from common.encoders.image_text.open_clip_dual import open_clip_dual_encoder


class PatchTower:
    """The image tower of an open_clip model as a function.

    Not a module, so that no checkpoint holds its weights.

    ViT: normalised patch tokens; ModifiedResNet: the last feature map of more than one place; timm:
    the last map or tokens of the trunk.

    Args:
        pretrained: a folder that open_clip exported, ``bundled:<name>`` or
            ``open_clip:<name>/<tag>``.

    Attributes:
        width: W.
        encoder: the whole dual encoder.
        image_size: S, height and width in pixels.

    Raises:
        UserError: absent or random weights, or a tower without such tokens.
    """

    def __init__(self, pretrained: str) -> None:
        if pretrained == "random":
            raise UserError("a frozen image tower needs weights: set model.vision, not to 'random'")
        self.encoder = open_clip_dual_encoder(None, pretrained).requires_grad_(False).eval()
        self.image_size = self.encoder.image_size
        self.width = int(self(torch.zeros(1, 3, self.image_size, self.image_size)).shape[-1])

    def to(self, device: torch.device) -> "PatchTower":
        """Move the weights; returns itself."""
        if next(self.encoder.parameters()).device != device:
            self.encoder.to(device)
        return self

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S), normalised -> (B, N, W) float32, where the pixels are."""
        self.to(pixels.device)
        return patch_tokens(self.encoder.model.visual, pixels.float()).float()


def patch_tokens(visual: Any, pixels: Tensor) -> Tensor:
    """(B, 3, S, S) -> (B, N, W).

    Raises:
        UserError: a tower of another kind.
    """
    if isinstance(visual, VisionTransformer):
        tokens: Tensor = visual._pool(visual.transformer(visual._embeds(pixels)))[1]
        return tokens
    if isinstance(visual, ModifiedResNet):
        maps: Tensor = visual.stem(pixels)
        for layer in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
            further: Tensor = layer(maps)
            if further.shape[-1] * further.shape[-2] == 1:
                break
            maps = further
        return maps.flatten(2).transpose(1, 2)
    if isinstance(visual, TimmModel):
        output: Tensor = visual.trunk.forward_features(pixels)
        return grid_tokens(output, visual.trunk.num_features) if output.ndim == 4 else output
    raise UserError(f"{type(visual).__name__} has no tokens before pooling")
