"""Losses and projects name their sources; documents point at what exists; stale ones are named."""

import ast
import re
import subprocess
import warnings
from pathlib import Path
from xml.etree import ElementTree

import pytest

from common.config import ROOT
from common.registry import list_projects
from scripts import make_tables
from scripts.architecture_picture import architecture_picture
from scripts.collect_changelog import merged, read_fragment
from scripts.equation_index import marks
from scripts.rooms_table import described
from scripts.sizes_table import LARGE, reasons, sizes
from tests.published import published_rows

FENCE = re.compile(r"^```.*?^```", re.M | re.S)
GENERATED = re.compile(r"<!-- (projects|rooms):begin -->.*?<!-- \1:end -->", re.S)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FOLDERS = "(?:common|projects|configs|scripts|benchmarks|tests)"
LOSSES = [
    (path, node)
    for path in sorted((ROOT / "common/losses").glob("*.py"))
    for node in ast.parse(path.read_text(encoding="utf-8")).body
    if isinstance(node, ast.ClassDef) and node.name.endswith("Loss") and node.name != "PairLoss"
]


class StaleDocumentWarning(Warning):
    """A generated document is out of date; `make docs` refreshes it."""


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
    found = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {t.id for t in targets if isinstance(t, ast.Name)}
    return found


def module_path(name: str) -> Path | None:
    """File of a module of this repository."""
    stem = ROOT / name.replace(".", "/")
    found = [p for p in (stem.with_suffix(".py"), stem / "__init__.py") if p.exists()]
    return found[0] if found else None


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


def test_a_large_project_says_what_its_lines_are_for():
    """Above 700 lines; and the core of the method has at most 350 in each."""
    why, found = reasons(ROOT), sizes(ROOT)
    assert set(why) == {name for name, (lines, _) in found.items() if lines > LARGE}
    assert all(core <= 350 for _, core in found.values())


def test_the_picture_has_every_layer_once():
    ElementTree.fromstring(architecture_picture(ROOT))
    names = re.findall(r"font-weight='bold' fill='#111'>([^<]+)<", architecture_picture(ROOT))
    assert names[0] == "projects"
    assert {"families", "engine", "data", "losses", "kernels", "config"} <= set(names)
    assert len(set(names)) == len(names)


# -- links ---------------------------------------------------------------------------------------


PAGES = [
    pytest.param(p, id=str(p.relative_to(ROOT)))
    for p in documents()
    if p not in (ROOT / "docs/equations.md", ROOT / "docs/evidence.md")  # generated as a whole
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


def broken_names(text: str) -> list[str]:
    """Paths and dotted names in backticks that exist neither as file nor in a module."""
    broken = []
    for name in re.findall(rf"`({FOLDERS}/[\w/.*-]+)", text):
        if not any(ROOT.glob(name.rstrip("/"))):
            broken.append(name)
    for name in re.findall(r"`((?:common|projects)(?:\.\w+)+)", text):
        module, _, symbol = name.rpartition(".")
        path = module_path(module)
        if module_path(name) is None and not (path and symbol in names_of(path)):
            broken.append(name)
    return broken


@pytest.mark.parametrize("page", [p for p in PAGES if p.id != "CHANGELOG.md"])  # tells what was
def test_files_and_functions_that_documents_name_exist(page):
    placeholder = re.compile(r"\bx\b|new_project")  # how a project to come is called
    broken = broken_names(page.read_text(encoding="utf-8"))
    assert not [name for name in broken if not placeholder.search(name)]


def test_a_name_of_nothing_is_noticed():
    text = "`common/config.py` `common/gone.py` `common.config.load` `common.config.unload`"
    assert broken_names(text) == ["common/gone.py", "common.config.unload"]


def test_the_way_of_a_batch_names_functions_that_exist():
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8").split("## The way of")[1]
    steps = re.split(r"^\d+\. ", text, flags=re.M)[1:]
    assert len(steps) == 10
    for step in steps:
        files = [ROOT / "docs" / link for link in LINK.findall(step)]
        known = set().union(*(names_of(path) for path in files))
        for name in re.findall(r"`(\w+)`", step):
            assert name in known, f"{name} is in none of {files}"


def test_readme_names_only_existing_targets():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.M))
    for path in (ROOT / "README.md", ROOT / "docs/adding-a-project.md"):
        used = set(re.findall(r"`make ([a-z-]+)", path.read_text(encoding="utf-8")))
        assert used
        assert used <= targets


