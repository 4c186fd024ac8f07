"""The cache of offline stages: joining by content, resuming, refusing, atomic writing."""

import os

import pytest

from common.data.offline import content_digest, content_key, write_atomically


def test_borders_of_texts_count():
    assert content_key(("ab", "c")) != content_key(("a", "bc"))
    assert content_key(("ab",)) == content_key("ab")
    assert content_digest(["ab", "c"]) != content_digest(["a", "bc"])
    assert content_digest(["a", "b"]) != content_digest(["b", "a"])


def test_atomic_writing_leaves_the_old_file_when_it_fails(tmp_path):
    path = tmp_path / "a.json"
    write_atomically(path, b"old")
    with pytest.raises(TypeError):
        write_atomically(path, "no bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_files_can_be_read_by_others_of_a_shared_folder(tmp_path):
    before = os.umask(0o022)
    try:
        write_atomically(tmp_path / "a.json", b"{}")
    finally:
        os.umask(before)
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o644
