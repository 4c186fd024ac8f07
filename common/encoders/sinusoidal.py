"""Sinusoidal encodings of scalars and of positions."""

import math

import torch
from torch import Tensor


def sinusoidal(values: Tensor, dim: int, base: float = 10_000.0) -> Tensor:
    """Sines, then cosines, of a scalar at dim / 2 frequencies omega_i = base^(-2 i / dim).

    Source: Vaswani et al. 2017, "Attention is all you need", section 3.5, arXiv 1706.03762.

    Args:
        values: any shape (...,).
        dim: even, > 0.
        base: ratio of the fastest and the (excluded) slowest frequency.

    Returns:
        (..., dim) in [-1, 1].

    Raises:
        ValueError: an odd number of dimensions.

    >>> sinusoidal(torch.zeros(1), 4).tolist()
    [[0.0, 0.0, 1.0, 1.0]]
    """
    if dim <= 0 or dim % 2:
        raise ValueError(f"dim={dim}: an even number > 0 is needed")
    steps = torch.arange(dim // 2, device=values.device, dtype=values.dtype)
    angles = values[..., None] * base ** (-2 * steps / dim)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def sinusoidal_positions(length: int, dim: int, like: Tensor) -> Tensor:
    """Position codes sin(p / 10000^(2i/D)), cos(...) in turns.

    Source: Vaswani et al. 2017, section 3.5, arXiv 1706.03762.

    Args:
        length: L.
        dim: D, even.
        like: gives dtype and device.

    Returns:
        (L, D).
    """
    position = torch.arange(length, device=like.device, dtype=torch.float32)[:, None]
    step = torch.arange(0, dim, 2, device=like.device, dtype=torch.float32)
    angle = position * torch.exp(-math.log(10000.0) / dim * step)
    return torch.stack([angle.sin(), angle.cos()], 2).flatten(1).to(like.dtype)
