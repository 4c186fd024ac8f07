"""A plain ViT whose attention is windowed in most layers, and the average with a rolled copy (SWL).

# B images, H x W tokens, C width, K windows a side
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F

from common.config import UserError

Windows = Literal["mixed", "all_but_last", "none"]
LN_EPS = 1e-6


def split_windows(tokens: Tensor, windows: int) -> Tensor:
    """Cut a grid of tokens into windows, which become further rows of the batch.

    Args:
        tokens: (B, H, W, C).
        windows: K, windows a side; H and W are multiples of it.

    Returns:
        (K K B, H/K, W/K, C): all images' first window, then their second, row by row of windows.

    Raises:
        UserError: a grid that K does not divide.

    >>> grid = torch.arange(16).view(1, 4, 4, 1)
    >>> split_windows(grid, 2)[1].flatten().tolist()
    [2, 3, 6, 7]
    """
    b, h, w, c = tokens.shape
    if h % windows or w % windows:
        raise UserError(
            f"a grid of {h} x {w} tokens has no {windows} windows a side: choose an image size"
            f" whose sides are multiples of {windows} patches"
        )
    parts = tokens.view(b, windows, h // windows, windows, w // windows, c)
    return parts.permute(1, 3, 0, 2, 4, 5).reshape(-1, h // windows, w // windows, c)


def merge_windows(parts: Tensor, windows: int) -> Tensor:
    """Undo `split_windows`: (K K B, H/K, W/K, C) -> (B, H, W, C)."""
    _, h, w, c = parts.shape
    grid = parts.view(windows, windows, -1, h, w, c).permute(2, 0, 3, 1, 4, 5)
    return grid.reshape(-1, windows * h, windows * w, c)


def roll_tokens(tokens: Tensor, shift: int) -> Tensor:
    """Roll a grid (B, H, W, C) by (-shift, +shift) on (height, width), as released.

    >>> roll_tokens(torch.arange(9).view(1, 3, 3, 1), 1)[0, 0].flatten().tolist()
    [5, 3, 4]
    """
    return torch.roll(tokens, (-shift, shift), dims=(1, 2))


def unroll_tokens(tokens: Tensor, shift: int) -> Tensor:
    """Undo `roll_tokens`."""
    return torch.roll(tokens, (shift, -shift), dims=(1, 2))


class WindowedViT(nn.Module):
    """ViT without class token; windows in all layers but some; optional shifted-window learning.

    Pre-norm blocks with tanh-approximated GELU, learned positions on a square grid, resized
    bilinearly to the image's; a last LayerNorm. With a shift s the token map (before positions) is
    rolled by (-s, +s), goes through the same blocks, is rolled back and averaged with the map of
    the first pass; then comes the LayerNorm. Rolled-in tokens are not masked.

    Source: Li et al. 2022, "ViTDet", section 3, arXiv 2203.16527; Kim et al. 2023, "DITO" (shifted
    windows), arXiv 2310.00161, and its released detector.

    Args:
        patch_size: side of a patch in pixels.
        width: token dimension C, a multiple of `heads`.
        depth: number of blocks.
        heads: attention heads.
        position_grid: side of the learned grid of positions.
        windows_per_side: K; 1: global attention everywhere.
        global_layers: layers of global attention, counted from 1.

    Raises:
        UserError: a width that is not a multiple of `heads`, or a global layer that does not exist.
    """

    def __init__(
        self,
        patch_size: int = 16,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        *,
        position_grid: int = 14,
        windows_per_side: int = 4,
        global_layers: Sequence[int] = (3, 6, 9, 12),
    ) -> None:
        super().__init__()
        if width % heads or not set(global_layers) <= set(range(1, depth + 1)):
            raise UserError(
                f"width {width} must be a multiple of {heads} heads and global layers "
                f"{list(global_layers)} lie in 1..{depth}"
            )
        self.patch_size, self.num_features = patch_size, width
        self.windows_per_side, self.global_layers = windows_per_side, frozenset(global_layers)
        self.patch = nn.Conv2d(3, width, patch_size, patch_size)
        self.positions = nn.Parameter(torch.empty(1, position_grid, position_grid, width))
        activation: Any = partial(nn.GELU, approximate="tanh")
        norm: Any = partial(nn.LayerNorm, eps=LN_EPS)
        self.blocks = nn.ModuleList(
            Block(
                width,
                heads,
                qkv_bias=True,
                act_layer=activation,
                norm_layer=norm,
            )
            for _ in range(depth)
        )
        self.ln_post = nn.LayerNorm(width, eps=LN_EPS)
        nn.init.trunc_normal_(self.positions, std=0.02)
        for layer in self.blocks.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def forward(self, images: Tensor, *, shift: int = 0, windows: Windows = "mixed") -> Tensor:
        """Feature map at the stride of a patch.

        Args:
            images: (B, 3, h, w), normalised; sides are multiples of the patch and of K patches.
            shift: s of shifted-window learning, in tokens; 0: one plain pass.
            windows: "mixed" as built, "all_but_last" for a frozen classifier, "none".

        Returns:
            (B, C, h / patch, w / patch).

        Raises:
            UserError: sides that do not divide.
        """
        if images.shape[-2] % self.patch_size or images.shape[-1] % self.patch_size:
            raise UserError(
                f"images of {tuple(images.shape[-2:])} pixels: sides must be multiples of "
                f"{self.patch_size}"
            )
        tokens = self.patch(images).permute(0, 2, 3, 1)
        states = self.encode(tokens, 0, windows)
        if shift:
            states = 0.5 * (states + self.encode(tokens, shift, windows))  # SWL: same weights
        normed: Tensor = self.ln_post(states)
        return normed.permute(0, 3, 1, 2)

    def encode(self, tokens: Tensor, shift: int, windows: Windows = "mixed") -> Tensor:
        """Pass over patch tokens (B, H, W, C), rolled before the blocks and back after them."""
        x = roll_tokens(tokens, shift) if shift else tokens
        x = x + self.positions_for(x.shape[1], x.shape[2])  # positions are not rolled
        k = 1
        for number, block in enumerate(self.blocks, start=1):
            count = self._windows(number, windows)
            if count != k:  # split or merge where the kind of attention changes
                x = merge_windows(x, k) if k > 1 else x
                x = split_windows(x, count) if count > 1 else x
                k = count
            n, h, w, c = x.shape
            x = block(x.reshape(n, h * w, c)).view(n, h, w, c)
        x = merge_windows(x, k) if k > 1 else x
        return unroll_tokens(x, shift) if shift else x

    def positions_for(self, height: int, width: int) -> Tensor:
        """Positions (1, height, width, C) of a grid, bilinearly resized."""
        if self.positions.shape[1:3] == (height, width):
            return self.positions
        grid = self.positions.permute(0, 3, 1, 2)
        resized = F.interpolate(grid, (height, width), mode="bilinear", align_corners=False)
        return resized.permute(0, 2, 3, 1)

    def _windows(self, number: int, windows: Windows) -> int:
        last = number == len(self.blocks)
        whole = {"mixed": number in self.global_layers, "all_but_last": last, "none": True}[windows]
        return 1 if whole else self.windows_per_side
