"""Tile sizes of the Triton kernels: a fixed table, and an optional tuner that replaces entries.

The table is chosen by ahead-of-time compilation (no spills, shared memory within the limit of the
card), **not by timing: every speed is unmeasured.** D is a run-time loop in the kernels, so a tile
does not depend on D except through its bucket (D < 64 would waste a slice of 64).
"""

from typing import NamedTuple

import torch


class TileConfig(NamedTuple):
    """Rows, columns and depth of a tile, warps per program, pipeline stages."""

    rows: int
    cols: int
    depth: int
    warps: int
    stages: int


# (kernel family, compute capability major, operand, variant) -> tile. Operand "half" is bf16 or fp16.
# Variant "plain": scores and the diagonal only. "light": also top-1, self-exclusion, half tiles or an
# index list. "masked": masks from side tensors, moments. "features": a second product per tile.
_TABLE: dict[tuple[str, int, str, str], TileConfig] = {
    ("lse", 9, "half", "plain"): TileConfig(128, 256, 64, 8, 3),
    ("lse", 9, "half", "light"): TileConfig(128, 128, 64, 8, 3),
    ("grad", 9, "half", "plain"): TileConfig(128, 128, 64, 8, 3),
    ("grad", 9, "half", "light"): TileConfig(128, 128, 64, 8, 3),
    ("grad", 9, "half", "masked"): TileConfig(128, 128, 64, 8, 3),
    ("lse", 8, "half", "plain"): TileConfig(128, 128, 64, 8, 3),
    ("grad", 8, "half", "plain"): TileConfig(128, 128, 64, 8, 3),
    ("grad", 8, "half", "light"): TileConfig(128, 128, 64, 8, 3),
    ("grad", 8, "half", "masked"): TileConfig(128, 128, 64, 8, 3),
}
_SAFE: dict[str, TileConfig] = {
    "half": TileConfig(128, 64, 64, 8, 3),
    "float": TileConfig(64, 64, 32, 4, 2),
    "features": TileConfig(64, 64, 32, 8, 2),
}
_INTERPRETER = TileConfig(32, 32, 32, 1, 1)
_overrides: dict[tuple[str, int, str, str], TileConfig] = {}


def tile_config(
    family: str, dtype: torch.dtype, dim: int, capability: tuple[int, int], variant: str = "masked"
) -> TileConfig:
    """Tile for a kernel.

    Args:
        family: "lse", "grad", "softplus" or "softplus_grad".
        dtype: dtype of the operands of the product q k^T.
        dim: embedding size D.
        capability: compute capability of the device, (0, 0) for Triton's interpreter.
        variant: "plain", "light", "masked" or "features", see the table.
    """
    if capability == (0, 0):
        return _INTERPRETER
    operand = "float" if dtype == torch.float32 else "half"
    key = (family, capability[0], operand, variant)
    safe = _SAFE["features" if variant == "features" else operand]
    config = _overrides.get(key) or _TABLE.get(key, safe)
    return config._replace(depth=max(16, min(config.depth, 1 << max(dim - 1, 1).bit_length())))


def override(
    family: str, capability_major: int, operand: str, variant: str, config: TileConfig | None
) -> None:
    """Replace (or with None restore) a table entry, e.g. with a tuned one.

    The kernels only overwrite their outputs, so any tile gives the same result up to summation
    order, and timing candidates on live data is safe.
    """
    key = (family, capability_major, operand, variant)
    if config is None:
        _overrides.pop(key, None)
    else:
        _overrides[key] = config
