"""What `make new-project` writes is green as it is and touches no existing file.

Two projects are begun in two branches of a copy of the repository and merged; the checks of
`make test` then run on the merged tree.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from common.config import ROOT
from common.registry import list_projects

pytestmark = pytest.mark.slow

SHORT, LONG = "x", "a_name_of_24_charactersx"
TREES = ("common", "scripts", "docs", "results", "benchmarks", "projects", "configs", "tests")
KEPT = ("dcl", "simcse", "trend")  # a check of all projects would cost twice as much
FILES = ("README.md", "CHANGELOG.md", "Makefile", "pyproject.toml", ".gitignore", "LICENSE")
BIN = Path(sys.executable).parent
WRITTEN = {  # a project's files below these folders, and its changelog fragment
    "projects": 8,
    "configs": 4,
    "tests/projects": 2,
    "docs/changelog.d": 1,
}


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


def link_or_copy(source: str, target: str) -> None:
    """A hard link where there can be one; mypy replaces its files and never writes into them."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def copy_repository(target: Path) -> None:
    """Everything but runs, caches and most projects, the data as a link; one commit."""
    left_out = set(list_projects()) - set(KEPT)
    skip = shutil.ignore_patterns("__pycache__", ".*", *left_out, *(f"{p}.json" for p in left_out))
    for name in TREES:
        shutil.copytree(ROOT / name, target / name, ignore=skip)
    for name in FILES:
        shutil.copy2(ROOT / name, target / name)
    (target / "data").symlink_to(ROOT / "data")
    git(target, "init", "--quiet", "--initial-branch=main")
    ok(target, sys.executable, "scripts/make_tables.py")
    git(target, "add", "--all")
    git(target, "commit", "--quiet", "--no-verify", "-m", "before")


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clone")
    copy_repository(folder)
    for slug in (SHORT, LONG):
        git(folder, "checkout", "--quiet", "-b", slug, "main")
        ok(folder, sys.executable, "-m", "common.cli", "new-project", slug)
        status = git(folder, "status", "--porcelain", "--untracked-files=all").splitlines()
        new = [line.removeprefix("?? ") for line in status]
        assert all(line.startswith("?? ") for line in status), status  # no existing file changes
        for place, count in WRITTEN.items():
            assert sum(name.startswith(f"{place}/{slug}") for name in new) == count, new
        assert len(new) == sum(WRITTEN.values())
        git(folder, "add", "--all")
        git(folder, "commit", "--quiet", "--no-verify", "-m", slug)
    git(folder, "merge", "--quiet", "--no-edit", SHORT)
    return folder


def test_branches_with_a_project_each_merge(clone):
    for slug in (SHORT, LONG):
        assert (clone / "projects" / slug / "objective.py").exists()
    assert not git(clone, "status", "--porcelain")


def test_lint_spelling_and_import_rules(clone):
    ok(clone, BIN / "ruff", "check", "--quiet", "--no-cache", ".")
    ok(clone, BIN / "ruff", "format", "--quiet", "--no-cache", "--check", ".")
    new = [clone / place / slug for place in ("projects", "configs") for slug in (SHORT, LONG)]
    ok(clone, BIN / "codespell", *new)
    ok(clone, BIN / "lint-imports", "--no-cache")


def test_types(clone):
    cache = clone.parent / "mypy-cache"
    if (ROOT / ".mypy_cache").exists():  # of `make type`: only what is new is checked
        shutil.copytree(ROOT / ".mypy_cache", cache, copy_function=link_or_copy)
    words = [BIN / "mypy", "--cache-dir", cache, f"projects/{SHORT}", f"projects/{LONG}"]
    assert "no issues found in 14 source files" in ok(clone, *words)
    face = clone / "projects" / SHORT / "__init__.py"
    text = face.read_text(encoding="utf-8")
    face.write_text(text.replace("def export(module: X,", "def export(module: str,"))
    try:  # the contract is typed: an export of something else is noticed
        done = run(clone, *words)
        assert done.returncode == 1
        assert 'has no attribute "network"' in done.stdout
    finally:
        face.write_text(text, encoding="utf-8")


@pytest.mark.slow
def test_contract_own_tests_and_smoke(clone):
    """In one process, since loading the libraries takes longest."""
    files = ["contract", "test_docs.py", f"projects/{LONG}"]
    names = f"{LONG} or folders_agree or no_wandb or generated"
    out = ok(
        clone,
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-k",
        names,
        *(f"tests/{name}" for name in files),
    )
    assert "passed" in out or "%" in out


def test_the_table_of_readme_has_a_row_for_a_new_project(clone):
    ok(clone, sys.executable, "scripts/make_tables.py")
    assert f"projects/{LONG}/README.md) |" in (clone / "README.md").read_text(encoding="utf-8")


def test_fragments_are_collected(clone):
    ok(clone, sys.executable, "scripts/collect_changelog.py")
    assert [p.name for p in (clone / "docs/changelog.d").iterdir()] == ["README.md"]
    log = (clone / "CHANGELOG.md").read_text(encoding="utf-8")
    assert log.index("- Project: X.") < log.index("### Changed")


@pytest.mark.parametrize(
    "slug", ["Bad-Name", "1st", "a__b", "../up", "", "a_name_with_25_characters", SHORT]
)
def test_a_bad_or_taken_name_is_refused(clone, slug):
    before = git(clone, "status", "--porcelain")
    done = run(clone, sys.executable, "-m", "common.cli", "new-project", slug)
    assert done.returncode == 2
    assert "SLUG=" in done.stderr or "exists" in done.stderr
    assert git(clone, "status", "--porcelain") == before
