"""Table of docs/architecture.md: one row for each folder of common, from its docstring.

The first line of a face says what lives in the room, its line ``Never here:`` what never does. So a
new room is its folder alone.
"""

import ast
from pathlib import Path

HEAD = "| room | what lives here | what never does |\n|---|---|---|\n"
NEVER = "Never here:"


def rooms_table(root: Path) -> str:
    """The table for the folders of ``common`` below `root`."""
    rows = []
    for face in sorted((root / "common").glob("*/**/__init__.py")):
        name = face.parent.relative_to(root).as_posix()
        here, never = described(face)
        rows.append(f"| [{name}](../{name}) | {here} | {never} |")
    return HEAD + "\n".join(rows) + "\n"


def described(face: Path) -> tuple[str, str]:
    """What lives in a room, and what never does (empty if its docstring doesn't say)."""
    doc = ast.get_docstring(ast.parse(face.read_text(encoding="utf-8"))) or ""
    paragraphs = [" ".join(part.split()) for part in doc.split("\n\n")]
    never = [p.removeprefix(NEVER).strip() for p in paragraphs if p.startswith(NEVER)]
    return paragraphs[0], " ".join(never)
