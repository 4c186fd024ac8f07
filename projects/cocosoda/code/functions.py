"""Functions of source files, each with the place where it begins."""

import ast
import io
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from common.config import UserError
from common.damage import reading
from projects.cocosoda.code.lexer import syntax_tree
from projects.cocosoda.code.types import SUFFIXES, Language

_NODES = {
    "function_declaration",
    "function_definition",
    "method_declaration",
    "method_definition",
    "constructor_declaration",
    "method",
    "singleton_method",
    "generator_function_declaration",
}
_EXPRESSIONS = {"arrow_function", "function_expression", "generator_function"}  # of JavaScript
_NAMED = {  # what gives such an expression its name -> where the name stands
    "variable_declarator": "name",
    "assignment_expression": "left",
    "field_definition": "property",
    "pair": "key",
}
_DEFINITION = re.compile(r"(\s*)(?:async\s+)?def\s+(\w+)")
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


def read_functions(
    place: str | Path, say: Callable[[str], object] = lambda text: None
) -> list[Function]:
    """Functions of a file, or of the files in a folder, in the order of paths and lines.

    Hidden folders and those of installed packages are left out, and files of a folder that cannot
    be read as text. A file without a function in it counts as one.

    Args:
        place: file or folder; the suffix of a file says its language.
        say: is told how many files could not be read, or were read another way.

    Raises:
        UserError: nothing is there, no code in a language that is read, or one file that is not
            UTF-8.
    """
    path = Path(place).expanduser()
    if not path.exists():
        raise UserError(f"{path} does not exist: give a source file or a folder of them")
    files = _files(path) if path.is_dir() else [path]
    functions, unread, broken = list[Function](), list[Path](), list[Path]()
    for file in files:
        if file.suffix not in SUFFIXES:
            continue
        try:
            part, parsed = _of_file(file)
        except UserError:
            if file == path:
                raise
            unread.append(file)
            continue
        functions += part
        if not parsed:
            broken.append(file)
    if unread:
        say(
            f"{len(unread)} files are left out, they are not UTF-8 or cannot be read:"
            f" {unread[0]} ..."
        )
    if broken:
        say(
            f"{len(broken)} Python files do not parse, their functions are told by indentation:"
            f" {broken[0]} ..."
        )
    if not functions:
        raise UserError(f"{path} has no code; files that are read: {', '.join(SUFFIXES)}")
    return functions


def _functions(code: str, language: Language) -> tuple[list[tuple[int, str, str]], bool]:
    """Line, name and code of every function, nested ones too, and whether all could be parsed.

    A function expression of JavaScript has the name it is assigned to, and its code begins with
    that; one without a name counts if it has two lines or more. Functions of Python that does not
    parse, such as Python 2, are split by their indentation. They come in the order of their lines.
    """
    if language != "python":
        return sorted(_parsed(code, language), key=lambda function: function[0]), True
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError):
        return list(_by_indentation(code)), False
    lines = _lines(code)
    pieces = [
        (node.lineno, node.name, _without(lines, node))
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    return sorted(pieces, key=lambda function: function[0]), True


def _files(folder: Path) -> Iterator[Path]:
    for root, names, files in os.walk(folder):
        names[:] = sorted(n for n in names if n not in _SKIPPED and not n.startswith("."))
        yield from (Path(root) / name for name in sorted(files))


def _of_file(path: Path) -> tuple[list[Function], bool]:
    with reading(path, "source file in UTF-8"):
        code = path.read_text(encoding="utf-8-sig")
    language = SUFFIXES[path.suffix]
    pieces, parsed = _functions(code, language)
    if not pieces and code.strip():
        pieces = [(1, path.stem, code)]
    return [Function(path, line, name, source, language) for line, name, source in pieces], parsed


def _by_indentation(code: str) -> Iterator[tuple[int, str, str]]:
    """From each ``def`` to the next line that is not indented more; a bracket may close there."""
    lines = _lines(code)
    for first, line in enumerate(lines):
        if (head := _DEFINITION.match(line)) is None:
            continue
        depth, end = len(head[1]), first + 1
        for place in range(first + 1, len(lines)):
            text = lines[place].lstrip()
            if text and len(lines[place]) - len(text) <= depth and text[0] not in ")#":
                break
            end = place + 1 if text else end
        yield first + 1, head[2], "\n".join(row[depth:] for row in lines[first:end])


def _lines(code: str) -> list[str]:
    """Lines as Python counts them, which does not break at form feeds."""
    return io.StringIO(code, newline=None).read().split("\n")


def _without(lines: list[str], node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """Lines of a function, decorators included, without its docstring."""
    start = min([node.lineno, *(d.lineno for d in node.decorator_list)])
    end = node.end_lineno or start
    kept = lines[start - 1 : end]
    if ast.get_docstring(node, clean=False) is not None and len(node.body) > 1:
        doc, then = node.body[:2]
        last = doc.end_lineno or doc.lineno
        before = lines[doc.lineno - 1].encode()[: doc.col_offset].decode()
        # what is left of lines that hold other code too, as in `def f(): "Doc."; return 1`
        shared = []
        if before.strip() or then.lineno == last:
            last = then.lineno
            shared = [before + lines[last - 1].encode()[then.col_offset :].decode()]
        kept = lines[start - 1 : doc.lineno - 1] + shared + lines[last:end]
    indent = len(kept[0]) - len(kept[0].lstrip())
    return "\n".join(line[indent:] if not line[:indent].strip() else line for line in kept)


def _parsed(code: str, language: Language) -> list[tuple[int, str, str]]:
    text = code
    if language == "php":  # the grammar of functions alone, without the text around them
        text = code.replace("<?php", "     ").replace("?>", "  ")
    source, functions = text.encode(), []
    stack = [syntax_tree(source, language)]
    while stack:
        node = stack.pop()
        stack += node.children
        name, whole = node.child_by_field_name("name"), node
        if language == "javascript" and node.is_named and node.type in _EXPRESSIONS:
            if (field := _NAMED.get(node.parent.type)) is not None:
                name, whole = node.parent.child_by_field_name(field), node.parent
            elif name is None and node.start_point[0] == node.end_point[0]:
                continue  # a callback in a line
        elif node.type not in _NODES or not node.is_named:
            continue
        called = "" if name is None else _text(source, name).strip("'\"")
        functions.append((whole.start_point[0] + 1, called, _text(source, whole)))
    return functions


def _text(source: bytes, node: Any) -> str:
    return source[node.start_byte : node.end_byte].decode()
