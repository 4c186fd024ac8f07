"""An option that no code reads is a promise that nothing keeps: every one is read, or refused."""

import ast
import dataclasses
import importlib
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.config import ROOT
from projects.dcl import config as dcl_config
from tests.contract.projects import PROJECTS

# read by the checks of the config alone, which refuse what would be ignored
CHECKS = {
    "demo_retrieval": {"retriever.train_question_encoder"},  # frozen
    "lol": {"methods.layer_choice"},  # static has one layer, which needs no choice
}
WHOLE = {"rankgen": {"generator"}}  # sections that are passed on as they are


class WithoutChecks(ast.NodeTransformer):
    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef | None:
        return None if node.name == "__post_init__" else node


def names_read(paths: typing.Iterable[Path]) -> set[str]:
    """Attributes and words in code, without the checks of configs."""
    found = set()
    for path in paths:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if path.name in ("config.py", "options.py"):
            tree = WithoutChecks().visit(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                found.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return found


def options(schema: type, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Keys of a schema, with the module that declares each."""
    hints = typing.get_type_hints(schema)
    for field in dataclasses.fields(schema):
        kinds = (hints[field.name], *typing.get_args(hints[field.name]))
        sections = [kind for kind in kinds if dataclasses.is_dataclass(kind)]
        for section in sections:
            yield from options(section, f"{prefix}{field.name}.")
        if not sections:
            owner = next(
                c for c in schema.__mro__[::-1] if field.name in vars(c).get("__annotations__", ())
            )
            yield prefix + field.name, owner.__module__


@pytest.fixture(scope="module")
def common_names() -> set[str]:
    return names_read((ROOT / "common").rglob("*.py"))


def unread(project: str, common: set[str]) -> set[str]:
    """Options that neither the project reads nor, where `common` declares them, `common`."""
    own = names_read((ROOT / "projects" / project).rglob("*.py"))
    schema = importlib.import_module(f"projects.{project}.config").Config
    return {
        key
        for key, owner in options(schema)
        if key.split(".")[-1] not in (own if owner.startswith("projects.") else own | common)
        and key.split(".")[0] not in WHOLE.get(project, ())
    }


@pytest.mark.parametrize("project", PROJECTS)
def test_every_option_is_read_or_refused(project, common_names):
    assert unread(project, common_names) == CHECKS.get(project, set())


def test_an_option_that_nothing_reads_is_noticed(common_names, monkeypatch):
    @dataclasses.dataclass
    class Config(dcl_config.Config):
        nothing_reads_this: int = 0

        def __post_init__(self) -> None:
            assert self.nothing_reads_this == 0

    Config.__module__ = "projects.dcl.config"
    monkeypatch.setattr(dcl_config, "Config", Config)
    assert unread("dcl", common_names) == {"nothing_reads_this"}
