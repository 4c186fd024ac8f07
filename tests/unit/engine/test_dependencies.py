"""The hash of what a run depends on: what changes it and what does not."""

import ast
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest

from common.config import ROOT
from common.engine.comparison import dependencies
from common.engine.comparison.dependencies import code_hash, data_files, forget, reached
from common.engine.comparison.symbols import reach
from common.registry import list_projects

FILES = {
    "common/engine/run.py": "import common.used\ndef train():\n    pass\ndef export():\n    pass\n",
    "common/engine/other.py": "x = 1\n",
    "common/used.py": '"""Doc."""\nx = 1  # one\n',
    "common/lazy.py": "y = 1\n",
    "common/typed.py": "z = 1\n",
    "common/unused.py": "u = 1\n",
    "common/searched.py": "s = 1\n",
    "common/room/__init__.py": "",
    "common/room/inner.py": "i = 1\n",
    "projects/p/__init__.py": (
        "from typing import TYPE_CHECKING\n"
        "from common.room import inner\n"
        "if TYPE_CHECKING:\n    import common.typed\n"
        "def build():\n    from common.lazy import y\n    from projects.p import tasks\n"
        "    return bundled('words'), {'search': tasks.search}\n"
    ),
    "projects/p/tasks.py": "from common.searched import s\ndef search():\n    return s\n",
    "projects/p/baselines.py": "b = 1\n",
    "data/words/a.txt": "one",
    "data/others/a.txt": "one",
    "configs/p/mini.yaml": "model: 1\n",
}


def test_real_projects_reach_their_code_and_data_and_not_each_others():
    """First in the file: later tests let the process forget what it has parsed."""
    for project in list_projects():
        found = reached(project)
        sources = {str(p.relative_to(ROOT)) for p in found}
        assert "common/engine/trainer.py" in sources
        assert f"projects/{project}/module.py" in sources
        assert (
            not {
                "common/cli.py",
                "common/engine/report/pages.py",
                "common/engine/comparison/results.py",
            }
            & sources
        )
        assert all(
            s.startswith(("common/", f"projects/{project}/", "projects/__init__")) for s in sources
        )
        assert "def run_task" not in found[ROOT / "common/engine/run.py"]
        mini = (ROOT / "configs" / project / "mini.yaml").read_text(encoding="utf-8")
        data = data_files(found, project)
        assert data or "made from the seed" in mini, project
        named = set(re.findall(r"bundled:([\w.-]+)", mini))
        models = {p.relative_to(ROOT).parts[2] for p in data if "models" in p.parts}
        assert {n for n in named if (ROOT / "data/models" / n).is_dir()} <= models, project
    assert len({code_hash(project) for project in list_projects()}) == len(list_projects())


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A small repository; `change(path, text)` is its hash before and after a change."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(dependencies, "ROOT", tmp_path)
    monkeypatch.setattr(dependencies, "CONFIG_DIR", tmp_path / "configs")
    monkeypatch.setattr(
        dependencies, "load_project", lambda slug: SimpleNamespace(__name__="projects.p")
    )

    def changes(name, text, *modules):
        forget()
        before = code_hash("p", *modules)
        (tmp_path / name).write_text(text)
        forget()
        return code_hash("p", *modules) != before

    yield changes
    forget()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("common/used.py", '"""Doc."""\nx = 2\n'),
        ("common/lazy.py", "y = 2\n"),  # imported inside a function
        ("common/room/inner.py", "i = 2\n"),  # taken from its package
        ("common/room/__init__.py", "print()\n"),  # runs at import
        ("common/engine/run.py", FILES["common/engine/run.py"].replace("pass", "return 1", 1)),
        ("projects/p/__init__.py", FILES["projects/p/__init__.py"] + "n = 1\n"),
        ("data/words/a.txt", "two"),  # of equal size
        ("data/words/b.txt", "new"),
    ],
)
def test_what_a_run_uses_changes_the_hash(tree, name, text):
    assert tree(name, text)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("common/used.py", '"""Other words."""\n\nx = 1  # still one\n'),
        ("common/unused.py", "u = 2\n"),
        ("common/searched.py", "s = 2\n"),  # by a task alone
        ("projects/p/tasks.py", "def search():\n    return 2\n"),
        ("common/typed.py", "z = 2\n"),  # for type checkers only
        ("common/engine/other.py", "x = 2\n"),
        ("projects/p/baselines.py", "b = 2\n"),
        ("data/others/a.txt", "two"),
        ("data/words/README.md", "the card of a set"),
        ("common/room/__init__.py", "r = 2\n"),  # nobody names it
        ("common/lazy.py", "y = 1\n\ndef other():\n    return 2\n"),
        (
            "common/engine/run.py",
            FILES["common/engine/run.py"]
            .replace("pass\n", "return 1\n", 2)
            .replace("return 1", "pass", 1),
        ),
    ],
)
def test_what_it_does_not_use_does_not(tree, name, text):
    assert not tree(name, text)


def test_baselines_depend_on_their_own_module(tree):
    assert tree("projects/p/baselines.py", "b = 2\n", "baselines")


@pytest.mark.parametrize(
    "name", ['"bundled:others"', "bundled:others", "{pretrained: bundled:others}"]
)
def test_a_config_can_name_data(tree, name):
    assert tree("configs/p/mini.yaml", f"model: {name}\n")
    assert tree("data/others/a.txt", "two")


