"""Functions of source files, each with the place where it begins."""

import ast
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from common.config import UserError
from common.data.code.lexer import syntax_tree
from common.data.code.types import SUFFIXES, Language

_NODES = {
    "function_declaration", "function_definition", "method_declaration", "method_definition",
    "constructor_declaration", "method", "singleton_method", "generator_function_declaration",
}  # fmt: skip
_SKIPPED = {"node_modules", "__pycache__", "site-packages", "vendor", "build", "dist"}


class Function(NamedTuple):
    """One function or method."""

    path: Path
    line: int  # from 1
    name: str
    code: str  # without its docstring, in Python
    language: Language

    @property
    def place(self) -> str:
        """``file:line``, as editors read it."""
        return f"{self.path}:{self.line}"


def read_functions(place: str | Path) -> list[Function]:
    """Functions of a file, or of the files in a folder, in the order of paths and lines.

    Hidden folders and those of installed packages are left out, and files that cannot be read as text.
    A file without a function in it counts as one.

    Args:
        place: file or folder; the suffix of a file says its language.

    Raises:
        UserError: nothing is there, or no code in a language that is read.
    """
    path = Path(place).expanduser()
    if not path.exists():
        raise UserError(f"{path} does not exist: name a source file or a folder of them")
    files = _files(path) if path.is_dir() else [path]
    found = [f for file in files if file.suffix in SUFFIXES for f in _of_file(file)]
    if not found:
        raise UserError(f"{path} holds no code; files that are read: {', '.join(SUFFIXES)}")
    return found


def functions_of(code: str, language: Language) -> list[tuple[int, str, str]]:
    """Line, name and code of every function of a file, nested ones included.

    Args:
        code: of the file.
        language: what it is written in.

    Returns:
        In the order of their lines; empty for Python that does not parse.
    """
    found = _python(code) if language == "python" else _parsed(code, language)
    return sorted(found, key=lambda function: function[0])


def without_docstring(code: str) -> str:
    """A Python function without its docstring, other lines as they are; not parsable: unchanged."""
    try:
        (node,) = ast.parse(code).body
    except (SyntaxError, ValueError):
        return code
    return _without(_lines(code), node)


def _files(folder: Path) -> Iterator[Path]:
    for root, names, files in os.walk(folder):
        names[:] = sorted(n for n in names if n not in _SKIPPED and not n.startswith("."))
        yield from (Path(root) / name for name in sorted(files))


def _of_file(path: Path) -> list[Function]:
    try:
        code = path.read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError):
        return []
    language = SUFFIXES[path.suffix]
    found = functions_of(code, language)
    if not found and code.strip():
        found = [(1, path.stem, code)]
    return [Function(path, line, name, own, language) for line, name, own in found]


def _python(code: str) -> list[tuple[int, str, str]]:
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError):
        return []
    lines = _lines(code)
    return [
        (node.lineno, node.name, _without(lines, node))
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def _lines(code: str) -> list[str]:
    """Lines as Python counts them, which does not break at form feeds."""
    return io.StringIO(code, newline=None).read().split("\n")


def _without(lines: list[str], node: ast.stmt) -> str:
    """Lines of a statement, decorators included, without those of its docstring."""
    decorators = getattr(node, "decorator_list", [])
    start = min([node.lineno, *(d.lineno for d in decorators)])
    end = node.end_lineno or start
    skipped: range = range(0)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        head = node.body[0]
        if ast.get_docstring(node, clean=False) is not None and len(node.body) > 1:
            skipped = range(head.lineno, (head.end_lineno or head.lineno) + 1)
    indent = len(lines[start - 1]) - len(lines[start - 1].lstrip())
    kept = [lines[i - 1] for i in range(start, end + 1) if i not in skipped]
    return "\n".join(line[indent:] if not line[:indent].strip() else line for line in kept)


def _parsed(code: str, language: Language) -> list[tuple[int, str, str]]:
    text = code
    if language == "php":  # the grammar of functions alone, without the text around them
        text = code.replace("<?php", "     ").replace("?>", "  ")
    source, found = text.encode(), []
    stack = [syntax_tree(source, language)]
    while stack:
        node = stack.pop()
        stack += node.children
        if node.type in _NODES and node.is_named:
            name = node.child_by_field_name("name")
            own = source[node.start_byte : node.end_byte].decode()
            called = "" if name is None else source[name.start_byte : name.end_byte].decode()
            found.append((node.start_point[0] + 1, called, own))
    return found
