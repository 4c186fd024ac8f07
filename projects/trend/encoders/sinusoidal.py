"""Sinusoidal encoding of scalars: times and actions."""

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
