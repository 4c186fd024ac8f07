"""Locked packages are compared with a folder of advisories; nothing compared is an error."""

import json

import pytest

from common.config import ROOT
from scripts.advisories import findings, is_affected, locked, main


def ranged(*events):
    return {"ranges": [{"type": "ECOSYSTEM", "events": list(events)}]}


FIXED = ranged({"introduced": "0"}, {"fixed": "1.4"}, {"introduced": "2.0rc1"}, {"fixed": "2.3"})
LAST = ranged({"introduced": "1.2"}, {"last_affected": "1.10"})


@pytest.mark.parametrize(
    ("version", "affected", "expected"),
    [
        ("1.3.9", FIXED, True),
        ("1.4", FIXED, False),
        ("1.10", FIXED, False),
        ("2.0", FIXED, True),
        ("2.3", FIXED, False),
        ("1.1", LAST, False),
        ("1.2", LAST, True),
        ("1.10", LAST, True),
        ("1.10.1", LAST, False),
        ("7", {"versions": ["7"]}, True),
        ("7.0", {"versions": ["7"]}, False),
        ("7", {"ranges": [{"type": "GIT", "events": [{"introduced": "0"}]}]}, False),
    ],
)
def test_versions_in_ranges(version, affected, expected):
    assert is_affected(version, affected) == expected


def record(folder, name, *, ecosystem="PyPI", **more):
    package = {"name": name, "ecosystem": ecosystem}
    content = {"id": f"X-{name}", "summary": "bad", "modified": "2026-11-30T00:00:00Z", **more}
    content["affected"] = [{"package": package, **FIXED}]
    (folder / f"{name}{len(more)}{ecosystem}.json").write_text(json.dumps(content))


def test_what_is_affected_is_named(tmp_path, capsys):
    lock = tmp_path / "a.lock"
    lock.write_text("a-b==2.1 ; python_version > '3' \\\n    --hash=sha256:0\na-b==2.3\nc==2.3\n")
    assert locked(lock) == [("a-b", "2.1"), ("a-b", "2.3"), ("c", "2.3")]
    for name in ("A_b", "c", "d"):
        record(tmp_path, name)
    record(tmp_path, "a-b", withdrawn="2026-01-01T00:00:00Z")
    record(tmp_path, "a-b", ecosystem="npm")
    (tmp_path / "notes.json").write_text("[]")
    assert findings(locked(lock), tmp_path) == (["a-b 2.1: X-A_b bad"], 4, "2026-11-30")
    assert main([str(tmp_path), "--lock", str(lock)]) == 1
    said = capsys.readouterr().out
    assert "3 packages compared with 4 records, the newest of 2026-11-30" in said
    lock.write_text("c==2.3\n")
    assert main([str(tmp_path), "--lock", str(lock)]) == 0
    assert "no known vulnerability" in capsys.readouterr().out


def test_nothing_compared_is_an_error(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert "nothing was compared" in capsys.readouterr().err


def test_every_package_of_the_lock_is_compared():
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert len(locked(ROOT / "requirements.lock")) == sum(
        line[:1].isalnum() for line in text.splitlines()
    )