def test_a_longer_name_is_not_it(tree):
    assert not tree("data/others/a.txt", "two")
    tree("configs/p/mini.yaml", "model: bundled:others-large\n")
    assert not tree("data/others/a.txt", "three")


CODE = """
from pkg import helpers, others, tools as t
from pkg.tools import second as renamed

LIMIT, OTHER = 3, 4
TABLE = {"first": helpers.first}


def used(x: "helpers.Unused") -> "helpers.Unused":
    '''Words.'''
    return TABLE["first"](x) + renamed(LIMIT)  # words


def by_module():
    return dict(t=t)


class Part:
    size = 1

    def run(self):
        return used(self.size)


if LIMIT:
    def defined_in_a_branch():
        return others.zeroth()


@register(1)
def registered():
    return unseen()


def unseen():
    return 5
"""
HELPERS = "def first(x):\n    return x\n\ndef second():\n    return 2\n\nclass Unused:\n    pass\n"
OTHERS = "def zeroth():\n    return 0\n"
TOOLS = "def second(x):\n    return x\n\ndef third():\n    return 3\n"


@pytest.fixture
def package(tmp_path):
    """`counts(name)`: text that counts by file stem, from one name of pkg.code."""
    (tmp_path / "pkg").mkdir()
    for name, text in {
        "__init__": "",
        "code": CODE,
        "helpers": HELPERS,
        "tools": TOOLS,
        "others": OTHERS,
    }.items():
        (tmp_path / "pkg" / f"{name}.py").write_text(text)

    def counts(name):
        return {path.stem: text for path, text in reach(tmp_path, [("pkg.code", name)]).items()}

    return counts


def test_a_unit_takes_with_it_what_it_names_and_nothing_else(package):
    found = package("used")
    assert "def used(x):\n    return TABLE" in found["code"]  # no docstring, no annotation
    assert "LIMIT, OTHER = (3, 4)" in found["code"]
    assert "class Part" not in found["code"]
    assert "by_module" not in found["code"]
    assert "def first" in found["helpers"]
    assert "Unused" not in found["helpers"]
    assert "def second" in found["tools"]
    assert "third" not in found["tools"]
    assert "def used" in package("Part")["code"]


def test_what_runs_at_import_counts_with_all_that_it_names(package):
    for name in ("used", "", "by_module"):
        found = package(name)
        assert "defined_in_a_branch" in found["code"]
        assert "registered" in found["code"]
        assert "def unseen" in found["code"]
        assert "def zeroth" in found["others"]


def test_a_module_that_is_used_as_a_value_counts_whole(package):
    assert "third" in package("by_module")["tools"]


def test_a_name_made_at_run_time_takes_its_whole_module(package):
    assert "class Part" in package("made_by_setattr")["code"]


CALLED = """
import os, re, sys, threading
from common.config import ROOT

called, opened = set(), set()
folders = tuple(str(ROOT / name) + os.sep for name in ("common", "projects"))

def note(frame, event, argument):
    code = frame.f_code
    if event == "call" and code.co_flags & 1 and code.co_filename.startswith(folders):  # no class bodies
        called.add((code.co_filename, code.co_qualname.split(".")[0]))

def look(event, arguments):
    if event == "open" and str(arguments[0]).startswith(str(ROOT / "data") + os.sep):
        opened.add(str(arguments[0]))

from common.engine.run import train
from common.engine.comparison.dependencies import data_files, reached
sys.addaudithook(look)
threading.setprofile(note)
sys.setprofile(note)
train("mclrec", "smoke", ["runs_dir=" + sys.argv[1], "tracking.wandb=disabled", *sys.argv[2:]])
sys.setprofile(None)
texts = {str(path): text for path, text in reached("mclrec").items()}
for file, name in sorted(called):
    if not name.startswith("<") and not re.search(rf"\\b{name}\\b", texts.get(file, "")):
        print("not counted:", file, name)
print(*opened - set(map(str, data_files(reached("mclrec"), "mclrec"))))
print(len(called) > 100)
"""


def test_the_hash_is_the_same_in_every_process():
    code = (
        "from common.engine.comparison.dependencies import code_hash; print(code_hash('simcse'),"
        " code_hash('lol'))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=ROOT,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(found) == 1
    assert len(found.pop().split()) == 2


@pytest.mark.nightly  # tens of seconds: make faults
def test_what_a_run_calls_and_opens_is_what_counts(tmp_path):
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CALLED, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert run.stdout.splitlines()[-2:] == ["", "True"], run.stdout[-2000:] + run.stderr[-2000:]
    assert "not counted" not in run.stdout


def test_what_only_make_run_does_is_named_where_a_project_is_put_together():
    """`reached` leaves these modules out, so nothing that trains or evaluates may take from them."""
    searches = {f"{module.replace('.', '/')}.py" for module in dependencies.SEARCHES}
    assert all((ROOT / path).is_file() for path in searches)
    for path in [*ROOT.glob("projects/*/*.py"), *ROOT.glob("common/**/*.py")]:
        imported = imported_modules(path)
        if path.is_relative_to(ROOT / "projects"):
            own = f"projects.{path.parent.name}.tasks"
            assert own not in imported or path.stem in {"__init__", "experiment"}, path
        assert not imported & set(dependencies.SEARCHES) or path.name == "experiment.py", path


def imported_modules(path):
    """Modules that a file imports, and what it takes from packages as if it were modules."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found
