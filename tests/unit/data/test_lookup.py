from pathlib import Path

import pytest

from common.config import UserError
from common.data import lookup


def test_data_root_prefers_config_then_environment(monkeypatch, tmp_path):
    mine, other = tmp_path / "mine", tmp_path / "other"
    mine.mkdir()
    other.mkdir()
    monkeypatch.setenv("DATA_DIR", str(other))
    assert lookup.data_root(str(mine)) == mine
    assert lookup.data_root(None) == other
    monkeypatch.delenv("DATA_DIR")
    assert lookup.data_root(None) == Path("data")


def test_a_named_root_that_does_not_exist_is_an_error(monkeypatch, tmp_path):
    with pytest.raises(UserError, match=r"nowhere, named by data.root, does not exist"):
        lookup.data_root(str(tmp_path / "nowhere"))
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "lost"))
    with pytest.raises(UserError, match="DATA_DIR"):
        lookup.data_root(None)


def test_require_names_layout_source_and_size(tmp_path):
    assert lookup.require(tmp_path, what="x", layout="", source="", size="") == tmp_path
    with pytest.raises(UserError) as error:
        lookup.require(
            tmp_path / "cc3m",
            what="CC3M",
            layout="cc3m/train.csv",
            source="example.org",
            size="9 GB",
        )
    for part in ("CC3M", "cc3m/train.csv", "example.org", "9 GB", "data.root"):
        assert part in str(error.value)


def test_bundled_prefers_the_users_copy_and_falls_back(tmp_path, monkeypatch):
    tracked = tmp_path / "tracked"
    (tracked / "clipart").mkdir(parents=True)
    (tmp_path / "own").mkdir()
    monkeypatch.setattr(lookup, "BUNDLED", tracked)
    assert lookup.bundled("clipart", str(tmp_path / "own")) == tracked / "clipart"
    (tmp_path / "own" / "clipart").mkdir()
    assert lookup.bundled("clipart", str(tmp_path / "own")) == tmp_path / "own" / "clipart"
    with pytest.raises(UserError, match="bundled data 'nothing' not found"):
        lookup.bundled("nothing", str(tmp_path))
