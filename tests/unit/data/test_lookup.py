from pathlib import Path

import pytest

from common.config import UserError
from common.data import lookup


def test_data_root_prefers_config_then_environment(monkeypatch):
    monkeypatch.setenv("DATA_DIR", "/somewhere")
    assert lookup.data_root("mine") == Path("mine")
    assert lookup.data_root(None) == Path("/somewhere")
    monkeypatch.delenv("DATA_DIR")
    assert lookup.data_root(None) == Path("data")


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
    monkeypatch.setattr(lookup, "BUNDLED", tracked)
    assert lookup.bundled("clipart", str(tmp_path / "own")) == tracked / "clipart"
    (tmp_path / "own" / "clipart").mkdir(parents=True)
    assert lookup.bundled("clipart", str(tmp_path / "own")) == tmp_path / "own" / "clipart"
    with pytest.raises(UserError, match="bundled data 'nothing' not found"):
        lookup.bundled("nothing", str(tmp_path))
