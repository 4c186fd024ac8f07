#!/usr/bin/env python3
"""README's table of projects and its count of claims, and the figure of both: `make tables`.

Run it after a merge, not in a project's own branch: branches that leave the table alone do not
conflict in it.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from common.engine.comparison.evidence import evidence_rows  # noqa: E402
from common.engine.comparison.pages import (  # noqa: E402
    counts,
    evidence_picture,
    project_table,
    read_results,
)
from common.registry import field_of, list_projects  # noqa: E402


def between(text: str, name: str, content: str) -> str:
    """The text with `content` between the markers of that name.

    Raises:
        ValueError: the markers are missing.
    """
    block = re.compile(rf"(<!-- {name}:begin -->\n).*?(<!-- {name}:end -->)", re.S)
    if not block.search(text):
        raise ValueError(f"no '<!-- {name}:begin -->' ... '<!-- {name}:end -->' block")
    return block.sub(lambda m: m[1] + content + m[2], text)


def main() -> None:
    """Write README.md and the figure."""
    projects, rows = list_projects(), evidence_rows()
    fields = {slug: field_of(slug) for slug in projects}
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    table = project_table(projects, read_results(ROOT / "results"), fields)
    text = between(text, "projects", table)
    text = between(text, "evidence", counts(rows) + "\n")
    readme.write_text(text, encoding="utf-8")
    (ROOT / "docs/images/evidence.svg").write_text(evidence_picture(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
