"""The task "search" of a project on two files of a user: indexed, kept, extended."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.engine.workspace import Workspace


def index_two_files(
    build: Callable[[Any], Any],
    config: Callable[..., Any],
    run: Path,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., str]:
    """Index a file, then extend the stored index by what is new in a second one.

    Args:
        build: of the project.
        config: of the project's tests, its smoke config with overrides.
        run: folder of a trained run.
        folder: for the files ``a.txt``, ``b.txt`` and ``q.txt`` (the query "work"), and for
            ``index``.
        capsys: where the task prints.

    Returns:
        ``search(*overrides)``: what the task prints for the query, over the stored index by
        default.
    """
    (folder / "a.txt").write_text("state of the world\npeople and houses\n")
    (folder / "b.txt").write_text("people and houses\nmen at work\n")
    (folder / "q.txt").write_text("work\n")
    words = [
        f"runs_dir={run.parents[2]}",
        f"search.run={run.name}",
        f"search.index={folder}/index",
        f"search.queries={folder}/q.txt",
        "search.k=9",
    ]

    def search(*further: str) -> str:
        cfg = config(*words, *further)
        build(cfg).tasks["search"](Workspace(folder / "task", run.parents[1].name, run.parent.name))
        return capsys.readouterr().out

    assert "2 texts indexed" in search(f"search.file={folder}/a.txt")
    assert "opened, 1 texts added" in search(f"search.file={folder}/b.txt")
    return search
