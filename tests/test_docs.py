"""Losses and projects name their sources; links, paths and names of the documents exist."""

import ast
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

from common.config import ROOT
from common.registry import list_projects
from scripts.site.equations import sources

FENCE = re.compile(r"^```.*?^```", re.M | re.S)
GENERATED = re.compile(r"<!-- projects:begin -->.*?<!-- projects:end -->", re.S)
VARIABLE = re.compile(r"CONTRASTIVE_[A-Z_]+")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FOLDERS = "(?:common|projects|configs|scripts|benchmarks|tests)"
LOSSES = [
    (path, node)
    for path in sorted((ROOT / "common/losses").glob("*.py"))
    for node in ast.parse(path.read_text(encoding="utf-8")).body
    if isinstance(node, ast.ClassDef) and node.name.endswith("Loss") and node.name != "PairLoss"
]


def documents() -> list[Path]:
    """Tracked Markdown files, and new ones that are not ignored."""
    words = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    names = done.stdout.splitlines()
    if done.returncode != 0:  # an unpacked archive
        names = [
            str(p.relative_to(ROOT))
            for d in ("docs", "projects", "data")
            for p in (ROOT / d).rglob("*.md")
        ] + ["README.md"]
    return [ROOT / name for name in names if (ROOT / name).exists()]


def anchors(page: str) -> set[str]:
    """Names that the headings of a page can be linked by."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page), re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def broken_links(path: Path) -> list[str]:
    """Relative links of a page that lead nowhere; a generated table may be behind the files."""
    broken = []
    text = GENERATED.sub("", FENCE.sub("", path.read_text(encoding="utf-8")))
    for target in LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        place = path.parent / name if name else path
        if not place.exists():
            broken.append(target)
        elif anchor and place.suffix == ".md":
            broken += [target] if anchor not in anchors(place.read_text(encoding="utf-8")) else []
    return broken


def names_of(path: Path) -> set[str]:
    """Functions, classes, methods and module-level names that a Python file defines or imports."""
    actual = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            actual.add(node.name)
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            actual |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            actual |= {t.id for t in targets if isinstance(t, ast.Name)}
    return actual


def module_path(name: str) -> Path | None:
    """File of a module of this repository."""
    stem = ROOT / name.replace(".", "/")
    actual = [p for p in (stem.with_suffix(".py"), stem / "__init__.py") if p.exists()]
    return actual[0] if actual else None


def broken_imports(text: str) -> list[str]:
    """Names that the Python examples of a page import from this repository but don't exist."""
    broken = []
    for block in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in (
                "common",
                "projects",
            ):
                path = module_path(str(node.module))
                known = names_of(path) if path else set()
                broken += [f"{node.module}.{a.name}" for a in node.names if a.name not in known]
    return broken


# -- sources -------------------------------------------------------------------------------------


def test_losses_were_found():
    assert len(LOSSES) >= 15


@pytest.mark.parametrize(("path", "node"), [pytest.param(*x, id=x[1].name) for x in LOSSES])
def test_every_loss_names_its_source(path, node):
    doc = ast.get_docstring(node) or ""
    assert "Source:" in doc, f"{path}: {node.name}"
    assert "Distributed:" in doc, f"{path}: {node.name}"


@pytest.mark.parametrize("slug", list_projects())
def test_project_module_names_its_source(slug):
    text = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "projects" / slug).glob("*.py"))
    assert re.search(r"Source: .*\d{4}", text)


# -- links ---------------------------------------------------------------------------------------


PAGES = [
    pytest.param(p, id=str(p.relative_to(ROOT)))
    for p in documents()
    if p != ROOT / "docs/evidence.md"  # generated as a whole
]


def test_documents_were_found():
    assert {"README.md", "docs/architecture.md", "projects/dcl/README.md"} <= {p.id for p in PAGES}


@pytest.mark.parametrize("page", PAGES)
def test_links_resolve(page):
    assert not broken_links(page)


def test_a_broken_link_is_noticed(tmp_path):
    (tmp_path / "other.md").write_text("# Some Title, yes\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](other.md#some-title-yes) [b](other.md#no) ![c](gone.png) [d](https://x.y)\n"
    )
    assert broken_links(page) == ["other.md#no", "gone.png"]


