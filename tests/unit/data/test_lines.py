import os
import pickle

import pytest

from common.config import UserError
from common.data.lines import LineFile


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_bytes("one\ntwo \u00fc\r\n\nfour\u2028still four".encode())
    return path


def test_lines_by_index_without_breaks(path):
    lines = LineFile(path)
    assert [lines[i] for i in range(len(lines))] == [
        "one",
        "two \u00fc",
        "",
        "four\u2028still four",
    ]
    with pytest.raises(IndexError):
        lines[4]
    assert pickle.loads(pickle.dumps(lines))[1] == "two \u00fc"


def test_small_files_leave_nothing_behind(path):
    LineFile(path)
    assert os.listdir(path.parent) == ["texts.txt"]


def test_index_is_cached_and_renewed_when_the_file_changes(path, monkeypatch):
    monkeypatch.setattr("common.data.lines.CACHE_FROM_BYTES", 0)
    LineFile(path)
    caches = list(path.parent.glob(".texts.txt.lines-*.npy"))
    assert len(caches) == 1
    stamp = caches[0].stat().st_mtime_ns
    LineFile(path)
    assert caches[0].stat().st_mtime_ns == stamp
    path.write_text("only one line now, longer than before\n" * 3)
    assert len(LineFile(path)) == 3


def test_folder_that_cannot_be_written(path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError("read-only")

    monkeypatch.setattr("common.data.lines.CACHE_FROM_BYTES", 0)
    monkeypatch.setattr("tempfile.mkstemp", refuse)
    assert LineFile(path)[1] == "two \u00fc"
    assert os.listdir(path.parent) == ["texts.txt"]


def test_missing_and_empty_files(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        LineFile(tmp_path / "absent.txt")
    (tmp_path / "empty.txt").touch()
    assert len(LineFile(tmp_path / "empty.txt")) == 0
