"""Which definitions of this repository a piece of code can reach, by a static walk over names.

A file is cut into units: each function, class and assignment at its top level, which counts when
something that is reached names it, and the rest (expressions, branches, definitions with a
decorator that may register them), which counts as soon as the file is imported. A module that is
used as a value counts whole. Comments, docstrings, the annotations of functions and what stands
under ``if TYPE_CHECKING`` never count.
"""

import ast
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

WHOLE = "*"
# decorators that change a definition and leave no trace of it elsewhere
PURE = {
    "dataclass",
    "cache",
    "lru_cache",
    "contextmanager",
    "jit",
    "constexpr_function",
    "no_grad",
    "inference_mode",
    "overload",
    "total_ordering",
    "wraps",
    "runtime_checkable",
    "final",
}
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass
class Unit:
    """Source that counts together: its text and the names that it uses."""

    text: str = ""
    names: set[str] = field(default_factory=set)
    attributes: dict[str, set[str]] = field(default_factory=dict)  # of names used in no other way
    imports: list[tuple[str, str]] = field(default_factory=list)  # (module, name in it)


@dataclass
class Source:
    """A parsed file.

    Attributes:
        units: by the name that they define.
        always: what runs whenever the file is imported.
        inside: names that this defines.
        bindings: name -> (module, name in it, `WHOLE` for the module itself).
    """

    units: dict[str, Unit] = field(default_factory=dict)
    always: Unit = field(default_factory=Unit)
    inside: set[str] = field(default_factory=set)
    bindings: dict[str, tuple[str, str]] = field(default_factory=dict)


def reach(
    root: Path, entries: Iterable[tuple[str, str]], without: Container[str] = ()
) -> dict[Path, str]:
    """Source text that counts, by file.

    Args:
        root: folder of the repository.
        entries: (module, name) to begin with; `WHOLE` as the name takes all of a module. A module
            that is no file of the repository is left out.
        without: modules that are not entered.

    Returns:
        File -> text of its reached units in a fixed order, without comments and docstrings.
    """
    waiting, seen = list(entries), set[tuple[str, str]]()
    found: dict[Path, set[str]] = {}
    while waiting:
        module, name = entry = waiting.pop()
        path = file_of(root, module)
        if path is None or entry in seen or module in without:
            continue
        seen.add(entry)
        source = parse(path, _package(root, path))
        if path not in found:
            found[path] = set()
            waiting += [(module.rpartition(".")[0], ""), *_used(root, source, source.always)]
        if name in source.units:
            found[path].add(name)
        waiting += _follow(root, source, module, name)
    return {
        path: "\n".join([source.always.text, *(source.units[n].text for n in sorted(names))])
        for path, names in found.items()
        for source in [parse(path, _package(root, path))]
    }


def _follow(root: Path, source: Source, module: str, name: str) -> Iterator[tuple[str, str]]:
    """Where a name of a module leads."""
    if name == WHOLE:
        yield from ((module, own) for own in [*source.units, *source.bindings])
    elif name in source.units:
        unit = source.units[name]
        yield from _used(root, source, unit)
        yield from ((module, own) for own in unit.names & source.units.keys())
    elif name in source.bindings:
        yield from _bound(root, source.bindings[name], {WHOLE})
    elif name and name not in source.inside:
        inner = f"{module}.{name}"  # a module of this package, else something made at run time
        yield (inner if file_of(root, inner) else module, WHOLE)


def _used(root: Path, source: Source, unit: Unit) -> Iterator[tuple[str, str]]:
    """What a unit reaches in other modules."""
    yield from unit.imports
    for name in unit.names & source.bindings.keys():
        yield from _bound(root, source.bindings[name], unit.attributes.get(name, {WHOLE}))


def _bound(root: Path, binding: tuple[str, str], wanted: set[str]) -> Iterator[tuple[str, str]]:
    """An imported name: itself, or what is wanted of it where it is a module."""
    module, name = binding
    inner = module if name == WHOLE else f"{module}.{name}"
    if file_of(root, inner) is None:
        yield binding
    else:
        yield from ((inner, attribute) for attribute in wanted)


