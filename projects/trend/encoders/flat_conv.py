"""3^3 convolutions of volumes that are a few cells high, and of volumes that are constant."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import conv2d, conv3d, pad


def flat_conv3d(volume: Tensor, kernel: Tensor) -> Tensor:
    """3^3 convolution, padded by one zero, as a 2-D one in which layers of cells are channels.

    Volumes seen from above are a few cells high: beyond three layers most of the 2-D kernel would
    be zero, and `conv3d` is called. The backward pass of a 2-D convolution is twice as fast on a
    CPU.

    Args:
        volume: (B, C, D, H, W).
        kernel: (C', C, 3, 3, 3).

    Returns:
        (B, C', D, H, W).
    """
    depth, out = volume.shape[2], len(kernel)
    if depth > 3:
        return conv3d(volume, kernel, padding=1)
    taps = pad(kernel, (0, 0, 0, 0, depth - 2, depth - 2))  # a tap for each distance of two layers
    layers = [taps[:, :, depth - 1 - i : 2 * depth - 1 - i] for i in range(depth)]
    wide = torch.stack(layers, dim=1).reshape(out * depth, -1, 3, 3)
    flat = conv2d(volume.flatten(1, 2), wide, padding=1)
    return flat.view(len(volume), out, *volume.shape[2:])


def constant_conv3d(code: Tensor, kernel: Tensor, shape: Sequence[int]) -> Tensor:
    """3^3 convolution, padded by one zero, of volumes that are constant in space.

    The result differs from cell to cell at the border alone, so three cells along each axis are
    convolved and the middle one is repeated.

    Args:
        code: (B, A) values of the channels.
        kernel: (C, A, 3, 3, 3).
        shape: cells along z, y, x.

    Returns:
        (B, C, *shape).
    """
    small = [min(n, 3) for n in shape]
    small_out = conv3d(code[:, :, None, None, None].expand(-1, -1, *small), kernel, padding=1)
    for axis, size in enumerate(shape, 2):
        if size > 3:
            first, middle, last = small_out.unbind(axis)
            inner = middle.unsqueeze(axis)
            inner = inner.expand(*(size - 2 if i == axis else -1 for i in range(small_out.ndim)))
            small_out = torch.cat([first.unsqueeze(axis), inner, last.unsqueeze(axis)], dim=axis)
    return small_out
