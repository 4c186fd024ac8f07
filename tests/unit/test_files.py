"""Files are replaced whole and synced; special files and other encodings are refused."""

import os
import re
import socket
from functools import partial

import pytest

from common import files
from common.config import ROOT, UserError
from common.files import (
    refuse_special,
    replacing,
    replacing_together,
    utf8,
    write_bytes,
    write_text,
)
from tests.forked import forked
from tests.killed_tasks import until_file


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def half(file):
        file.write_text("ne")
        raise RuntimeError

    with pytest.raises(RuntimeError), replacing(path) as temporary:
        half(temporary)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_files_that_belong_together_are_never_of_two_calls(tmp_path):
    """At every kill they are all old, all new, or some are missing."""
    paths = [tmp_path / name for name in ("vectors", "names", "weights")]
    contents = set()
    for at in range(10):
        for path in paths:
            write_text(path, "old")
        child = forked(until_file, partial(write_together, paths), at)
        child.join()
        left = {path.read_text() for path in paths if path.exists()}
        assert len(left) == 1
        contents |= left
        if child.exitcode == 0:
            break
    assert child.exitcode == 0
    assert [path.read_text() for path in paths] == ["new"] * 3
    assert contents == {"old", "new"}


def write_together(paths):
    with replacing_together(*paths) as temporary:
        for path in temporary:
            path.write_text("new")


def test_files_that_belong_together_stay_when_one_cannot_be_written(tmp_path, monkeypatch):
    paths = [tmp_path / name for name in ("vectors", "names")]
    for path in paths:
        write_text(path, "old")

    def full(place):
        raise OSError("full")

    monkeypatch.setattr(files, "sync", full)
    with pytest.raises(OSError, match="full"):
        write_together(paths)
    assert [path.read_text() for path in paths] == ["old", "old"]
    assert len(list(tmp_path.iterdir())) == 2


def test_content_is_on_the_disk_before_its_name_and_the_name_before_the_end(tmp_path, monkeypatch):
    """What a loss of power may drop is what was not synced yet."""
    path, seen = tmp_path / "new/a.bin", []

    def sync(place):
        seen.append((place.name, path.exists()))

    monkeypatch.setattr(files, "sync", sync)
    write_bytes(path, b"x")
    (first, there), second = seen
    assert (first.endswith(".tmp"), there) == (True, False)
    assert second == ("new", True)


# what writes in another way: into a temporary file or folder that takes its name later, or no file
PARTS = {
    "common/files.py",
    "common/export/files.py",
    "common/engine/trained.py",
    "common/data/official/converters.py",
    "common/kernels/gpu/tile_table.py",
    "common/new_project.py",
    "projects/defsent_plus/benchmark.py",
    "projects/promptreps/tasks.py",
}
WRITES = re.compile(
    r"""\.write_(text|bytes)\(|np\.save|(?<!temporary)(?<!partial)\.open\(\s*["'](w|x)"""
)


def test_every_file_is_written_whole():
    """A kill or a full disk would leave half of one under the name of the whole."""
    sources = {
        path: path.read_text(encoding="utf-8")
        for folder in ("common", "projects", "arena")
        for path in (ROOT / folder).rglob("*.py")
        if str(path.relative_to(ROOT)) not in PARTS
    }
    lines = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path, text in sources.items()
        if WRITES.search(text)
        for line in text.splitlines()
        if WRITES.search(line) and not re.search(r"np\.savez?\w*\((file|target),", line)
    ]
    assert lines == []


def test_names_may_be_as_long_as_the_file_system_allows(tmp_path):
    path = tmp_path / ("n" * 255)
    write_text(path, "x")
    assert path.read_text() == "x"


def test_files_that_are_written_may_be_read_by_others_as_the_umask_says(tmp_path):
    with replacing(tmp_path / "a") as temporary:
        temporary.chmod(0o600)  # as some libraries do
    plain = tmp_path / "b"
    plain.touch()
    assert (tmp_path / "a").stat().st_mode == plain.stat().st_mode


def test_a_device_is_not_replaced(tmp_path):
    (tmp_path / "out").symlink_to("/dev/null")
    with pytest.raises(UserError, match="is a device: give a regular file"):
        write_text(tmp_path / "out", "x")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_folder_is_synced_with_all_that_is_in_it(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/b").touch()
    (tmp_path / "link").symlink_to("nowhere")
    seen = []
    monkeypatch.setattr(files, "sync", seen.append)
    files.sync_all(tmp_path)
    assert sorted(seen) == [tmp_path, tmp_path / "a", tmp_path / "a/b"]


def test_pipes_devices_and_sockets_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        (tmp_path / "link").symlink_to("/dev/zero")
        for name, kind in (("pipe", "named pipe"), ("link", "device"), ("socket", "socket")):
            with pytest.raises(UserError, match=rf"{name} is a {kind}: give a regular file"):
                refuse_special(tmp_path / name)
    (tmp_path / "file").touch()
    for place in (tmp_path, tmp_path / "file", tmp_path / "missing"):
        refuse_special(place)


def test_another_encoding_is_named_by_line_and_byte(tmp_path):
    assert utf8("é".encode(), tmp_path, 1) == "é"
    with pytest.raises(UserError, match=r"a\.csv, line 4: byte 0xe9 is not UTF-8; save the file"):
        utf8("a\nb\ncaf\u00e9".encode("latin-1"), tmp_path / "a.csv", 2)