@pytest.mark.parametrize("page", [p for p in PAGES if "project_template" not in str(p.values[0])])
def test_examples_import_what_exists(page):
    """But for the template's, which names a project to be; `tests/test_new_project.py` runs it."""
    assert not broken_imports(page.read_text(encoding="utf-8"))


def test_an_import_of_nothing_is_noticed():
    page = "```python\nfrom common.config import load, unload\n```\n"
    assert broken_imports(page) == ["common.config.unload"]


def broken_names(text: str, page: Path) -> list[str]:
    """Paths, modules, names in them and variables in backticks that don't exist."""
    broken = []
    for name in re.findall(rf"`({FOLDERS}/[\w/.*-]+)", text):
        if not any(ROOT.glob(name.rstrip("/"))):
            broken.append(name)
    equations = re.search(r"^## Equations\n(.*?)^## ", text, re.M | re.S)
    for name in re.findall(r"`((?:\w+/)*\w+\.py)`", equations[1] if equations else ""):
        if not any(any(folder.rglob(name)) for folder in (page.parent, ROOT / "common", ROOT)):
            broken.append(name)
    for name in re.findall(r"`((?:common|projects)(?:\.\w+)+)", text):
        module, _, symbol = name.rpartition(".")
        path = module_path(module)
        if module_path(name) is None and not (path and symbol in names_of(path)):
            broken.append(name)
    broken += [name for name in VARIABLE.findall(text) if name not in variables()]
    return broken


@cache
def variables() -> set[str]:
    """Environment variables of our own that the code reads."""
    return set().union(
        *(VARIABLE.findall(p.read_text("utf-8")) for p in ROOT.glob("common/**/*.py"))
    )


@pytest.mark.parametrize("page", [p for p in PAGES if p.id != "CHANGELOG.md"])  # tells what was
def test_files_and_functions_that_documents_name_exist(page):
    placeholder = re.compile(r"\bx\b|new_project")  # how a project to come is called
    broken = broken_names(page.read_text(encoding="utf-8"), page)
    assert not [name for name in broken if not placeholder.search(name)]


def test_a_name_of_nothing_is_noticed():
    text = """## Equations\n`common/config.py` `common/gone.py` `objective.py` `gone.py` `CONTRASTIVE_TMA=0`
    `common.config.load` `common.config.unload` `CONTRASTIVE_GONE=1`\n## Run"""
    broken = ["common/gone.py", "gone.py", "common.config.unload", "CONTRASTIVE_GONE"]
    assert broken_names(text, ROOT / "projects/dcl/README.md") == [broken[0], *broken]


def test_the_way_of_a_batch_names_functions_that_exist():
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8").split("## The way of")[1]
    steps = re.split(r"^\d+\. ", text, flags=re.M)[1:]
    assert steps
    for step in steps:
        files = [ROOT / "docs" / link for link in LINK.findall(step)]
        known = set().union(*(names_of(path) for path in files))
        for name in re.findall(r"`(\w+)`", step):
            assert name in known, f"{name} is in none of {files}"


def make_targets() -> set[str]:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    lists = re.findall(r"^override (?:VERBS|SCRIPTS|PLAIN)\s*:=((?:.*\\\n)*.*)$", makefile, re.M)
    return set(re.findall(r"[a-z][a-z-]*", " ".join(lists)))


@pytest.mark.parametrize("page", [p for p in PAGES if p.id != "CHANGELOG.md"])
def test_make_targets_that_documents_name_exist(page):
    used = set(re.findall(r"`make ([a-z-]+)", page.read_text(encoding="utf-8")))
    assert used <= make_targets()


def test_make_targets_are_read_from_the_makefile():
    assert {"train", "faults", "docs", "new-project"} <= make_targets()
    assert "gone" not in make_targets()


# -- the page of equations -----------------------------------------------------------------------


def test_sources_and_marks_are_found_with_their_symbol():
    text = '''
class Loss:
    """A loss.

    Source: Someone 2020, equation 1,
    arXiv 1234.5678.

    Args:
        x: anything.
    """

    def forward(self, x):
        y = x + 1
        return y  # Eq. 2
'''
    source = "Someone 2020, equation 1, arXiv 1234.5678."
    assert sources(text) == [("Loss", source), ("Loss.forward", "Eq. 2")]
