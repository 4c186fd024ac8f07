"""The simple feature pyramid: several strides made from the last map of a plain ViT."""

from collections.abc import Sequence
from itertools import pairwise

from timm.layers.norm import LayerNorm2d
from torch import Tensor, nn

from common.config import UserError

EPS = 1e-6


class SimpleFeaturePyramid(nn.Module):
    """Maps at 4, 2, 1 and 1/2 times the resolution of one map, all with the same channels.

    4: two deconvolutions 2x2 with LayerNorm and GELU between them; 2: one; 1: none; 1/2: max
    pooling. Each is followed by a 1x1 and a 3x3 convolution without bias, each with LayerNorm.

    Source: Li et al. 2022, "ViTDet", section 3, arXiv 2203.16527.

    Args:
        width: channels C of the map.
        channels: channels of every level.
        scales: resolutions, finest first, each half the one before.
        stride: of the map, in pixels; every level's is a whole number.

    Raises:
        UserError: another scale, a level left out, or a stride that is not whole.
    """

    def __init__(
        self,
        width: int,
        channels: int = 256,
        scales: Sequence[float] = (4, 2, 1, 0.5),
        stride: int = 16,
    ) -> None:
        super().__init__()
        if any(fine != 2 * coarse for fine, coarse in pairwise(scales)):
            # RoIAlign takes a region from the level of its size, which has to be there
            raise UserError(
                f"a pyramid's scales {list(scales)} must go from fine to coarse and leave no level"
                " out, such as [4, 2, 1, 0.5]"
            )
        self.strides = [round(stride / scale) for scale in scales]
        self.levels = nn.ModuleList(_level(width, channels, scale) for scale in scales)
        if any((stride / scale) % 1 for scale in scales):
            raise UserError(
                f"patches of {stride} pixels have no level at {max(scales):g} times their"
                " resolution: the stride would be no whole number of pixels; leave that scale out"
            )

    def forward(self, grid: Tensor) -> list[Tensor]:
        """(B, C, H, W) -> a map (B, channels, scale H, scale W) for each scale."""
        return [level(grid) for level in self.levels]


def _level(width: int, channels: int, scale: float) -> nn.Sequential:
    half, quarter = width // 2, width // 4
    if scale == 4:
        first: list[nn.Module] = [
            nn.ConvTranspose2d(width, half, 2, 2),
            LayerNorm2d(half, eps=EPS),
            nn.GELU(),
            nn.ConvTranspose2d(half, quarter, 2, 2),
        ]
        width = quarter
    elif scale == 2:
        first, width = [nn.ConvTranspose2d(width, half, 2, 2)], half
    elif scale == 1:
        first = []
    elif scale == 0.5:
        first = [nn.MaxPool2d(2)]
    else:
        raise UserError(f"a pyramid has the scales 4, 2, 1 and 0.5, not {scale}")
    return nn.Sequential(
        *first,
        nn.Conv2d(width, channels, 1, bias=False),
        LayerNorm2d(channels, eps=EPS),
        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        LayerNorm2d(channels, eps=EPS),
    )
