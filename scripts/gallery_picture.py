"""One picture of a run's gallery for a README: queries to the left, what was found to the right.

python scripts/gallery_picture.py "runs/rtd/mini/<id>/gallery/composed queries"
docs/images/composed.png --rows 0 3 5
"""

import argparse
import json
import textwrap
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

CELL, GAP, TEXT_WIDTH, CAPTION = 96, 10, 150, 34  # pixels
RIGHT, WRONG, INK = "#2a9d55", "#c8402f", "#222222"


def picture(folder: Path, rows: list[int], columns: int) -> Image.Image:
    """Rows of a gallery (see `Workspace.gallery`).

    Frames say what is right, where that is known.
    """
    content = json.loads((folder / "gallery.json").read_text(encoding="utf-8"))
    chosen = [content[row] for row in rows] if rows else content[:4]
    height = CELL + CAPTION + GAP
    width = GAP + max(len(_cells(entry, columns)) for entry in chosen) * (TEXT_WIDTH + GAP)
    canvas = Image.new("RGB", (width, len(chosen) * height + GAP), "white")
    for number, entry in enumerate(chosen):
        for place, cell in enumerate(_cells(entry, columns)):
            _draw(canvas, cell, folder, (GAP + place * (TEXT_WIDTH + GAP), GAP + number * height))
    return canvas


def _cells(entry: dict[str, Any], columns: int) -> list[dict[str, Any]]:
    return [{"item": entry["query"]}, *entry["results"][:columns]]


def _draw(canvas: Image.Image, cell: dict[str, Any], folder: Path, at: tuple[int, int]) -> None:
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(12)
    left = at[0] + (TEXT_WIDTH - CELL) // 2
    if "image" in cell["item"]:
        with Image.open(folder / cell["item"]["image"]) as shown:
            shown = shown.convert("RGB").resize((CELL, CELL), Image.Resampling.LANCZOS)
        canvas.paste(shown, (left, at[1]))
        if "correct" in cell:
            frame = left - 3, at[1] - 3, left + CELL + 2, at[1] + CELL + 2
            draw.rectangle(frame, outline=RIGHT if cell["correct"] else WRONG, width=3)
        words = str(cell.get("name", ""))
    else:
        words = str(cell["item"]["text"])
    lines = textwrap.wrap(words, 24)[:2]
    top = at[1] + (CELL + 6 if "image" in cell["item"] else CELL // 2 - 8)
    draw.multiline_text(
        (at[0] + TEXT_WIDTH // 2, top), "\n".join(lines), INK, font, "ma", align="center"
    )


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
