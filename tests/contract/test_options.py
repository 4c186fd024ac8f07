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
from projects.dcl import config as dcl_config
from tests.contract.projects import PROJECTS

# read by the checks of the config alone, which refuse what would be ignored
CHECKS = {
    "demo_retrieval": {"retriever.train_question_encoder"},  # frozen
    "lol": {"methods.layer_choice"},  # static has one layer, which needs no choice
    "promptreps": {"data.source"},  # data.file decides
}
WHOLE = {"rankgen": {"generator"}}  # sections that are passed on as they are
BY_NAME = {"getattr", "attrgetter", "asdict", "to_dict", "fields", "vars"}  # read by a text
ANY, SELF = "?", "self"  # an object that may be any section, and one of the class around it

Names = dict[str, set[str]]


class WithoutChecks(ast.NodeTransformer):
    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef | None:
        return None if node.name == "__post_init__" else node


class Reads(ast.NodeVisitor):
    """Attributes that a file reads, each with the sections or classes that its object may be.

    A name is what its function assigns to it (`method = cfg.method`) or what it is annotated with,
    an attribute (`self.method.momentum`) has its own name and what the file assigns to it.
    """

    def __init__(self, tree: ast.Module) -> None:
        self.reads: list[tuple[str, set[str]]] = []
        self.texts: set[str] = set()
        self.by_name = False
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

    def visit_Name(self, node: ast.Name) -> None:
        self.by_name |= node.id in BY_NAME

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str):
            self.texts.add(node.value)


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
        actual = Reads(tree)
        for name, objects in actual.reads:
            reads[name].add(frozenset(objects))
        for text in actual.texts if actual.by_name else ():
            reads[text].add(frozenset({ANY}))
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


def unread(project: str, common: dict[str, set[frozenset[str]]]) -> set[str]:
    """Options that neither the project reads nor, where `common` declares them, `common`."""
    own = reads_of((ROOT / "projects" / project).rglob("*.py"))
    schema = importlib.import_module(f"projects.{project}.config").Config
    every = list(options(schema))
    classes = set().union(*(option.classes for option in every))

    sections = {option.section for option in every if option.section is not None}

    def holds(objects: frozenset[str], option: Option) -> bool:
        """Whether a read of these objects may be one of the option."""
        if option.section is None:
            return True
        if known := objects & (sections | classes):
            return bool(known & {option.section, *option.classes})
        # an object of another class may be a section under a protocol
        return ANY in objects or (SELF not in objects and any(o[0].isupper() for o in objects))

    def is_read(option: Option) -> bool:
        name = option.key.split(".")[-1]
        reads = own.get(name, set())
        if not option.owner.startswith("projects."):
            reads = reads | common.get(name, set())
        return any(holds(objects, option) for objects in reads)

    whole = WHOLE.get(project, set())
    return {o.key for o in every if o.key.split(".")[0] not in whole and not is_read(o)}


@pytest.mark.parametrize("project", PROJECTS)
def test_every_option_is_read_or_refused(project, common_reads):
    assert unread(project, common_reads) == CHECKS.get(project, set())


def with_option(module: ModuleType, section: str, name: str) -> type:
    """The schema of a project with one option more, which nothing reads."""
    inner = typing.get_type_hints(module.Config)[section]
    inner = dataclasses.make_dataclass(inner.__name__, [(name, int, 0)], bases=(inner,))
    inner.__module__ = module.__name__
    field = (section, inner, dataclasses.field(default_factory=inner))
    return dataclasses.make_dataclass("Config", [field], bases=(module.Config,))


@pytest.mark.parametrize(
    ("section", "name"),
    [
        ("method", "nothing_reads_this"),
        ("method", "blur_prob"),  # read of the data
        ("eval", "momentum"),  # of the method, and an attribute of the momentum encoder
        ("model", "sigma"),
        ("data", "support_size"),
    ],
)
def test_an_option_that_nothing_reads_is_noticed(common_reads, monkeypatch, section, name):
    monkeypatch.setattr(dcl_config, "Config", with_option(dcl_config, section, name))
    assert unread("dcl", common_reads) == {f"{section}.{name}"}
