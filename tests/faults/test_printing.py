"""What a command prints when nobody reads it, the stream is closed, or the locale cannot write it;
and Ctrl-C before it has done anything.
"""

import io
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from common import cli
from common.config import ROOT, UserError, load
from common.engine import provenance
from projects.dcl import Config


def left():
    """A stream whose reader is gone."""
    reader, writer = os.pipe()
    os.close(reader)
    return open(writer, "w", encoding="utf-8")


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize("words", [["list"], ["show", "dcl", "smoke"], ["show", "dcl", "nowhere"]])
def test_a_reader_that_leaves_ends_no_command(monkeypatch, stream, words):
    monkeypatch.setattr(sys, stream, left())
    assert cli.main(words) == (2 if "nowhere" in words else 0)
    getattr(sys, stream).close()  # no error of what was not written


def test_what_follows_goes_nowhere(monkeypatch):
    """A run that says something after its reader has left continues."""

    def talk(args):
        for _ in range(3):
            print("x", flush=True)
        sys.stdout.write("y")

    monkeypatch.setattr(sys, "stdout", left())
    monkeypatch.setitem(cli.VERBS, "list", replace(cli.VERBS["list"], run=talk))
    assert cli.main(["list"]) == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_output_to_a_full_disk_is_one_sentence(monkeypatch, capsys, stream):
    with open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, stream, full)
        assert cli.main(["show", "dcl", "smoke" if stream == "stdout" else "nowhere"]) == 2
    if stream == "stdout":
        assert "no space left on the disk: free some" in capsys.readouterr().err


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_closed_stream_ends_no_command(monkeypatch, stream):
    monkeypatch.setattr(sys, stream, None)
    assert cli.main(["show", "dcl", "smoke"]) == 0
    assert cli.main(["show", "dcl", "nowhere"]) == 2
    assert getattr(sys, stream) is None


def test_names_that_the_locale_cannot_write_are_escaped(monkeypatch):
    content = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(content, "ascii"))
    assert cli.main(["show", "dcl", "smoke", "tracking.name=é"]) == 0
    assert b"\\xe9" in content.getvalue()


def test_a_name_with_other_bytes_is_refused():
    with pytest.raises(UserError, match="has bytes that are not UTF-8"):
        load(Config, "dcl", "smoke", [os.fsdecode(b"runs_dir=/tmp/caf\xe9")])


def test_other_bytes_in_what_git_prints_end_nothing(tmp_path, monkeypatch):
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    (tmp_path / "common").mkdir()
    (tmp_path / os.fsdecode(b"common/caf\xe9")).touch()
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    provenance.code_identity.cache_clear()
    try:
        assert len(provenance.code_identity()) == 16
    finally:
        provenance.code_identity.cache_clear()


@pytest.mark.parametrize("verb", ["runs", "prune"])
def test_a_folder_of_runs_that_is_not_there_is_refused(tmp_path, capsys, verb):
    (tmp_path / "file").touch()
    for place in (tmp_path / "none", tmp_path / "file"):
        assert cli.main([verb, f"runs_dir={place}"]) == 2
        assert f"there is no folder {place}" in capsys.readouterr().err
    assert cli.main([verb, f"runs_dir={tmp_path}"]) == 0


def test_ctrl_c_at_the_very_beginning_ends_with_130(monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_is_busy", interrupted)
    assert cli.main(["list"]) == 130


def test_the_program_under_head():
    """As a process of its own: no message and no code of Python's at its end."""
    command = f"'{sys.executable}' -m common.cli list | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1
