"""Figures of runs that are made but not rendered."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


@contextmanager
def unrendered() -> Iterator[None]:
    """Figures are made but not rendered, which takes most of a tiny run's time.

    An empty file stands in for the picture.
    """
    from common.engine.workspace import Workspace

    def figure(self: Workspace, name: str, figure: Any) -> Path:
        path = self.folder("plots") / f"{name}.png"
        path.write_bytes(b"")
        return path

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Workspace, "figure", figure)
        yield
