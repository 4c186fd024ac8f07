"""Page of equations: every `Source:` of a docstring and every `# Eq.` comment, by file and symbol."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

HEAD = """# Equations and sources

The `Source:` paragraphs and the `# Eq.` comments of the code, by file.

| file | symbol | source |
|---|---|---|
"""
MARK = re.compile(r"#\s*((?:Eq|Alg|Sec)\.\s*[^\n]+)")
SOURCE = re.compile(r"Source:\s*(.+?)(?=\n\s*\n|\n\s*[A-Z][a-z]+:\s|\Z)", re.S)
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def equations_page(root: Path) -> str:
    """Markdown for the sources below `root`."""
    rows = []
    for folder in ("common", "projects"):
        for path in sorted((root / folder).rglob("*.py")):
            name = path.relative_to(root).as_posix()
            for symbol, source in dict.fromkeys(sources(path.read_text(encoding="utf-8"))):
                cells = f"`{name}`", f"`{symbol}`" if symbol else "", source.replace("|", "\\|")
                rows.append(f"| {' | '.join(cells)} |\n")
    return HEAD + "".join(rows)


def sources(text: str) -> list[tuple[str, str]]:
    r"""Symbol and source of every mark in a module, in the order of the file.

    The symbol of the module's docstring is empty.

    >>> sources("def square(x):\n    return x * x  # Eq. 1\n")
    [('square', 'Eq. 1')]
    """
    if "Source:" not in text and not MARK.search(text):
        return []
    tree = ast.parse(text)
    spans = sorted(definitions(tree), key=lambda span: span[0])  # an inner one follows its outer
    marks: list[tuple[int, str, str]] = []
    for first, _, name, node in [(1, 0, "", tree), *spans]:
        for match in SOURCE.finditer(ast.get_docstring(node) or ""):
            marks.append((first, name, " ".join(match[1].split())))
    for number, line in enumerate(text.splitlines(), 1):
        if (match := MARK.search(line)) is not None:
            around = [name for first, last, name, _ in spans if first <= number <= last]
            marks.append((number, around[-1] if around else "", match[1].strip()))
    return [(name, source) for _, name, source in sorted(marks, key=lambda mark: mark[0])]


def definitions(node: ast.AST, outer: str = "") -> Iterator[tuple[int, int, str, Definition]]:
    """First line, last line, dotted name and node of every function and class."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Definition):
            name = f"{outer}.{child.name}" if outer else child.name
            yield child.lineno, child.end_lineno or child.lineno, name, child
            yield from definitions(child, name)
        else:
            yield from definitions(child, outer)
