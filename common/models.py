"""Exported models: ``load(folder)`` opens what ``make export`` of any project wrote."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.config import UserError
from common.damage import reading
from common.registry import load_project

ABOUT = "exported.json"  # alongside the weights: the project whose `load` reads the folder


@dataclass(frozen=True)
class About:
    """Origin of an exported folder, as it was recorded.

    Attributes:
        project: slug.
        config: name of the config that the model was trained with.
        version: of this package.
        overrides: ``a.b=value`` on top of that config; of folders of older versions not known.
    """

    project: str
    config: str
    version: str
    overrides: tuple[str, ...] = ()


def load(folder: str | Path) -> Any:
    """The model of an exported folder, on the CPU and in eval mode, as its project's card uses it.

    A sentence or passage encoder has ``encode`` and ``similarity``, a pair of towers encodes and
    classifies, a recommender is called with a list of items; the cards show each in five lines.

    Args:
        folder: written by ``make export`` or `common.engine.trained.export`; may have been moved.

    Raises:
        UserError: no such folder, or one that no project of this repository exported.
    """
    place = Path(folder)
    return load_project(about(place).project).load(place)


def about(folder: Path) -> About:
    """Read the origin of an exported folder.

    Raises:
        UserError: no such folder, or one that no project of this repository exported.
    """
    path = folder / ABOUT
    if not path.is_file():
        problem = f"it has no {ABOUT}" if folder.is_dir() else "there is no such folder"
        raise UserError(
            f"{folder} is not an exported model, {problem}: write one with make export PROJECT=..."
        )
    with reading(path, "description of an exported model"):
        contents = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(contents, dict):
            raise ValueError("it has no object")
        words = contents.get("overrides", [])
        if not isinstance(words, list):
            raise ValueError("overrides is a list")
        project, config, version = (str(contents[key]) for key in ("project", "config", "version"))
        return About(project, config, version, tuple(map(str, words)))
