"""Importing common or a project's config costs nothing; import directions hold."""

import ast
import gc
import subprocess
import sys
from importlib.util import resolve_name

import grimp
import pytest

from common.config import ROOT
from common.registry import list_projects
from scripts.single_users import single_users

HEAVY = ("torch", "lightning", "transformers", "numpy", "wandb", "matplotlib")


@pytest.mark.parametrize(
    "module",
    ["common", "common.cli", "common.registry", *[f"projects.{p}" for p in list_projects()]],
)
def test_import_is_light(module):
    program = f"import {module}, sys; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


STACKS = ("torch", "lightning", "transformers", "open_clip", "torch._dynamo")
# what a module may load of these; everything not named here may load all
MAY_LOAD = {
    "common.data.samplers": (),
    "common.data.row_map.mapper": (),
    "common.decoding.endpoint": (),
    "common.families.image_text.config": (),
    "common.data.splits": (),
    "common.data.tables": (),
    "common.data.text.lexical": (),
    "common.data.text.masking": (),
    "common.data.text.options": (),
    "projects.coconut.incremental_options": (),
    "projects.trend.scans.options": (),
    "projects.trend.scans.poses": (),
    "common.data.speech.options": (),
    "projects.trend.encoders.options": (),
    "projects.coconut.speech.options": (),
    "projects.coconut.evaluation_options": (),
    "common.encoders.pretrained": (),
    "common.evaluation.statistics": (),
    "common.evaluation.tables": (),
    "common.evaluation.retrieval.beir": (),
    "common.families.sentences.config": (),
    "common.families.retrieval.config": (),
    "common.evaluation.retrieval.options": (),
    "common.families.images.config": (),
    "common.engine.comparison.evidence": (),
    "common.engine.workspace": (),
    "common.engine.comparison.compare": (),
    "common.engine.comparison.planning": (),
    "common.engine.verbs": (),
    "common.data.text.augment": (),
    "projects.contriever.bins": ("torch",),
    "common.evaluation.retrieval.bm25": ("torch",),
    "common.evaluation.text.sts": ("torch",),
    "common.evaluation.features.geometry": ("torch",),
    "common.encoders.text.pooling": ("torch",),
    "common.kernels.pair": ("torch",),
    "common.losses.info_nce": ("torch",),
}


def test_light_modules_stay_light():
    """Each in a process of its own would take minutes, so the heavier ones come later."""
    order = sorted(MAY_LOAD, key=lambda name: len(MAY_LOAD[name]))
    program = f"""
import importlib, sys
for name in {order}:
    importlib.import_module(name)
    print(name, *[s for s in {STACKS} if s in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    loaded = {line.split()[0]: set(line.split()[1:]) for line in done.stdout.splitlines()}
    assert loaded.keys() == MAY_LOAD.keys(), done.stderr
    for name, actual in loaded.items():
        assert actual <= set(MAY_LOAD[name]), f"{name} loads {actual - set(MAY_LOAD[name])}"


PUBLISHED = ("losses", "kernels", "distributed")  # also built alone, under another name


def foreign_imports(source: str, package: str) -> list[str]:
    """What a module of `package` imports that a distribution of the three packages lacks."""
    allowed = {*sys.stdlib_module_names, "torch", "numpy", "triton"}
    foreign = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            foreign += [
                alias.name for alias in node.names if alias.name.split(".")[0] not in allowed
            ]
        if isinstance(node, ast.ImportFrom) and not node.level:
            foreign += [node.module] if node.module.split(".")[0] not in allowed else []
        if isinstance(node, ast.ImportFrom) and node.level:
            name = resolve_name("." * node.level + (node.module or ""), package)
            foreign += [name] if name.split(".")[1:2] not in [[p] for p in PUBLISHED] else []
    return foreign


def test_published_packages_import_each_other_relatively_and_torch():
    files = [path for name in PUBLISHED for path in (ROOT / "common" / name).rglob("*.py")]
    assert len(files) > 50
    for path in files:
        package = ".".join(path.relative_to(ROOT).parent.parts)
        assert foreign_imports(path.read_text(encoding="utf-8"), package) == [], path


@pytest.mark.parametrize(
    ("line", "foreign"),
    [
        ("from ..distributed.process import rank", []),
        ("from .output import unit", []),
        ("import torch.nn.functional as F", []),
        ("from ..config import UserError", ["common.config"]),
        ("from .. import registry", ["common"]),
        ("from common.losses.output import unit", ["common.losses.output"]),
        ("def f():\n    import scipy.stats", ["scipy.stats"]),
    ],
)
def test_foreign_imports_are_noticed(line, foreign):
    assert foreign_imports(line, "common.losses") == foreign


def test_faces_hold_a_docstring_only():
    for path in (ROOT / "common").glob("*/**/__init__.py"):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        assert [type(node) for node in body] == [ast.Expr], path


def test_common_names_no_project():
    for path in (ROOT / "common").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "from projects" not in text, path


def test_a_module_of_common_needs_two_projects_or_the_program():
    """Counts imports by way of other modules; a public package needs no user here."""
    graph = grimp.ImportGraph()
    for importer, imported in [
        ("projects.a.module", "common.shared"),
        ("projects.b", "common.way"),
        ("common.way", "common.shared"),
        ("projects.b.data", "common.alone"),
        ("projects.b", "common.alone"),
        ("common.cli", "common.engine.run"),
        ("common.engine.run", "common.settings"),
        ("common.losses.triplet", "common.losses.base"),
    ]:
        graph.add_import(importer=importer, imported=imported)
    graph.add_module("common.unused")
    graph.add_module("common")
    single = single_users(graph, {"common.losses"})
    assert single == {"common.alone": "b", "common.unused": None, "common.way": "b"}
    graph.add_import(importer="projects.a", imported="common.way")
    graph.add_import(importer="projects.c", imported="common.alone")
    assert single_users(graph, {"common.losses", "common.unused"}) == {}


def test_what_a_run_needs_is_loaded_without_garbage_collection(monkeypatch):
    """Guards start-up, of which it took a fifth, and a collector that stays off in training."""
    import common.engine.run
    from common import cli

    seen = []

    class Watch:
        def find_spec(self, name, path=None, target=None):
            if name == "common.engine.run":
                seen.append(gc.isenabled())

    monkeypatch.setattr(common.engine, "run", common.engine.run)  # put back, as the module is
    monkeypatch.delitem(sys.modules, "common.engine.run")
    monkeypatch.setattr(sys, "meta_path", [Watch(), *sys.meta_path])
    gc.enable()
    frozen = gc.get_freeze_count()
    cli._load_engine()
    assert seen == [False]
    assert gc.isenabled()
    assert gc.get_freeze_count() > frozen
    cli._load_engine()  # a second command of the process loads nothing, and freezes nothing
    assert seen == [False]
