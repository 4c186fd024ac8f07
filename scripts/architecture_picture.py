"""SVG of the architecture: the layers of the import contract from top to bottom, with their rooms.

Drawn from pyproject.toml and the folders, so it cannot differ from what `make imports` checks.
"""

import tomllib
from collections.abc import Iterable
from html import escape
from pathlib import Path

WIDTH, ROW, EDGE, NAME = 1000, 30, 14, 150
FONT = "font-family='sans-serif'"
COLOURS = ("#fde9d9", "#e3edf9", "#e6f3e4", "#f5ecf8")
GROUPS = {  # layer -> which colour; what users run, the engine, the parts, what all stand on
    "projects": 0,
    "cli": 0,
    "families": 0,
    "engine": 1,
    "models": 1,
    "export": 1,
    "evaluation": 2,
    "decoding": 2,
    "data": 2,
    "losses": 2,
    "encoders": 2,
}


def architecture_picture(root: Path) -> str:
    """The picture for the repository below `root`."""
    layers = ["projects", *_layers(root)]
    rows = [_row(root, name, i) for i, name in enumerate(layers)]
    height = (len(layers) + 2) * ROW
    head = (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height}' width='{WIDTH}'>"
    )
    ground = f"<rect width='{WIDTH}' height='{height}' fill='#ffffff'/>"
    title = _text(EDGE, 20, "Imports go downwards alone; a project imports no other.", "#555", 13)
    return "\n".join([head, ground, title, *rows, "</svg>"]) + "\n"


def _layers(root: Path) -> list[str]:
    text = (root / "pyproject.toml").read_text(encoding="utf-8")
    contracts = tomllib.loads(text)["tool"]["importlinter"]["contracts"]
    found = next(c["layers"] for c in contracts if c["type"] == "layers")
    return [name.removeprefix("common.") for name in found]


def _row(root: Path, name: str, number: int) -> str:
    y = (number + 1) * ROW
    colour = COLOURS[GROUPS.get(name, 3)]
    folder = root / ("projects" if name == "projects" else f"common/{name}")
    modules = sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]
    rooms = [path.parent.name for path in sorted(folder.glob("*/__init__.py"))]
    what = f"{len(rooms)} papers" if name == "projects" else ", ".join(_shown(rooms))
    count = f"{len(modules)} module{'s' if len(modules) > 1 else ''}"
    return (
        f"<rect x='{EDGE}' y='{y}' width='{WIDTH - 2 * EDGE}' height='{ROW - 4}' rx='4' "
        f"fill='{colour}' stroke='#999'/>"
        + _text(EDGE + 8, y + 18, name, "#111", 14, "bold")
        + _text(NAME, y + 18, what, "#333", 13)
        + _text(WIDTH - EDGE - 96, y + 18, count, "#555", 13)
    )


def _shown(rooms: Iterable[str]) -> list[str]:
    return [room.replace("_", "-") for room in rooms]


def _text(x: int, y: int, text: str, colour: str, size: int, weight: str = "normal") -> str:
    return (
        f"<text x='{x}' y='{y}' {FONT} font-size='{size}' font-weight='{weight}' "
        f"fill='{colour}'>{escape(text)}</text>"
    )
