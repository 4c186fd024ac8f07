"""Image towers that keep their grid: the mean token first, then one token per place.

# B images, S = 1 + places, W width
"""

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from common.config import UserError
from common.encoders.image.towers import ConvNet, timm_tower


class GridTower(nn.Module):
    """Tokens of an image: the mean over the grid, then the grid row by row.

    Source: Zeng et al. 2022, "X-VLM", section 3.1 (pooled token before the patches),
    arXiv 2111.08276.

    Attributes:
        width: W.

    Args:
        backbone: a timm model with `forward_features`, or a `ConvNet`.
        width: channels of its last feature map, see `grid_tokens`.
    """

    def __init__(self, backbone: nn.Module, width: int) -> None:
        super().__init__()
        self.backbone, self.width = backbone, width

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W), normalised -> tokens (B, S, W)."""
        backbone: Any = self.backbone
        conv = isinstance(backbone, ConvNet)
        grid = backbone.stages(images) if conv else backbone.forward_features(images)
        if grid.ndim == 3:  # a transformer's class and register tokens have no place
            grid = grid[:, getattr(backbone, "num_prefix_tokens", 0) :]
        if grid.ndim == 4:
            grid = grid_tokens(grid, self.width)
        return torch.cat([grid.mean(1, keepdim=True), grid], 1)

    def resize(self, image_size: int, window: int) -> None:
        """Take images of another size, with another attention window (Swin).

        The tables of relative positions are interpolated.

        Raises:
            UserError: a backbone that is not a Swin transformer.
        """
        backbone: Any = self.backbone
        resize = getattr(backbone, "set_input_size", None)  # ViTs have it too, without windows
        if resize is None or "window_size" not in inspect.signature(resize).parameters:
            raise UserError("only Swin towers change their image size after training")
        resize((image_size, image_size), window_size=(window, window))


def grid_tokens(grid: Tensor, width: int) -> Tensor:
    """A feature map as tokens, row by row.

    Whether channels come last follows from their number: names do not tell (Swin v2 has them last,
    its variant "cr" first).

    Args:
        grid: (B, C, H, W) or (B, H, W, C).
        width: C.

    Returns:
        (B, H * W, C).
    """
    last = grid.shape[-1] == width != grid.shape[1]
    return grid.flatten(1, 2) if last else grid.flatten(2).transpose(1, 2)


def grid_tower(
    name: str,
    pretrained: str = "random",
    *,
    image_size: int | None = None,
    widths: tuple[int, ...] = (32, 64, 128, 256),
) -> GridTower:
    """``conv`` with `widths` (what `image_encoder` calls ``convnet``), or a timm model by name.

    Swin drops paths at timm's rate of 0.1.

    Args:
        name: "conv" or e.g. "swin_base_patch4_window7_224".
        pretrained: see `timm_tower`; a conv net starts at random.
        image_size: see `timm_tower`.
        widths: channels of the stages of "conv".

    Raises:
        UserError: unknown name, absent weights, or weights for "conv".
    """
    if name == "conv":
        if pretrained != "random":
            raise UserError("the tower 'conv' starts at random: leave its pretrained= out")
        return GridTower(ConvNet(widths), widths[-1])
    if torch.get_default_device().type == "meta":  # shapes alone
        pretrained = "random"
    tower = timm_tower(name, pretrained, image_size=image_size)
    width: Any = tower.backbone.num_features  # of the map, whatever layers follow its pool
    return GridTower(tower.backbone, int(width))
