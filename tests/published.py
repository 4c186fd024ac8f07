"""What the repository publishes, looked at once: reading it takes half a minute of CPU time."""

from functools import cache

from common.engine.comparison.evidence import evidence_rows
from common.engine.comparison.pages import Row


@cache
def published_rows() -> list[Row]:
    """Every claim of every project."""
    return evidence_rows()
