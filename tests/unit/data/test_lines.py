import os
import pickle

import pytest

from common.config import UserError
from common.data.lines import LineFile, read_lines


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


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\ufefftwo\n", "utf-8-sig")
    lines = LineFile(tmp_path / "a.txt")
    assert [lines[0], lines[1]] == ["one", "\ufefftwo"]


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
    monkeypatch.setattr("numpy.save", refuse)
    assert LineFile(path)[1] == "two \u00fc"
    assert os.listdir(path.parent) == ["texts.txt"]


def test_missing_and_empty_files(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        LineFile(tmp_path / "absent.txt")
    (tmp_path / "empty.txt").touch()
    assert len(LineFile(tmp_path / "empty.txt")) == 0


def test_index_of_another_user(path, monkeypatch):
    """In a shared folder others may read the index; where they may not, they make their own."""
    monkeypatch.setattr("common.data.lines.CACHE_FROM_BYTES", 0)
    before = os.umask(0o022)
    try:
        LineFile(path)
    finally:
        os.umask(before)
    (cache,) = path.parent.glob(".texts.txt.lines-*.npy")
    assert cache.stat().st_mode & 0o777 == 0o644
    cache.write_bytes(b"")
    assert LineFile(path)[1] == "two \u00fc"

    def refuse(*args, **kwargs):
        raise PermissionError("not yours")

    monkeypatch.setattr("numpy.load", refuse)
    assert LineFile(path)[1] == "two \u00fc"


def test_lines_in_memory(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffone\u2028still\r\n\r\ntwo\rthree\n".encode())
    assert read_lines(path) == ["one\u2028still", "", "two\rthree"]
    path.write_bytes(b"")
    assert read_lines(path) == []
    path.write_bytes("caf\u00e9\n".encode("latin-1"))
    with pytest.raises(UserError, match="not a text file in UTF-8"):
        read_lines(path)
