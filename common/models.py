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
    about = place / ABOUT
    if not about.is_file():
        known = "it has no " + ABOUT if place.is_dir() else "there is no such folder"
        raise UserError(
            f"{place} is no exported model, {known}: write one with make export PROJECT=..."
        )
    with reading(about, "description of an exported model"):
        project = str(json.loads(about.read_text(encoding="utf-8"))["project"])
    return load_project(project).load(place)
