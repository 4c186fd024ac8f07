"""Where tasks write what they find."""

import pytest

from common.config import UserError
from common.export.files import output_file


def test_a_task_writes_where_it_was_told_or_into_the_run(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert output_file(None, tmp_path, "ranked.jsonl") == tmp_path / "ranked.jsonl"
    actual = output_file("~/new/mine.jsonl", tmp_path, "ranked.jsonl")
    assert actual == tmp_path / "home/new/mine.jsonl"
    assert actual.parent.is_dir()
    assert not actual.exists()


def test_a_folder_and_what_is_read_are_no_outputs(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"is a folder: give a \.jsonl file"):
        output_file(str(tmp_path), tmp_path, "ranked.jsonl")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "asked.jsonl").touch()
    with pytest.raises(UserError, match="is read as well, and would be written over"):
        output_file("asked.jsonl", tmp_path, "ranked.jsonl", [None, str(tmp_path / "asked.jsonl")])
    assert output_file("other.jsonl", tmp_path, "a", [None, "asked.jsonl"]).name == "other.jsonl"
