"""Tile table, overrides and tuned tables; the search itself runs in ``triton_cases`` ("tuner")."""

from pathlib import Path

import pytest

from benchmarks.tile_search import FAMILIES, candidates
from common.kernels.gpu.tile_table import (
    _TABLE,
    Key,
    TileConfig,
    default_tile,
    load_tiles,
    override,
    save_tiles,
    tile_config,
)

KEY: Key = ("lse", 9, "half", "plain")
OTHER = TileConfig(64, 128, 32, 4, 2)


def of_key(dim: int = 512) -> TileConfig:
    return tile_config("lse", "half", dim, (9, 0), "plain")


def test_every_card_has_a_tile_and_unknown_ones_the_safe_tile() -> None:
    for family in FAMILIES:
        for operand in ("half", "tf32", "float"):
            known, unknown = (tile_config(family, operand, 512, (major, 6)) for major in (8, 12))
            assert unknown.rows * unknown.cols <= known.rows * known.cols
            assert tile_config(family, operand, 512, (8, 0)) == known
    assert of_key() == _TABLE[KEY]
    assert of_key(dim=48).depth == 64
    assert of_key(dim=16).depth == 16


def test_an_override_replaces_one_entry_until_it_is_withdrawn() -> None:
    override(KEY, OTHER)
    try:
        assert of_key() == OTHER
        assert tile_config("grad", "half", 512, (9, 0), "plain") != OTHER
    finally:
        override(KEY, None)
    assert of_key() == default_tile(KEY)


def test_a_saved_table_is_used_where_the_environment_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tiles.json"
    save_tiles({KEY: OTHER}, path, card="none")
    assert load_tiles(path) == {KEY: OTHER}
    assert of_key() != OTHER
    monkeypatch.setenv("CONTRASTIVE_TILES", str(path))
    assert of_key() == OTHER


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        '{"tiles": [["lse", 9]]}',
        '{"tiles": [["lse", 9, "half", "plain", [100, 64, 64, 8, 3]]]}',
    ],
)
def test_a_broken_table_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "tiles.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"not a table of tile sizes|power of two"):
        load_tiles(path)
    with pytest.raises(ValueError, match="not a table of tile sizes"):
        load_tiles(tmp_path / "absent.json")


def test_an_impossible_tile_is_refused() -> None:
    for tile in (
        TileConfig(8, 64, 64, 8, 3),
        TileConfig(64, 64, 64, 3, 3),
        OTHER._replace(stages=0),
    ):
        with pytest.raises(ValueError, match="must be"):
            override(KEY, tile)


def test_candidates_contain_the_fixed_table() -> None:
    for family, _, operand, variant in _TABLE:
        assert variant == "features" or _TABLE[family, 9, operand, "plain"] in candidates(
            family, operand
        )
