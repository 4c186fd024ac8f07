"""An option that no code reads is a promise that nothing keeps: every one is read, or refused."""

import ast
import dataclasses
import importlib
import typing
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

from common.config import ROOT
from tests.contract.projects import PROJECTS
from tests.reads import Reads

# read by the checks of the config alone, which refuse what would be ignored
CHECKS = {
    "cwcl": {"speech.batch_size"},  # of data
    "demo_retrieval": {"retriever.train_question_encoder"},  # frozen
    "lol": {"methods.layer_choice"},  # static has one layer, which needs no choice
    "promptreps": {"data.source"},  # data.file decides
}
# read by getattr
BY_NAME = {
    "rankgen": {
        f"generator.{name}" for name in ("strategy", "temperature", "top_p", "top_k", "typical_p")
    },
    "wikides": {"data.train", "data.dev", "data.test"},
}
# classes whose settings are read of what has their fields
READ_AS = {"ServerConfig": {"server"}, "DecoderConfig": {"Policy"}}
ANY, SELF = "?", "self"  # an object that may be any section, and one of the class around it

Names = dict[str, set[str]]


class WithoutChecks(ast.NodeTransformer):
    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef | None:
        return None if node.name == "__post_init__" else node


class CodeReads(ast.NodeVisitor):
    """Attributes that a file reads, each with the sections or classes that its object may be.

    A name is what its function assigns to it (`method = cfg.method`) or what it is annotated with,
    an attribute (`self.method.momentum`) has its own name and what the file assigns to it.
    """

    def __init__(self, tree: ast.Module) -> None:
        self.reads: list[tuple[str, set[str]]] = []
        self.holder = ""  # the class whose methods are read
        self.scopes: list[Names] = [defaultdict(set)]
        self.attributes: Names = defaultdict(set)
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign | ast.AnnAssign):
                self._bind_attributes(node)
        self.visit(tree)

    def _bind_attributes(self, node: ast.Assign | ast.AnnAssign) -> None:
        for target, value in _assigned(node):
            if isinstance(target, ast.Attribute):
                self.attributes[target.attr] |= self._objects(value, plain=True)
            elif isinstance(node, ast.AnnAssign) and isinstance(target, ast.Name):
                self.attributes[target.id] |= _words(node.annotation)  # field of a class

    def _objects(self, node: ast.AST | None, plain: bool = False) -> set[str]:
        """What an expression may be: names of sections and classes, or `ANY`."""
        match node:
            case ast.Attribute(attr=name):
                return {name} | (set() if plain else self.attributes.get(name, set()))
            case ast.Name(id=name):
                bound = next((s[name] for s in self.scopes[::-1] if name in s), None)
                return {ANY} if plain or bound is None else bound
            case ast.Subscript(value=value):
                return self._objects(value, plain)
            case ast.IfExp(body=a, orelse=b):
                return self._objects(a, plain) | self._objects(b, plain)
            case ast.BoolOp(values=values):
                return set().union(*(self._objects(value, plain) for value in values))
            case ast.Call(func=ast.Name(id="replace"), args=[first, *_]):
                return self._objects(first, plain)
        return {ANY}

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.Lambda) -> None:
        scope: Names = defaultdict(set)
        self.scopes.append(scope)
        arguments = node.args
        for arg in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
            scope[arg.arg] |= {SELF, self.holder} if arg.arg == SELF else _words(arg.annotation)
        for child in ast.walk(node):
            if isinstance(child, ast.Assign | ast.AnnAssign):
                for target, value in _assigned(child):
                    if isinstance(target, ast.Name):
                        scope[target.id] |= self._objects(value)
            elif isinstance(child, ast.For | ast.comprehension | ast.withitem | ast.NamedExpr):
                target = getattr(child, "target", None) or getattr(child, "optional_vars", None)
                for name in ast.walk(target) if target is not None else ():
                    if isinstance(name, ast.Name):
                        scope[name.id].add(ANY)
        self.generic_visit(node)
        self.scopes.pop()

    visit_Lambda = visit_FunctionDef

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        outer, self.holder = self.holder, node.name
        self.generic_visit(node)
        self.holder = outer

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if isinstance(node.ctx, ast.Load):
            self.reads.append((node.attr, self._objects(node.value)))
        self.generic_visit(node)


def _assigned(node: ast.Assign | ast.AnnAssign) -> Iterator[tuple[ast.AST, ast.AST | None]]:
    """Targets with their values, of tuples one by one."""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    for target in targets:
        if isinstance(target, ast.Tuple):
            same = isinstance(node.value, ast.Tuple) and len(node.value.elts) == len(target.elts)
            values = node.value.elts if same else [None] * len(target.elts)
            yield from zip(target.elts, values, strict=True)
        elif node.value is not None:
            yield target, node.value


