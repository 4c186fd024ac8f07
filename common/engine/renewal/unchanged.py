"""Baselines that need not run again, because nothing that they reach has changed."""

import hashlib
from pathlib import Path

from common.config import ROOT
from common.engine.comparison.dependencies import data_files
from common.engine.comparison.runs import BASELINES
from common.engine.comparison.symbols import reach
from common.registry import load_project

ENGINE = ("common.engine.comparison.baselines", "evaluate_baseline")  # what runs every baseline


def same_baseline(project: str, name: str, earlier: Path) -> bool:
    """Whether a baseline reaches the same code and bundled data in a folder of earlier code and in today's.

    Args:
        project: slug.
        name: of the baseline.
        earlier: the folder.
    """
    package = load_project(project).__name__
    entries = [ENGINE, (package, "Config"), (f"{package}.{BASELINES}", name)]
    found = []
    for root in (earlier, ROOT):
        texts = reach(root, entries)
        if root / Path(*package.split("."), f"{BASELINES}.py") not in texts:
            return False
        found.append({path.relative_to(root): text for path, text in texts.items()})
    if found[0] != found[1]:
        return False
    folders = {path.parent for path in data_files(reach(ROOT, entries), project)}
    return all(
        _contents(folder) == _contents(earlier / folder.relative_to(ROOT)) for folder in folders
    )


def _contents(folder: Path) -> dict[str, str]:
    """Hash of every file of a folder."""
    found = {}
    for path in sorted(path for path in folder.glob("*") if path.is_file()):
        with path.open("rb") as file:
            found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found
