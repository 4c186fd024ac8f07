"""Other users, other machines and other file systems than the one a run was made on."""

import os
import resource
import shutil
import tempfile
from pathlib import Path

import pytest

from common import failures
from common.data import lines
from common.data.lines import LineFile
from common.engine.lifecycle.run import Run
from tests.forked import forked

ME, OTHER = 12345, 54321  # users that no machine has
as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root becomes another user")


def outcome(action, *args, user=None):
    """What an action raises, or returns, as text; in a process of its own, of another user."""
    with tempfile.TemporaryFile("w+") as file:
        process = forked(_report, file.fileno(), user, action, *args)
        process.join()
        file.seek(0)
        return file.read()


def _report(handle, user, action, *args):
    if user is not None:
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)
    try:
        said = str(action(*args))
    except BaseException as error:
        said = f"{type(error).__name__}: {failures.explain(error) or error}"
    os.write(handle, said.encode())


@pytest.fixture
def shared():
    """A folder that every user may write in, as /tmp; pytest's own belong to one user alone."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o1777)
    yield folder
    shutil.rmtree(folder)


def read_lines(folder, cache_from=0, mask=0o022):
    """The lines of a file, by an index in its folder."""
    lines.CACHE_FROM_BYTES = cache_from
    os.umask(mask)
    file = LineFile(folder / "a.txt")
    return [file[i] for i in range(len(file))], sorted(p.name[:7] for p in folder.iterdir())


ONE, TWO = "(['one', 'two'], ['a.txt'])", "(['one', 'two'], ['.a.txt.', 'a.txt'])"


@as_root
@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_two_users_share_a_cache_or_do_without(shared, mask):
    """With 077 the second one may not read what the first one has written."""
    (shared / "a.txt").write_text("one\ntwo\n")
    for user in (ME, OTHER):
        assert outcome(read_lines, shared, 0, mask, user=user) == TWO
    (index,) = shared.glob(".a.txt.*")
    assert index.stat().st_uid == ME


@as_root
def test_a_read_only_data_folder_is_read_without_a_cache(shared):
    (shared / "a.txt").write_text("one\ntwo\n")
    shared.chmod(0o755)
    assert outcome(read_lines, shared, user=ME) == ONE


def with_full_disk(action, *args):
    """No file may have more than a hundred bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
    return action(*args)


def test_an_index_that_does_not_fit_on_the_disk_is_done_without(shared):
    (shared / "a.txt").write_text("one\ntwo\n")
    assert outcome(with_full_disk, read_lines, shared) == ONE


def run_of_another(folder):
    with Run(folder, "p", "c", owner=True):
        return "mine"


@as_root
def test_a_run_of_another_user_is_refused_in_one_sentence(shared):
    run = shared / "r"
    assert outcome(run_of_another, run, user=ME) == "mine"
    assert outcome(run_of_another, run, user=OTHER).startswith(f"UserError: cannot write in {run}")


@pytest.mark.parametrize("words", [["n" * 300], ["n" * 200] * 25])
def test_paths_that_are_too_long_are_refused(command, tmp_path, words):
    folder = tmp_path.joinpath(*words)
    code, said, there = command("train", "laclip", "smoke", f"runs_dir={folder}")
    assert (code, there) == (2, False)
    assert "is too long" in said
    assert said.count("\n") == 1
