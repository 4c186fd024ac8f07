"""`make run TASK=index`: the published indices of YFCC15M, CC3M and CC12M as a CSV of pairs."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from common.config import UserError
from common.data.image_text.captions import IMAGE_SUFFIXES
from common.data.lines import one_line
from common.data.lookup import own_file
from common.data.plain_pickle import read_plain_pickle
from common.engine.workspace import Workspace
from common.files import replacing, write_text
from projects.clip_baselines.config import Config


class Pair(NamedTuple):
    """A row of an index."""

    image: str  # below the folder of images
    caption: str
    description: str = ""


def write_index(cfg: Config, workspace: Workspace) -> int:
    """Write ``<output>.csv``, and ``<output>_description.txt`` where the rows have a second text.

    The index is a pickle, of which plain values alone are read; nothing in it can run.

    Returns:
        The number of pairs.

    Raises:
        UserError: no input or output, an existing output, or a file of another form.
    """
    options = cfg.index
    if options.input is None or options.output is None:
        raise UserError("set index.input (yfcc15m.pkl, cc12m.npy, ...) and index.output (a name)")
    target = Path(options.output).expanduser()
    if target.suffix != ".csv":  # of a name such as cc12m-v1.0 nothing is cut off
        target = target.with_name(f"{target.name}.csv")
    if target.exists():
        raise UserError(f"{target} exists: remove it, or set another index.output")
    path = own_file(options.input, cfg.data.root, "index")
    rows = list(pairs_of(path))
    pairs = [pair for pair in rows if pair.image.endswith(IMAGE_SUFFIXES)]
    if not pairs:
        raise UserError(f"{path}: no image ends in {', '.join(IMAGE_SUFFIXES)} ({rows[0].image})")
    with replacing(target) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(pair[:2] for pair in pairs)
    if any(pair.description for pair in pairs):
        texts = target.with_name(f"{target.stem}_description.txt")
        write_text(texts, "".join(f"{pair.description}\n" for pair in pairs))
    left_out = len(rows) - len(pairs)
    workspace.say(f"{target}: {len(pairs)} pairs" + f", {left_out} of no image" * bool(left_out))
    return len(pairs)


def pairs_of(path: Path) -> Iterator[Pair]:
    """Rows (number, title, description) of YFCC15M, or {image_id or image_name, captions} of CC.

    Raises:
        UserError: rows of another form.
    """
    rows = read_plain_pickle(path)
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{path} holds no list of rows")
    for number, row in enumerate(rows):
        pair = _pair(row)
        if pair is None:
            raise UserError(
                f"{path}, row {number}: expected (number, title, description), or a dictionary with"
                " image_id or image_name and captions"
            )
        yield pair


def _pair(row: Any) -> Pair | None:
    if isinstance(row, tuple | list) and len(row) == 3 and isinstance(row[0], int):
        digits = f"{row[0]:08d}"  # ABCDEFGH is FGH.jpg of the archive AB/CDE.zip
        image = f"{digits[:2]}/{digits[2:5]}/{digits[5:]}.jpg"
        return Pair(image, *(one_line(str(text)) for text in row[1:]))
    if not isinstance(row, dict) or not isinstance(row.get("captions"), tuple | list):
        return None
    name, texts = row.get("image_id", row.get("image_name")), row["captions"]
    if name is None or not texts:
        return None
    return Pair(str(name), *(one_line(str(text)) for text in texts[:2]))
