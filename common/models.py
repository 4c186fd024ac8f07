"""Exported models: ``load(folder)`` opens what ``make export`` of any project wrote."""

import hashlib
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
    project = about(place).project
    check_unchanged(place)
    return load_project(project).load(place)


def checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of an exported folder but its own description."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / ABOUT)
    return {file.relative_to(folder).as_posix(): _sha256(file) for file in files}


def check_unchanged(folder: Path) -> None:
    """Compare an exported folder with the checksums that were written with it.

    Folders of versions before 0.2.0 have none.

    Raises:
        UserError: a file is missing or is another one: a tokenizer or config that does not belong
            to the weights changes results and raises no error.
    """
    with reading(folder / ABOUT, "description of an exported model"):
        recorded = json.loads((folder / ABOUT).read_text(encoding="utf-8")).get("files", {})
        recorded = {str(name): str(value) for name, value in dict(recorded).items()}
    for name, checksum in recorded.items():
        file = folder / name
        if not file.is_file() or _sha256(file) != checksum:
            what = "is not the file that was exported" if file.exists() else "is missing"
            raise UserError(
                f"{file} {what}: export the model again, or delete this file's entry in {ABOUT} if"
                " you changed it on purpose"
            )


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


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
