"""The Python examples of the projects' cards, run word for word on an exported model."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.config import ROOT
from common.models import ABOUT

BLOCK = re.compile(r"```python\n(.*?)```", re.S)
EXPORT = re.compile(r"runs/(?P<project>\w+)/(?P<config>\w+)/<id>/export")
# what no smoke run leaves behind: (project, number of the block) -> where it is run instead
ELSEWHERE = {
    ("cwcl", 1): "tests/projects/cwcl/test_speech.py: a model of speech",
    ("nv_embed", 1): "nowhere: it needs the released weights, 16 GB",
}


def snippets(project: str) -> list[str]:
    """The Python blocks of a card that a smoke run can serve."""
    card = (ROOT / "projects" / project / "README.md").read_text(encoding="utf-8")
    actual = BLOCK.findall(card)
    return [code for i, code in enumerate(actual) if (project, i) not in ELSEWHERE]


def at_hand(folder: Path) -> None:
    """The user's own files that examples name: a picture, a folder of code."""
    from PIL import Image

    Image.new("RGB", (64, 64), "red").save(folder / "photo.png")
    (folder / "src").mkdir()
    (folder / "src" / "lines.py").write_text(
        'def read_lines(path):\n    """Read all lines of a file."""\n    return'
        " open(path).readlines()\n"
    )


def exported_by(project: str, folder: Path, overrides: Sequence[str] = ()) -> None:
    """Write beside a model what `make export` writes, so that `common.models.load` opens it."""
    about = {"project": project, "config": "smoke", "version": "0", "overrides": [*overrides]}
    (folder / ABOUT).write_text(json.dumps(about))


def run_snippet(code: str, project: str, export: Path) -> dict[str, Any]:
    """Execute a block and return its names; its export folder is the given one, and nothing else is
    changed.

    Raises:
        AssertionError: the block names neither an export folder of the project nor a bundled model.
    """
    named = EXPORT.search(code)
    if named is None:
        assert "bundled:" in code, f"no 'runs/{project}/<config>/<id>/export' in\n{code}"
    else:
        assert named["project"] == project, code
    names: dict[str, Any] = {"__name__": project}
    exec(compile(EXPORT.sub(str(export), code), f"card of {project}", "exec"), names)
    return names


def run_card(project: str, export: Path) -> dict[str, Any]:
    """`run_snippet` of a card's first example on a model that an experiment has exported."""
    exported_by(project, export)
    return run_snippet(snippets(project)[0], project, export)
