"""Mutants of a project's objective, module and losses that none of its tests notices.

``python scripts/mutants.py <slug> [--limit 40] [--minutes 30] [--files evaluate data]``: one small
change at a time (an operator, a number, a condition, a dropped `detach`), in these or in the given
files of the project, the tests run until one fails. Each mutant is a fork of one process that has
imported the libraries, so it costs the tests and no imports; nothing is written but
``build/mutants/<slug>.json``, from which a stopped search continues. Tests that use the pool of
processes are left out: a pool takes longer to start than a mutant takes to be noticed.
"""

import argparse
import ast
import copy
import hashlib
import importlib.abc
import importlib.util
import json
import os
import random
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PRELOAD = ("torch", "lightning.pytorch", "transformers", "scipy.stats", "matplotlib.pyplot")
PAIRS = [
    (ast.Lt, ast.LtE),
    (ast.Gt, ast.GtE),
    (ast.Eq, ast.NotEq),
    (ast.Is, ast.IsNot),
    (ast.In, ast.NotIn),
    (ast.Add, ast.Sub),
    (ast.Mult, ast.Div),
    (ast.And, ast.Or),
]
SWAPS: dict[type, type] = {a: b for pair in PAIRS for a, b in (pair, pair[::-1])}
PLAIN = ast.Name | ast.Attribute | ast.Call  # other conditions change by themselves
METHODS = {"mean": "sum", "sum": "mean", "amax": "amin", "amin": "amax", "argmax": "argmin"}


class Mutant(NamedTuple):
    """One change of one file."""

    path: Path
    name: str
    tree: ast.Module


def changed(node: ast.AST) -> ast.AST | None:
    """Another node in place of one, if there is one worth a try."""
    match node:
        case ast.BinOp(op=op) | ast.BoolOp(op=op) if type(op) in SWAPS:
            return _with(node, op=SWAPS[type(op)]())
        case ast.Compare(ops=[op]) if type(op) in SWAPS:
            return _with(node, ops=[SWAPS[type(op)]()])
        case ast.UnaryOp(op=ast.USub() | ast.Not(), operand=operand):
            return operand
        case ast.Constant(value=int() | float() as value):
            return ast.Constant(not value if isinstance(value, bool) else value + 1)
        case ast.Call(func=ast.Attribute(value=inner, attr="detach"), args=[], keywords=[]):
            return inner
        case ast.Call(func=ast.Attribute(attr=name) as function) if name in METHODS:
            return _with(node, func=_with(function, attr=METHODS[name]))
        case ast.If(test=test) | ast.IfExp(test=test) if isinstance(test, PLAIN):
            return _with(node, test=ast.UnaryOp(ast.Not(), test))
    return None


def _with(node: ast.AST, **fields: Any) -> ast.AST:
    return type(node)(**dict(ast.iter_fields(node)) | fields)


def mutants(path: Path) -> Iterator[Mutant]:
    """All mutants of the functions of a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        for parent in _below(function):
            for field, value in ast.iter_fields(parent):
                nodes = value if isinstance(value, list) else [value]
                for index, node in enumerate(nodes):
                    other = changed(node) if isinstance(node, ast.AST) else None
                    if other is None:
                        continue
                    replaced = [*nodes[:index], other, *nodes[index + 1 :]]
                    setattr(parent, field, replaced if isinstance(value, list) else other)
                    mutated = ast.fix_missing_locations(copy.deepcopy(tree))
                    setattr(parent, field, value)
                    words = " -> ".join(ast.unparse(n).split("\n")[0] for n in (node, other))
                    name = f"{path.relative_to(ROOT)}:{node.lineno}: {words}"
                    yield Mutant(path, name, mutated)


def _below(node: ast.AST) -> Iterator[ast.AST]:
    """A function's nodes without defaults, annotations, messages and functions of its own."""
    yield node
    skipped = ast.FunctionDef | ast.arguments | ast.AnnAssign | ast.Raise | ast.JoinedStr
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, skipped):
            yield from _below(child)


def targets(slug: str, files: Sequence[str] = ()) -> list[Path]:
    """A project's given files, or its objective, its module and the functional losses in use."""
    if files:
        return [p for n in files if (p := ROOT / f"projects/{slug}/{n}.py").exists()]
    own = [p for n in ("objective", "module") if (p := ROOT / f"projects/{slug}/{n}.py").exists()]
    classes = {path for file in own for path in _imported(file, "common.losses.")}
    losses = {
        path for file in (*own, *classes) for path in _imported(file, "common.losses.functional.")
    }
    return own + sorted(losses)


