#!/usr/bin/env python3
"""README's table of projects, docs/evidence.md, its figure and counts: `make tables`.

Run it after a merge, not in a project's own branch: branches that leave the table alone do not
conflict in it.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from common.engine.comparison.evidence import (  # noqa: E402
    evidence_rows,
    project_table,
    write_evidence,
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
    """Write README.md, docs/evidence.md and the figure."""
    projects, rows = list_projects(), evidence_rows()
    fields = {slug: field_of(slug) for slug in projects}
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    text = between(text, "projects", project_table(projects, fields, rows))
    readme.write_text(text, encoding="utf-8")
    write_evidence(rows)


if __name__ == "__main__":
    main()
