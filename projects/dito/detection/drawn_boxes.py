"""Boxes with their names and masks on a picture."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

COLOURS = ("#d62728", "#1f77b4", "#2ca02c", "#ff7f0e", "#9467bd", "#8c564b", "#17becf", "#e377c2")
LEAST = 256  # smaller pictures are enlarged, so that names can be read
TINT = 110  # of 255, how much a mask hides


def draw_boxes(
    picture: Image.Image,
    boxes: Sequence[Sequence[float]],
    names: Sequence[str],
    scores: Sequence[float] | None = None,
    masks: Sequence[NDArray[np.bool_] | None] = (),
) -> Image.Image:
    """A copy with boxes; equal names have equal colours.

    Args:
        picture: RGB.
        boxes: x1, y1, x2, y2 in its pixels.
        names: of the boxes.
        scores: of the boxes, written behind the names.
        masks: (height, width) of each box; empty or None: without.
    """
    factor = max(1.0, LEAST / min(picture.size))
    image = picture.resize((round(picture.width * factor), round(picture.height * factor)))
    order = {name: i for i, name in enumerate(dict.fromkeys(names))}
    for name, mask in zip(names, masks, strict=False):
        if mask is not None:
            tint = Image.fromarray(mask.astype(np.uint8) * TINT).resize(image.size)
            image.paste(COLOURS[order[name] % len(COLOURS)], mask=tint)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default()
    for i, (box, name) in enumerate(zip(boxes, names, strict=True)):
        x0, y0, x1, y1 = (v * factor for v in box)
        colour = COLOURS[order[name] % len(COLOURS)]
        draw.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=colour, width=2)
        text = name if scores is None else f"{name} {scores[i]:.2f}"
        frame = draw.textbbox((x0 + 2, y0 + 1), text, font=font)
        draw.rectangle(frame, fill=colour)
        draw.text((x0 + 2, y0 + 1), text, fill="white", font=font)
    return image
