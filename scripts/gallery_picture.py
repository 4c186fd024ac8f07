"""One picture of a run's gallery for a README: queries to the left, what was found to the right.

python scripts/gallery_picture.py "runs/laclip/mini/<id>/gallery/queries to scenes"
docs/images/scenes.png --rows 0 1 2
"""

import argparse
import json
import textwrap
from itertools import zip_longest
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

CELL, GAP, TEXT_WIDTH, CAPTION = 96, 12, 190, 34  # pixels
RIGHT, WRONG, INK = "#2a9d55", "#d4d4d4", "#222222"


def picture(folder: Path, rows: list[int], columns: int) -> Image.Image:
    """Rows of a gallery (see `Workspace.gallery`).

    Frames say what is right, where that is known.
    """
    content = json.loads((folder / "gallery.json").read_text(encoding="utf-8"))
    chosen = [content[row] for row in rows] if rows else content[:4]
    table = [[{"item": row["query"]}, *row["results"][:columns]] for row in chosen]
    captioned = any("image" in cell["item"] and cell.get("name") for row in table for cell in row)
    widths = [max(map(_width, column)) for column in zip_longest(*table)]
    height = CELL + GAP + (CAPTION if captioned else 0)
    size = GAP + sum(widths) + GAP * len(widths), GAP + len(table) * height
    canvas = Image.new("RGB", size, "white")
    for number, row in enumerate(table):
        left = GAP
        for cell, width in zip(row, widths, strict=False):
            _draw(canvas, cell, folder, (left, GAP + number * height), width)
            left += width + GAP
    return canvas


def _width(cell: dict[str, Any] | None) -> int:
    """Of the column that a cell needs."""
    if cell is None or ("image" in cell["item"] and not cell.get("name")):
        return CELL
    return TEXT_WIDTH if "text" in cell["item"] else 150


def _draw(
    canvas: Image.Image, cell: dict[str, Any], folder: Path, at: tuple[int, int], width: int
) -> None:
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(13)
    middle = at[0] + width // 2
    if "image" in cell["item"]:
        left = at[0] + (width - CELL) // 2
        with Image.open(folder / cell["item"]["image"]) as shown:
            shown = shown.convert("RGB").resize((CELL, CELL), Image.Resampling.LANCZOS)
        canvas.paste(shown, (left, at[1]))
        if "correct" in cell:
            frame = left - 4, at[1] - 4, left + CELL + 3, at[1] + CELL + 3
            draw.rectangle(frame, outline=RIGHT if cell["correct"] else WRONG, width=4)
        lines = textwrap.wrap(str(cell.get("name", "")), 22)[:2]
        draw.multiline_text(
            (middle, at[1] + CELL + 6), "\n".join(lines), INK, font, "ma", align="center"
        )
        return
    lines = textwrap.wrap(str(cell["item"]["text"]), 28)
    place = middle, at[1] + CELL // 2
    draw.multiline_text(place, "\n".join(lines), INK, font, "mm", align="center")


def main() -> None:
    """Draw and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("gallery", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--rows", type=int, nargs="*", default=[])
    parser.add_argument("--columns", type=int, default=5)
    args = parser.parse_args()
    picture(args.gallery, args.rows, args.columns).save(args.output, optimize=True)


if __name__ == "__main__":
    main()
