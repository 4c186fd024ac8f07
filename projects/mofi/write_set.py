"""The files of a finished set, and what is checked before they are written."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.config import UserError
from common.data.row_map.parts import write_joined
from common.engine.workspace import read_json, write_json
from projects.mofi.config import SelectConfig
from projects.mofi.data import TABLE
from projects.mofi.select import (
    Row,
    entity_table,
    frequency_filter,
    hand_check,
    split_by_score,
    statistics,
)

CHECK, REPORT = "hand_check.tsv", "report.json"


def check_folder(output: Path) -> None:
    """Refuse to replace the files of another set: their names do not depend on the output's.

    Raises:
        UserError: one is there, and report.json does not name this output.
    """
    report = output.with_name(REPORT)
    there = [p for p in (output, *map(output.with_name, (TABLE, CHECK, REPORT))) if p.exists()]
    last_report = read_json(report) if report.is_file() else None
    if there and not (isinstance(last_report, dict) and last_report.get("set") == output.name):
        raise UserError(
            f"{there[0]} exists and is not of this set: give build.output={output} a folder of its"
            f" own, or delete {TABLE}, {CHECK}, {REPORT} and the JSONL of the old set"
        )


def check_readable(rows: Sequence[Row], max_corrupt: float, scores: Path) -> None:
    """Refuse a set of which too many images cannot be read.

    Args:
        rows: with ``unreadable`` where an image was none.
        max_corrupt: share that is tolerated.
        scores: folder of the scores, which have to be computed again.

    Raises:
        UserError: see above.
    """
    wrong = [row["unreadable"] for row in rows if "unreadable" in row]
    if len(wrong) > max_corrupt * len(rows):
        raise UserError(
            f"{len(wrong)} of {len(rows)} images cannot be read, more than"
            f" data.max_corrupt={max_corrupt}; the first: {wrong[0]}. Look at build.images and the"
            f" files, delete {scores} and start again; or raise data.max_corrupt"
        )


def finish(
    rows: Sequence[Row], linked: Sequence[Row], output: Path, select: SelectConfig
) -> dict[str, Any]:
    """Both filters and all files.

    Args:
        rows: with CLIP scores.
        linked: the same before, with the entities of unreadable images.
        output: the JSONL.
        select: score threshold and frequency filter.

    Raises:
        UserError: no image keeps an entity.
    """
    kept, dropped = split_by_score(rows, select)
    left, numbers = frequency_filter(kept, select.min_images, select.cap)
    if not left:
        raise UserError(
            f"none of {len(rows)} images keeps an entity: lower select.threshold or "
            "select.min_images, or look at build.knowledge"
        )
    unreadable = [row["unreadable"] for row in rows if "unreadable" in row]
    summary = {
        "set": output.name,
        **statistics(left, linked, dropped),
        "num_unreadable": len(unreadable),
        "unreadable_first": unreadable[:20],
    }
    # first, so that a set that is broken off here is known as its own
    output.parent.mkdir(parents=True, exist_ok=True)
    write_json(output.with_name(REPORT), summary)
    lines = ["\t".join(("id", "name", "description", "count"))]
    table = entity_table(left, numbers)
    lines += ["\t".join(" ".join(str(cell).split()) for cell in entry) for entry in table]
    write_joined(output.with_name(TABLE), lines)
    write_joined(output.with_name(CHECK), hand_check(left))
    write_joined(output, (json.dumps(row, ensure_ascii=False) for row in left))
    return summary