def _words(annotation: ast.AST | None) -> set[str]:
    """Names in an annotation, or `ANY` without one."""
    if annotation is None:
        return {ANY}
    return {n.id for n in ast.walk(annotation) if isinstance(n, ast.Name)}


def reads_of(paths: Iterable[Path]) -> dict[str, set[frozenset[str]]]:
    """What is read, without the checks of configs: option names with the objects that have them."""
    reads: dict[str, set[frozenset[str]]] = defaultdict(set)
    for path in paths:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if path.name in ("config.py", "options.py"):
            tree = WithoutChecks().visit(tree)
        for name, objects in CodeReads(tree).reads:
            reads[name].add(frozenset(objects))
    return reads


class Option(NamedTuple):
    """A key of a schema.

    Attributes:
        key: with its sections.
        owner: module that declares it.
        section: name of the field that holds it; None at the top.
        classes: names of the section's class, its parents and its children.
    """

    key: str
    owner: str
    section: str | None
    classes: set[str]


def options(schema: type, prefix: str = "", section: str | None = None) -> Iterator[Option]:
    """Keys of a schema."""
    hints = typing.get_type_hints(schema)
    classes = {c.__name__ for c in (*schema.__mro__[:-1], *schema.__subclasses__())}
    for field in dataclasses.fields(schema):
        kinds = (hints[field.name], *typing.get_args(hints[field.name]))
        sections = [kind for kind in kinds if dataclasses.is_dataclass(kind)]
        for inner in sections:
            yield from options(inner, f"{prefix}{field.name}.", field.name)
        if not sections:
            owner = next(
                c for c in schema.__mro__[::-1] if field.name in vars(c).get("__annotations__", ())
            )
            yield Option(prefix + field.name, owner.__module__, section, classes)


@pytest.fixture(scope="module")
def common_reads() -> dict[str, set[frozenset[str]]]:
    return reads_of((ROOT / "common").rglob("*.py"))


def unread(project: str, common: dict[str, set[frozenset[str]]], seen: Reads) -> set[str]:
    """Options that nothing reads.

    One counts as read if the smoke run read it, or if code of the project (or of `common`, where
    `common` declares it) reads it of an object that can be told to be its section.

    Args:
        project: slug.
        common: what `common` reads.
        seen: what the smoke run read.
    """
    own = reads_of((ROOT / "projects" / project).rglob("*.py"))
    schema = importlib.import_module(f"projects.{project}.config").Config
    every = list(options(schema))

    def is_read(option: Option) -> bool:
        name = option.key.split(".")[-1]
        if any((section, name) in seen for section in option.classes):
            return True
        reads = own.get(name, set())
        if not option.owner.startswith("projects."):
            reads = reads | common.get(name, set())
        if option.section is None:
            return bool(reads)
        holders = {option.section, *option.classes}
        holders = holders.union(*(READ_AS.get(section, ()) for section in option.classes))
        return any(objects & holders for objects in reads)

    return {o.key for o in every if not is_read(o)} - BY_NAME.get(project, set())


@pytest.mark.parametrize("project", PROJECTS)
def test_every_option_is_read_or_refused(project, common_reads, smoke_runs):
    assert unread(project, common_reads, smoke_runs.reads(project)) == CHECKS.get(project, set())


def with_option(module: ModuleType, section: str, name: str) -> type:
    """The schema of a project with one option more, which nothing reads."""
    inner = typing.get_type_hints(module.Config)[section]
    inner = dataclasses.make_dataclass(inner.__name__, [(name, int, 0)], bases=(inner,))
    inner.__module__ = module.__name__
    field = (section, inner, dataclasses.field(default_factory=inner))
    return dataclasses.make_dataclass("Config", [field], bases=(module.Config,))


@pytest.mark.parametrize(
    ("project", "section", "name"),
    [
        ("dcl", "method", "nothing_reads_this"),
        ("dcl", "method", "blur_prob"),  # read of the data
        ("dcl", "eval", "momentum"),  # of the method, and an attribute of the momentum encoder
        ("dcl", "model", "sigma"),
        ("dcl", "data", "support_size"),
        ("moe_embeddings", "data", "num_experts"),  # read of the layout, through other objects
        ("vega", "data", "max_length"),
        ("b_prop", "method", "seed"),
    ],
)
def test_an_option_that_nothing_reads_is_noticed(
    common_reads, smoke_runs, monkeypatch, project, section, name
):
    seen = smoke_runs.reads(project)
    config = importlib.import_module(f"projects.{project}.config")
    monkeypatch.setattr(config, "Config", with_option(config, section, name))
    found = unread(project, common_reads, seen) - CHECKS.get(project, set())
    assert found == {f"{section}.{name}"}
