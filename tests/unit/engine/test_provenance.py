"""Which code a value was measured with."""

import os
import subprocess

from common.engine import provenance


def test_the_identity_of_code_follows_commit_and_local_changes(tmp_path, monkeypatch):
    def git(*words):
        names = ("-c", "user.name=n", "-c", "user.email=e@e")
        subprocess.run(["git", *names, *words], cwd=tmp_path, check=True, capture_output=True)

    def identity():
        provenance.code_identity.cache_clear()
        return provenance.code_identity()

    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    file = tmp_path / "common/a b.py"
    file.parent.mkdir()
    file.write_text("1")
    (tmp_path / "notes.txt").write_text("1")
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    clean = identity()
    assert clean == identity()
    (tmp_path / "notes.txt").write_text("2")
    assert identity() == clean  # runs do not read it

    file.write_text("22")
    changed = identity()
    assert changed == identity() != clean
    os.utime(file, (1, 1))
    assert identity() != changed
    (tmp_path / "common/new.py").write_text("")
    with_new = identity()
    (tmp_path / "common/new.py").write_text("more")
    assert identity() != with_new
    git("checkout", "common")
    (tmp_path / "common/new.py").unlink()
    assert identity() == clean
    git("commit", "--allow-empty", "-m", "second")
    assert identity() != clean
    provenance.code_identity.cache_clear()
