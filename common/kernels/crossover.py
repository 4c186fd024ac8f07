"""Where the fused operations begin to pay: measured numbers of pairs, up to which plain torch runs.

One-way losses, symmetric ones, one set against itself, losses with labels and sums of softplus
cross at different sizes; so do small and large embeddings, whose products weigh more. Nothing but
time and memory depends on it: both forms give the same loss.
"""

import json
import os
from pathlib import Path
from typing import Literal

import torch
from torch.autograd import forward_ad

Kind = Literal["one-way", "symmetric", "self", "labels", "softplus"]
Limits = dict[tuple[str, str], tuple[int, int]]

WIDE = 256  # embeddings of more dimensions take the second limit

# pairs up to which the plain form is the faster one, by device and kind; D <= 256 and larger D.
# One thread of an AMD EPYC, torch 2.11. Where the allocator gives memory back after every step, the
# fused forms win earlier (`make bench KERNEL=crossover`); in a long run that keeps it, from here on.
PAIRS: Limits = {
    ("cpu", "one-way"): (2**21, 2**21),
    ("cpu", "symmetric"): (2**19, 2**19),
    ("cpu", "self"): (2**22, 2**20),
    ("cpu", "labels"): (2**20, 2**20),
    ("cpu", "softplus"): (2**21, 2**21),
}
ELSEWHERE = (2**18, 2**18)  # devices that were not measured


def load(path: str | Path) -> Limits:
    """Read a table that `make bench KERNEL=crossover` wrote.

    Raises:
        ValueError: the file is missing or is not such a table.
    """
    try:
        rows = json.loads(Path(path).read_text())["pairs"]
        return {(device, kind): (int(small), int(large)) for device, kind, small, large in rows}
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"CONTRASTIVE_CROSSOVER={path} is not a table of sizes ({error}); "
            "write one with `make bench KERNEL=crossover` or unset the variable"
        ) from error


if os.environ.get("CONTRASTIVE_CROSSOVER"):
    PAIRS |= load(os.environ["CONTRASTIVE_CROSSOVER"])


def plain_pairs(device: str, kind: Kind, dim: int) -> int:
    """Number of pairs up to which the plain form is the faster one."""
    narrow, wide = PAIRS.get((device, kind), ELSEWHERE)
    return wide if dim > WIDE else narrow  # not by index: torch.compile would break the graph


def needs_plain() -> bool:
    """Whether a transform of `torch.func` or forward-mode differentiation is under way.

    The fused operations have no rules for them; plain torch has.
    """
    if torch.compiler.is_compiling():
        return False
    level: int = forward_ad._current_level
    return level >= 0 or torch._C._are_functorch_transforms_active()
