"""The evidence at a glance: one square for every claim, as a drawing for README and site."""

from collections.abc import Sequence
from html import escape

from common.engine.comparison.pages import FRESH, NOT_RUN, Row

COLOURS = {
    "supported": "#2a9d55",
    "not shown": "#e0a526",
    "contradicted": "#c8402f",
    "not testable here": "#7a5fb0",
    "void": "#9aa3ad",
    NOT_RUN: "#ffffff",
}
SIDE, GAP, LINE, NAME, WIDTH, EDGE = 14, 4, 22, 150, 400, 8  # pixels
COLUMNS = 2
FONT = "font-family='sans-serif' font-size='13'"


def evidence_picture(rows: Sequence[Row]) -> str:
    """SVG: a line for each project, a square for each claim, its colour the verdict.

    A square is pale where the result is stale, and has a dark edge where the method lies below a baseline that needs no
    training. The text of a square (shown by browsers) is the claim.
    """
    projects = list(dict.fromkeys(row.project for row in rows))
    height = -(-len(projects) // COLUMNS)
    drawn = [_legend()]
    for number, project in enumerate(projects):
        x, y = EDGE + number // height * WIDTH, (number % height + 2) * LINE
        own = [row for row in rows if row.project == project]
        drawn.append(f"<text x='{x}' y='{y + 12}' {FONT} fill='#333'>{escape(project)}</text>")
        drawn += [_square(row, x + NAME + i * (SIDE + GAP), y) for i, row in enumerate(own)]
    size = COLUMNS * WIDTH + EDGE, (height + 2) * LINE
    head = f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {size[0]} {size[1]}' width='{size[0]}'>"
    ground = f"<rect width='{size[0]}' height='{size[1]}' fill='#ffffff'/>"
    return "\n".join([head, ground, *drawn, "</svg>"]) + "\n"


def _square(row: Row, x: int, y: int) -> str:
    word = "void" if row.void else row.verdict
    edge = "#111" if row.below and word not in ("void", NOT_RUN) else "#777"
    pale = 0.45 if row.state not in (FRESH, NOT_RUN) else 1.0
    text = f"{row.claim}: {word} {row.here}".strip()
    wide = 2.5 if edge == "#111" else 0.8
    return (
        f"<rect x='{x}' y='{y}' width='{SIDE}' height='{SIDE}' fill='{COLOURS[word]}' fill-opacity='{pale}' "
        f"stroke='{edge}' stroke-width='{wide}'><title>{escape(text)}</title></rect>"
    )


def _legend() -> str:
    parts, x = [], EDGE
    for word, colour in COLOURS.items():
        parts.append(
            f"<rect x='{x}' y='6' width='{SIDE}' height='{SIDE}' fill='{colour}' stroke='#777'/>"
            f"<text x='{x + SIDE + GAP}' y='18' {FONT} fill='#333'>{word}</text>"
        )
        x += SIDE + 22 + 7 * len(word)
    return "".join(parts) + (
        f"<text x='{x}' y='18' {FONT} fill='#777'>pale: stale; dark edge: below a baseline</text>"
    )
