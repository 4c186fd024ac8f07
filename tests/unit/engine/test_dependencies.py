"""The hash of what a run depends on: what changes it and what does not."""

from types import SimpleNamespace

import pytest

from common.config import ROOT
from common.engine.comparison import dependencies
from common.engine.comparison.dependencies import code_hash, data_files, forget, reachable, stripped
from common.registry import list_projects

FILES = {
    "common/engine/run.py": "import common.used\n",
    "common/engine/other.py": "x = 1\n",
    "common/used.py": '"""Doc."""\nx = 1  # one\n',
    "common/lazy.py": "y = 1\n",
    "common/typed.py": "z = 1\n",
    "common/unused.py": "u = 1\n",
    "common/room/__init__.py": "",
    "common/room/inner.py": "i = 1\n",
    "projects/p/__init__.py": (
        "from typing import TYPE_CHECKING\n"
        "from common.room import inner\n"
        "if TYPE_CHECKING:\n    import common.typed\n"
        "def build():\n    from common.lazy import y\n    return bundled('words')\n"
    ),
    "projects/p/baselines.py": "b = 1\n",
    "data/words/a.txt": "one",
    "data/others/a.txt": "one",
    "configs/p/mini.yaml": "model: 1\n",
}


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A small repository; `change(path, text)` is its hash before and after a change."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(dependencies, "ROOT", tmp_path)
    monkeypatch.setattr(dependencies, "CONFIG_DIR", tmp_path / "configs")
    monkeypatch.setattr(dependencies, "load_project", lambda slug: SimpleNamespace(__name__="projects.p"))  # fmt: skip

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
        ("common/room/__init__.py", "r = 2\n"),
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
        ("common/typed.py", "z = 2\n"),  # for type checkers only
        ("common/engine/other.py", "x = 2\n"),
        ("projects/p/baselines.py", "b = 2\n"),
        ("data/others/a.txt", "two"),
    ],
)
def test_what_it_does_not_use_does_not(tree, name, text):
    assert not tree(name, text)


def test_baselines_depend_on_their_own_module(tree):
    assert tree("projects/p/baselines.py", "b = 2\n", "baselines")


def test_a_config_can_name_data(tree):
    assert tree("configs/p/mini.yaml", 'model: "bundled:others"\n')
    assert tree("data/others/a.txt", "two")


def test_strings_that_look_like_comments_stay(tmp_path):
    path = tmp_path / "a.py"
    path.write_text(
        'def f():  # gone\n    """Gone."""\n    return "# kept"\n\nclass C: "one line"\n'
    )
    assert stripped(path) == 'def f():\n    return "# kept"\nclass C: "one line"'


def test_real_projects_reach_their_code_and_data_and_not_each_others():
    for project in list_projects():
        sources = [
            str(p.relative_to(ROOT)) for p in reachable(f"projects.{project}", "common.engine.run")
        ]
        assert "common/engine/trainer.py" in sources
        assert f"projects/{project}/module.py" in sources
        assert not {
            "common/cli.py",
            "common/engine/report/pages.py",
            "common/engine/comparison/results.py",
        } & set(sources)
        assert all(
            s.startswith(("common/", f"projects/{project}/", "projects/__init__")) for s in sources
        )
        assert data_files(tuple(ROOT / s for s in sources), project)
    assert len({code_hash(project) for project in list_projects()}) == len(list_projects())
