"""What a run depends on: the code that it can reach by imports, the data that this code names.

A static walk over the sources finds the modules, lazy imports inside functions included; comments
and docstrings don't count. A finished run is reused while this hash, and its config, are the same.
"""

import ast
import hashlib
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from common.config import CONFIG_DIR, ROOT
from common.registry import load_project

ENGINE = "common.engine.run"  # what every run of a project executes beside the project
DATA = "data"  # folder of bundled sets and, in models/, weights


@cache
def code_hash(project: str, *modules: str) -> str:
    """Hash of the code and the bundled data that a run of the project depends on.

    Args:
        project: slug.
        modules: what it executes beside the project's package, such as its baselines.
    """
    files = file_hashes(project, *modules)
    return hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()[:8]


@cache
def file_hashes(project: str, *modules: str) -> dict[str, str]:
    """Files of `code_hash`, relative to the repository, each with the hash of what counts in it."""
    root = load_project(project).__name__
    sources = reachable(root, ENGINE, *(f"{root}.{name}" for name in modules))
    code = {p: hashlib.sha256(stripped(p).encode()).hexdigest() for p in sources}
    data = {p: _content(p) for p in data_files(sources, project)}
    return {p.relative_to(ROOT).as_posix(): h[:8] for p, h in (code | data).items()}


def forget() -> None:
    """Look at the files again at the next call; until then each is read once per process."""
    for function in (code_hash, file_hashes, reachable, imports, stripped, _content):
        function.cache_clear()


@cache
def reachable(*modules: str) -> tuple[Path, ...]:
    """Source files of this repository that the modules import, themselves included.

    Args:
        modules: dotted names; one that is no file of the repository is left out.
    """
    waiting, found = list(modules), dict[str, Path]()
    while waiting:
        name = waiting.pop()
        path = _file(name)
        if path is None or name in found:
            continue
        found[name] = path
        waiting += [name.rpartition(".")[0], *imports(path)]
    return tuple(sorted(found.values()))


@cache
def imports(path: Path) -> tuple[str, ...]:
    """Modules that a file imports anywhere, and the names which it takes from them.

    What stands under ``if TYPE_CHECKING`` is left out: it never runs.
    """
    return tuple(_imported(ast.parse(path.read_text(encoding="utf-8")), _package(path)))


def _imported(node: ast.AST, package: str) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        above = package.split(".")[: -(node.level - 1) or None] if node.level else []
        name = ".".join([*above, *([node.module] if node.module else [])])
        yield name
        yield from (f"{name}.{alias.name}" for alias in node.names)
    typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    inner = node.orelse if isinstance(node, ast.If) and typing_only else ast.iter_child_nodes(node)
    for child in inner:
        yield from _imported(child, package)


@cache
def stripped(path: Path) -> str:
    """Source without comments, docstrings and empty lines."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if ast.get_docstring(node, clean=False) is None or first is None:
                continue
            if not lines[first.lineno - 1][: first.col_offset].strip():
                for row in range(first.lineno - 1, first.end_lineno or first.lineno):
                    lines[row] = ""
    return "\n".join(line.rstrip() for line in lines if line.strip())


def data_files(sources: tuple[Path, ...], project: str = "") -> list[Path]:
    """Files of the bundled sets and weights whose folder is named in the sources or configs."""
    configs = sorted((CONFIG_DIR / project).glob("*.yaml")) if project else []
    text = "\n".join([*map(stripped, sources), *(c.read_text(encoding="utf-8") for c in configs)])
    folders = [*(ROOT / DATA).glob("*/"), *(ROOT / DATA / "models").glob("*/")]
    named = [
        folder
        for folder in folders
        if re.search(rf"['\"/:]{re.escape(folder.name)}['\"/]", text) and folder.name != "models"
    ]
    return sorted(path for folder in named for path in folder.rglob("*") if path.is_file())


@cache
def _content(path: Path) -> str:
    """Hash of a file: new weights of an old shape have the old size."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _file(name: str) -> Path | None:
    base = ROOT.joinpath(*name.split(".")) if name else ROOT
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if name and path.is_file():
            return path
    return None


def _package(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).parent.parts)
