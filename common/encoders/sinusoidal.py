"""Sinusoidal encoding of positions."""

import math

import torch
from torch import Tensor


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
