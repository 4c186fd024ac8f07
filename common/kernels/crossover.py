"""Where the fused operations begin to pay: measured numbers of pairs, up to which plain torch runs.

One-way losses, symmetric ones, one set against itself and sums of softplus cross at different sizes;
so do small and large embeddings, whose products weigh more. Nothing but time depends on it: both
forms give the same loss.
"""

from typing import Literal

import torch
from torch.autograd import forward_ad

Kind = Literal["one-way", "symmetric", "self", "softplus"]

# pairs up to which the plain form is the faster one, by device and kind; D <= 256 and larger D
PAIRS: dict[tuple[str, Kind], tuple[int, int]] = {
    ("cpu", "one-way"): (2**20, 2**20),
    ("cpu", "symmetric"): (2**18, 2**18),
    ("cpu", "self"): (2**18, 2**18),
    ("cpu", "softplus"): (2**20, 2**20),
}
ELSEWHERE = 2**18  # other devices, not measured


def plain_pairs(device: str, kind: Kind, dim: int) -> int:
    """Number of pairs up to which the plain form is the faster one."""
    small, large = PAIRS.get((device, kind), (ELSEWHERE, ELSEWHERE))
    return small if dim <= 256 else large


def needs_plain() -> bool:
    """Whether a transform of `torch.func` or forward-mode differentiation is under way.

    The fused operations have no rules for them; plain torch has.
    """
    if torch.compiler.is_compiling():
        return False
    level: int = forward_ad._current_level
    return level >= 0 or torch._C._are_functorch_transforms_active()
