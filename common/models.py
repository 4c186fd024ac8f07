"""Exported models: ``load(folder)`` opens what ``make export`` of any project wrote."""

import json
from pathlib import Path
from typing import Any

from common.config import UserError
from common.damage import reading
from common.registry import load_project

ABOUT = "exported.json"  # beside the weights: the project whose `load` reads the folder


def load(folder: str | Path) -> Any:
    """The model of an exported folder, on the CPU and in eval mode, as its project's card uses it.

    A sentence or passage encoder has ``encode`` and ``similarity``, a pair of towers encodes and
    classifies, a recommender is called with a list of items; the cards show each in five lines.

    Args:
        folder: written by ``make export`` or `common.engine.run.export`; may have been moved.

    Raises:
        UserError: no such folder, or one that no project of this repository exported.
    """
    place = Path(folder)
    return load_project(str(about(place)["project"])).load(place)


def about(folder: Path) -> dict[str, str]:
    """What an exported folder says of itself: ``project``, ``config``, ``version``.

    Raises:
        UserError: no such folder, or one that no project of this repository exported.
    """
    path = folder / ABOUT
    if not path.is_file():
        known = f"it has no {ABOUT}" if folder.is_dir() else "there is no such folder"
        raise UserError(
            f"{folder} is no exported model, {known}: write one with make export PROJECT=..."
        )
    with reading(path, "description of an exported model"):
        found = json.loads(path.read_text(encoding="utf-8"))
        return {key: str(found[key]) for key in ("project", "config", "version")}