@cache
def parse(path: Path, package: str) -> Source:
    """Cut a file into its units."""
    source, loose = Source(), list[ast.stmt]()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for statement in _without_docstring(tree.body):
        if isinstance(statement, ast.Import) and any("." in a.name for a in statement.names):
            loose.append(statement)
        elif isinstance(statement, ast.Import | ast.ImportFrom):
            source.bindings |= _bindings(statement, package)
        elif isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.unparse(statement.test):
            loose += statement.orelse
        elif isinstance(statement, Definition) and all(map(_pure, statement.decorator_list)):
            source.units[statement.name] = _unit([statement], package)
        elif (names := _assigned(statement)) and not names & source.units.keys():
            unit = _unit([statement], package)
            source.units |= dict.fromkeys(names, unit)
        else:
            loose.append(statement)
    for statement in loose:  # their imports bind names for the rest of the file
        for node in ast.walk(statement):
            if isinstance(node, ast.Import | ast.ImportFrom):
                source.bindings |= _bindings(node, package)
    known = set(source.units)
    source.always = always = _unit(loose, package)
    always.attributes.clear()  # modules that it uses count whole
    while here := always.names & source.units.keys():  # definitions that run at import
        for name in sorted(here):  # the same text in every process
            unit = source.units.pop(name)
            always.text += "\n" + unit.text
            always.names |= unit.names
            always.imports += unit.imports
    source.inside = _defined(loose) | known - source.units.keys()
    return source


def _unit(statements: list[ast.stmt], package: str) -> Unit:
    unit, plain = Unit(), set[str]()
    bare = [b for s in statements if (b := _Bare().visit(s)) is not None]
    unit.text = "\n".join(ast.unparse(s) for s in bare)
    for node in (n for statement in bare for n in ast.walk(statement)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            unit.imports += _bindings(node, package).values()
        elif isinstance(node, ast.Name):
            unit.names.add(node.id)
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Name):
                if isinstance(node, ast.Attribute):
                    unit.attributes.setdefault(child.id, set()).add(node.attr)
                else:
                    plain.add(child.id)
    for name in plain & unit.attributes.keys():
        del unit.attributes[name]
    return unit


class _Bare(ast.NodeTransformer):
    """Without docstrings, annotations of functions and branches for type checkers."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self._strip(node)
        node.returns = None
        for argument in ast.walk(node.args):
            if isinstance(argument, ast.arg):
                argument.annotation = None
        return self.generic_visit(node)

    visit_AsyncFunctionDef = visit_FunctionDef  # type: ignore[assignment]

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        self._strip(node)
        return self.generic_visit(node)

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        self.generic_visit(node)
        return node.orelse if "TYPE_CHECKING" in ast.unparse(node.test) else node

    @staticmethod
    def _strip(node: Definition) -> None:
        node.body = _without_docstring(node.body) or [ast.Pass()]


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    first = body[0] if body else None
    constant = first.value if isinstance(first, ast.Expr) else None
    return body[isinstance(constant, ast.Constant) and isinstance(constant.value, str) :]


def _assigned(statement: ast.stmt) -> set[str]:
    """Names that a plain assignment makes; none if it changes something that is there."""
    if isinstance(statement, ast.AnnAssign):
        targets: list[ast.expr] = [statement.target]
    elif isinstance(statement, ast.Assign):
        targets = [
            e for t in statement.targets for e in (t.elts if isinstance(t, ast.Tuple) else [t])
        ]
    else:
        return set()
    names = {target.id for target in targets if isinstance(target, ast.Name)}
    return names if len(names) == len(targets) else set()


def _defined(statements: list[ast.stmt]) -> set[str]:
    nodes = [node for statement in statements for node in ast.walk(statement)]
    named = {node.name for node in nodes if isinstance(node, Definition)}
    return named | {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


def _pure(decorator: ast.expr) -> bool:
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    return (called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")) in PURE


def _bindings(node: ast.Import | ast.ImportFrom, package: str) -> dict[str, tuple[str, str]]:
    """Local name -> (module, name in it)."""
    if isinstance(node, ast.Import):
        return {a.asname or a.name: (a.name, WHOLE) for a in node.names}
    above = package.split(".")[: -(node.level - 1) or None] if node.level else []
    module = ".".join([*above, *([node.module] if node.module else [])])
    return {a.asname or a.name: (module, WHOLE if a.name == "*" else a.name) for a in node.names}


@cache
def file_of(root: Path, module: str) -> Path | None:
    """The file of a module; None if the repository has none of that name.

    Looked up once in a process, as each file is parsed once; see `dependencies.forget`.
    """
    base = root.joinpath(*module.split(".")) if module else root
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if module and path.is_file():
            return path
    return None


def _package(root: Path, path: Path) -> str:
    return ".".join(path.relative_to(root).parent.parts)
