"""The command line in this process: exit code, what it said, and what it left behind."""

from collections.abc import Callable
from pathlib import Path

import pytest

from common import cli


@pytest.fixture
def command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, bool]]:
    """`command(*words)`: exit code, standard error, whether a run folder is there."""

    def command(*words: str) -> tuple[int, str, bool]:
        own = (
            [] if any(word.startswith("runs_dir=") for word in words) else [f"runs_dir={tmp_path}"]
        )
        code = cli.main([*words, *own])
        return code, capsys.readouterr().err, any(tmp_path.rglob("meta.json"))

    return command