# -- generated parts -----------------------------------------------------------------------------


def test_every_variable_that_the_code_reads_is_told():
    """Those of our own; docs/runs.md names no other."""
    name = re.compile(r"CONTRASTIVE_[A-Z_]+")
    code = [p.read_text(encoding="utf-8") for p in (ROOT / "common").rglob("*.py")]
    told = (ROOT / "docs/runs.md").read_text(encoding="utf-8")
    assert set(name.findall("".join(code))) == set(name.findall(told))


@pytest.mark.nightly  # tens of seconds: make faults
def test_generated_parts_can_be_made(monkeypatch):
    """A stale one is a warning: a new project or a merge must not need `make docs` to be green."""
    monkeypatch.setattr(make_tables, "evidence_rows", published_rows)
    for name in make_tables.stale():
        warnings.warn(f"out of date: {name}; run make docs", StaleDocumentWarning, stacklevel=1)


def test_out_of_date_parts_are_named_or_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(make_tables, "ROOT", tmp_path)
    monkeypatch.setattr(make_tables, "parts", lambda: {"page.md": lambda text: "new\n"})
    assert make_tables.main(check=True) == 1
    assert capsys.readouterr().out == "out of date: page.md; run make docs\n"
    assert not (tmp_path / "page.md").exists()
    assert make_tables.main(check=False) == 0
    assert (tmp_path / "page.md").read_text() == "new\n"
    assert make_tables.main(check=True) == 0


@pytest.mark.parametrize("face", sorted((ROOT / "common").glob("*/**/__init__.py")), ids=str)
def test_every_room_says_what_never_lives_there(face):
    here, never = described(face)
    assert here, face
    assert never, f"{face}: add a paragraph 'Never here: ...' to its docstring"


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
    found = [("Loss", "Someone 2020, equation 1, arXiv 1234.5678."), ("Loss.forward", "Eq. 2")]
    assert marks(text) == found
    assert marks("\n\n" + text) == found  # no line numbers


# -- changelog -----------------------------------------------------------------------------------


def test_fragments_can_be_read():
    for path in (ROOT / "docs/changelog.d").glob("*.md"):
        if path.name != "README.md":
            read_fragment(path.read_text(encoding="utf-8"), path.name)


def test_fragments_go_to_the_ends_of_their_sections():
    before = (
        "# Log\n\n## Unreleased\n\n### Added\n\n- old\n\n### Results\n\n- a number\n\n##"
        " 0.1\n\n- x\n"
    )
    after = merged(
        before, {"b.md": "- loose\n", "a.md": "### Added\n\n- new\n\n### Fixed\n\n- bug\n"}
    )
    assert (
        after == "# Log\n\n## Unreleased\n\n### Added\n\n- old\n- new\n\n### Changed\n\n- loose\n\n"
        "### Fixed\n\n- bug\n\n### Results\n\n- a number\n\n## 0.1\n\n- x\n"
    )
    assert merged(before, {}) == before
    log = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert merged(log, {}) == log


@pytest.mark.parametrize("text", ["### Add\n\n- x\n", "no bullet\n", ""])
def test_a_fragment_that_cannot_be_read_is_refused(text):
    with pytest.raises(ValueError, match=r"x\.md"):
        merged("# Log\n", {"x.md": text})


def test_the_evidence_page_names_the_reconstructed_methods():
    """Cards whose head calls equations a reconstruction, by the name of their title."""
    found = set()
    for project in list_projects():
        card = (ROOT / "projects" / project / "README.md").read_text(encoding="utf-8")
        head = card.split("\n## Run\n")[0].replace("\n", " ")
        if re.search(r"(a|is a|A) reconstruction (in|of)\b|sentence is a reconstruction", head):
            found.add(card.splitlines()[0].removeprefix("# ").split(":")[0])
    page = (ROOT / "docs/evidence.md").read_text(encoding="utf-8").replace("\n", " ")
    sentence = page.split("take half of them. ")[1].split(" are reconstructions")[0]
    named = set(re.split(r", | and, in three places, ", sentence))
    assert found == named
