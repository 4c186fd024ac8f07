"""What `make new-project` writes is green on every family and touches no existing file.

Two projects are started in two branches of a copy of the repository and merged; the checks of
`make test` then run on the merged tree.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from common.config import ROOT
from common.new_project import FAMILIES

pytestmark = pytest.mark.slow

SLUGS = {
    "a_name_of_24_charactersx": "images",
    "q1": "sentences",
    "q2": "image_text",
    "q3": "retrieval",
}
TREES = (
    "arena",
    "common",
    "scripts",
    "docs",
    "results",
    "benchmarks",
    "projects",
    "configs",
    "tests",
)
FILES = ("README.md", "CHANGELOG.md", "Makefile", "pyproject.toml", ".gitignore", "LICENSE")
BIN = Path(sys.executable).parent


def run(folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [str(w) for w in words], capture_output=True, text=True, cwd=folder, env=env
    )


def ok(folder: Path, *words: object) -> str:
    done = run(folder, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def git(folder: Path, *words: object) -> str:
    who = ("-c", "user.name=Someone", "-c", "user.email=someone@example.org")
    return ok(folder, "git", *who, *words)


def new_project(folder: Path, slug: str, family: str) -> subprocess.CompletedProcess[str]:
    words = ["new-project", slug, "--family", family]
    return run(folder, sys.executable, "-m", "common.cli", *words)


def link_or_copy(source: str, target: str) -> None:
    """A hard link where there can be one; mypy replaces its files and never writes into them."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def copy_repository(target: Path) -> None:
    """Everything but runs and caches, the data as a link; one commit."""
    skip = shutil.ignore_patterns("__pycache__", ".*")
    for name in TREES:
        shutil.copytree(ROOT / name, target / name, ignore=skip)
    for name in FILES:
        shutil.copy2(ROOT / name, target / name)
    (target / "data").symlink_to(ROOT / "data")
    git(target, "init", "--quiet", "--initial-branch=main")
    git(target, "add", "--all")
    git(target, "commit", "--quiet", "--no-verify", "-m", "before")


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    assert set(SLUGS.values()) == set(FAMILIES)
    folder = tmp_path_factory.mktemp("clone")
    copy_repository(folder)
    for slug, family in SLUGS.items():
        git(folder, "checkout", "--quiet", "-b", slug, "main")
        done = new_project(folder, slug, family)
        assert done.returncode == 0, done.stderr
        status = git(folder, "status", "--porcelain", "--untracked-files=all").splitlines()
        assert all(line.startswith("?? ") for line in status), status  # no existing file changes
        new = {line.removeprefix("?? ") for line in status}
        assert new == set(done.stdout.split())
        for name in ("README.md", "config.py", "module.py", "objective.py"):
            assert f"projects/{slug}/{name}" in new
        git(folder, "add", "--all")
        git(folder, "commit", "--quiet", "--no-verify", "-m", slug)
    for slug in list(SLUGS)[:-1]:
        git(folder, "merge", "--quiet", "--no-edit", slug)
    return folder


def test_branches_with_a_project_each_merge(clone):
    for slug in SLUGS:
        card = (clone / "projects" / slug / "README.md").read_text(encoding="utf-8")
        assert "new_project" not in card
        assert not any(name in card for name in ("SNIPPET", "METRICS", "SCALE", "DATA"))
    assert not git(clone, "status", "--porcelain")


def test_lint_spelling_and_import_rules(clone):
    ok(clone, BIN / "ruff", "check", "--quiet", "--no-cache", ".")
    ok(clone, BIN / "ruff", "format", "--quiet", "--no-cache", "--check", ".")
    new = [clone / place / slug for place in ("projects", "configs") for slug in SLUGS]
    ok(clone, BIN / "codespell", *new)
    done = run(
        clone, BIN / "lint-imports", "--no-cache"
    )  # most users of `common` are left out here
    broken = [line for line in done.stdout.splitlines() if line.endswith("BROKEN")]
    assert broken in ([], ["a module of common has two users BROKEN"]), done.stdout


def test_types(clone):
    cache = clone.parent / "mypy-cache"
    if (ROOT / ".mypy_cache").exists():  # of `make type`: only what is new is checked
        shutil.copytree(ROOT / ".mypy_cache", cache, copy_function=link_or_copy)
    words = [BIN / "mypy", "--cache-dir", cache, *(f"projects/{slug}" for slug in SLUGS)]
    assert "no issues found" in ok(clone, *words)
    init = clone / "projects/a_name_of_24_charactersx/__init__.py"
    text = init.read_text(encoding="utf-8")
    init.write_text(text.replace("num_images(cfg.data)", "str(cfg.data)"))
    try:  # the contract is typed: a count that is none is noticed
        done = run(clone, *words)
        assert done.returncode == 1
        assert 'expected "int"' in done.stdout
    finally:
        init.write_text(text, encoding="utf-8")


@pytest.mark.parametrize("slug", SLUGS)
def test_contract_and_own_tests(clone, slug):
    """In one process, since loading the libraries takes longest."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-k", slug]
    ok(clone, *command, "tests/contract", f"tests/projects/{slug}")


@pytest.mark.parametrize(
    "slug", ["Bad-Name", "1st", "a__b", "../up", "", "a_name_with_25_characters", "q1"]
)
def test_a_bad_or_taken_name_is_refused(clone, slug):
    before = git(clone, "status", "--porcelain")
    done = new_project(clone, slug, "images")
    assert done.returncode == 2
    assert "SLUG=" in done.stderr or "exists" in done.stderr
    assert git(clone, "status", "--porcelain") == before


@pytest.mark.parametrize("family", ["", "image", "speech"])
def test_a_missing_or_unknown_family_is_refused_with_those_that_exist(clone, family):
    done = new_project(clone, "another", family)
    assert done.returncode == 2
    assert f"FAMILY={family}: a project starts on a family" in done.stderr
    assert "images" in done.stderr
    assert not (clone / "projects/another").exists()
