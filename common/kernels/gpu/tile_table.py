"""Tile sizes of the Triton kernels: a fixed table, and entries that replace it.

The table is chosen by ahead-of-time compilation (no spills, shared memory within the limit of the
card), **not by timing: every speed is unmeasured.** D is a run-time loop in the kernels, so a tile
does not depend on D except through its bucket (D < 64 would waste a slice of 64).
`make bench KERNEL=tiles` measures tiles on the present card; a table that it wrote is used where
CONTRASTIVE_TILES names it.
"""

import json
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple


class TileConfig(NamedTuple):
    """Rows, columns and depth of a tile, warps per program, pipeline stages."""

    rows: int
    cols: int
    depth: int
    warps: int
    stages: int


Key = tuple[str, int, str, str]
# (kernel family, compute capability major, operand, variant) -> tile. Operand "half" is bf16 or
# fp16; "float" and "tf32" are the two ways to multiply fp32.
# Variant "plain": scores and the diagonal only. "light": also top-1, self-exclusion, half tiles or
# an index list. "masked": masks from side tensors, moments. "features": a second product per tile.
_TABLE: dict[Key, TileConfig] = {
    ("lse", 9, "half", "plain"): TileConfig(128, 256, 64, 8, 3),
    ("lse", 9, "half", "light"): TileConfig(128, 128, 64, 8, 3),
    ("grad", 9, "half", "plain"): TileConfig(128, 128, 64, 8, 3),
    ("grad", 9, "half", "light"): TileConfig(128, 128, 64, 8, 3),
    ("grad", 9, "half", "masked"): TileConfig(128, 128, 64, 8, 3),
    ("rows", 9, "half", "plain"): TileConfig(128, 128, 64, 8, 3),
    ("rows", 9, "half", "light"): TileConfig(128, 128, 64, 8, 3),
    ("rows", 8, "half", "plain"): TileConfig(128, 128, 64, 8, 3),
    ("rows", 8, "half", "light"): TileConfig(128, 128, 64, 8, 3),
    **{
        (family, 9, "tf32", variant): TileConfig(128, 128, 32, 8, 3)
        for family in ("lse", "rows", "grad")
        for variant in ("plain", "light")
    },
    **{
        (family, 9, "tf32", variant): TileConfig(128, 64, 32, 8, 3)
        for family in ("softplus", "softplus_grad")
        for variant in ("plain", "light")
    },
    ("lse", 8, "half", "plain"): TileConfig(128, 128, 64, 8, 3),
    ("grad", 8, "half", "plain"): TileConfig(128, 128, 64, 8, 3),
    ("grad", 8, "half", "light"): TileConfig(128, 128, 64, 8, 3),
    ("grad", 8, "half", "masked"): TileConfig(128, 128, 64, 8, 3),
}
_SAFE: dict[str, TileConfig] = {
    "half": TileConfig(128, 64, 64, 8, 3),
    "float": TileConfig(64, 64, 32, 4, 2),
    "tf32": TileConfig(64, 64, 32, 4, 2),
    "features": TileConfig(64, 64, 32, 8, 2),
}
_ELEMENTWISE = TileConfig(64, 128, 16, 8, 1)  # family "kept": no product, D does not matter
_INTERPRETER = TileConfig(32, 32, 32, 1, 1)
_overrides: dict[Key, TileConfig] = {}


def tile_config(
    family: str, operand: str, dim: int, capability: tuple[int, int], variant: str = "masked"
) -> TileConfig:
    """Tile for a kernel: an override, an entry of the file named by CONTRASTIVE_TILES, the table.

    Args:
        family: "lse", "rows" (lse that stores exponentials), "grad", "kept", "softplus" or
            "softplus_grad".
        operand: of the product q k^T: "half", "tf32" or "float".
        dim: embedding size D.
        capability: compute capability of the device, (0, 0) for Triton's interpreter.
        variant: "plain", "light", "masked" or "features", see the table.

    Raises:
        ValueError: if CONTRASTIVE_TILES names a file that `load_tiles` refuses.
    """
    key = (family, capability[0], operand, variant)
    file = os.environ.get("CONTRASTIVE_TILES")
    tuned = _overrides.get(key) or (load_tiles(file).get(key) if file else None)
    config = tuned or (_INTERPRETER if capability == (0, 0) else default_tile(key))
    return config._replace(depth=max(16, min(config.depth, 1 << max(dim - 1, 1).bit_length())))


def default_tile(key: Key) -> TileConfig:
    """The entry of the fixed table, else a tile that fits any card since 8.0."""
    family, _, operand, variant = key
    safe = _SAFE["features" if variant == "features" else operand]
    if family == "kept" and variant != "features":
        safe = _ELEMENTWISE
    return _TABLE.get(key, safe)


def override(key: Key, config: TileConfig | None) -> None:
    """Replace (or with None restore) a table entry in this process.

    The kernels only overwrite their outputs, so any tile gives the same result up to summation
    order, and timing candidates on live data is safe.

    Raises:
        ValueError: if a number of the tile is not a power of two in the range of the kernels.
    """
    if config is None:
        _overrides.pop(key, None)
    else:
        _overrides[key] = _checked(config)


def save_tiles(tiles: Mapping[Key, TileConfig], path: Path, **about: object) -> None:
    """Write a table for CONTRASTIVE_TILES; `about` (card, versions, times) is stored next to it."""
    rows = [[*key, list(config)] for key, config in sorted(tiles.items())]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps({**about, "tiles": rows}, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


@lru_cache
def load_tiles(path: str | Path) -> dict[Key, TileConfig]:
    """Read a table of `save_tiles`, once per process.

    Raises:
        ValueError: if the file is missing, not such a table, or holds an impossible tile.
    """
    try:
        rows = json.loads(Path(path).read_text())["tiles"]
        entries = {(f, int(c), o, v): TileConfig(*tile) for f, c, o, v, tile in rows}
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"CONTRASTIVE_TILES={path} is not a table of tile sizes ({error}); "
            "write one with `make bench KERNEL=tiles` or unset the variable"
        ) from error
    return {key: _checked(config) for key, config in entries.items()}


def _checked(config: TileConfig) -> TileConfig:
    bounds = {"rows": (16, 512), "cols": (16, 512), "depth": (16, 256), "warps": (1, 16)}
    for name, (low, high) in bounds.items():
        value = getattr(config, name)
        if not isinstance(value, int) or not low <= value <= high or value & (value - 1):
            raise ValueError(f"{name} must be a power of two in [{low}, {high}], got {config}")
    if not isinstance(config.stages, int) or not 1 <= config.stages <= 8:
        raise ValueError(f"stages must be in [1, 8], got {config}")
    return config