def _imported(file: Path, prefix: str) -> Iterator[Path]:
    package = ".".join(file.relative_to(ROOT).parent.parts)
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            name = "." * node.level + (node.module or "")
            name = importlib.util.resolve_name(name, package)
            if name.startswith(prefix):
                yield ROOT / f"{name.replace('.', '/')}.py"


def tests_of(slug: str, path: Path) -> list[Path]:
    """The project's tests; for a loss of `common` before them the unit tests that name it."""
    units = sorted((ROOT / "tests/unit/losses").glob("test_*.py"))
    named = [p for p in units if path.stem in p.read_text(encoding="utf-8")]
    own = sorted((ROOT / "tests/projects" / slug).glob("test_*.py"))
    return named + own if path.is_relative_to(ROOT / "common") else own


class Replaced(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from a mutant instead of its file; a plugin that leaves out the pool."""

    def __init__(self, mutant: Mutant) -> None:
        self.mutant = mutant
        self.name = ".".join(mutant.path.relative_to(ROOT).with_suffix("").parts)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:  # noqa: D102
        own = importlib.util.spec_from_file_location(name, self.mutant.path, loader=self)
        return own if name == self.name else None

    def exec_module(self, module: Any) -> None:  # noqa: D102
        exec(compile(self.mutant.tree, str(self.mutant.path), "exec"), module.__dict__)

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:  # noqa: D102
        items[:] = [i for i in items if not {"pool", "two_ranks"} & set(i.fixturenames)]


def noticed(mutant: Mutant, tests: list[Path], seconds: int) -> bool:
    """Whether a test fails in a fork that imports the mutant, or takes more CPU seconds."""
    child = os.fork()
    if not child:
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        sys.meta_path.insert(0, replaced := Replaced(mutant))
        words = [*map(str, tests), "-x", "-p", "no:cacheprovider", "-p", "no:xdist"]
        os._exit(int(importlib.import_module("pytest").main(words, plugins=[replaced])))
    return os.waitpid(child, 0)[1] != 0


def search(slug: str, limit: int, minutes: float, files: Sequence[str] = ()) -> None:
    """Try the mutants, known ones from the file; print what survives."""
    book, ends = ROOT / f"build/mutants/{slug}.json", time.monotonic() + 60 * minutes
    known: dict[str, bool] = json.loads(book.read_text()) if book.exists() else {}
    chosen = [mutant for path in targets(slug, files) for mutant in mutants(path)]
    if 0 < limit < len(chosen):
        chosen = [chosen[i] for i in sorted(random.Random(0).sample(range(len(chosen)), limit))]
    plain: dict[Path, float] = {}  # seconds of the tests without a mutant
    survivors = []
    for number, mutant in enumerate(chosen, 1):
        path, tests = mutant.path, tests_of(slug, mutant.path)
        content = hashlib.sha256(b"".join(f.read_bytes() for f in (path, *tests))).hexdigest()
        key = f"{content[:12]} {mutant.name}"
        if key not in known:
            if time.monotonic() > ends:
                print(f"time is up after {number - 1} of {len(chosen)} mutants; run again to go on")
                break
            if path not in plain:
                begun = os.times().children_user
                if noticed(Mutant(path, "", ast.parse(path.read_bytes())), tests, 3600):
                    sys.exit(f"the tests of {path} fail without a mutant")
                plain[path] = os.times().children_user - begun
            known[key] = noticed(mutant, tests, int(60 + 4 * plain[path]))
            book.parent.mkdir(parents=True, exist_ok=True)
            book.write_text(json.dumps(known, indent=1), encoding="utf-8")
        survivors += [] if known[key] else [mutant.name]
        print(
            f"{number}/{len(chosen)} {'noticed' if known[key] else 'SURVIVES'} {mutant.name}",
            flush=True,
        )
    print("\n".join([f"{len(survivors)} mutants survive", *survivors]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    slugs = sorted(path.parent.name for path in ROOT.glob("projects/*/module.py"))
    parser.add_argument("slug", choices=slugs)
    parser.add_argument("--limit", type=int, default=0, help="a sample of this size; 0: all")
    parser.add_argument("--minutes", type=float, default=30.0, help="stop after this time")
    parser.add_argument(
        "--files", nargs="+", default=(), help="modules of the project: data module"
    )
    args = parser.parse_args()
    if args.files and not targets(args.slug, args.files):
        parser.error(f"projects/{args.slug} has none of {', '.join(args.files)}")
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", WANDB_MODE="disabled")
    for library in PRELOAD:
        importlib.import_module(library)
    search(args.slug, args.limit, args.minutes, args.files)
