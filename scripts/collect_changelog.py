#!/usr/bin/env python3
"""Move the fragments of docs/changelog.d into the section "Unreleased" of CHANGELOG.md."""

import re
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KINDS = ("Added", "Changed", "Fixed", "Results")
DEFAULT = "Changed"  # bullets without a heading


def read_fragment(text: str, name: str) -> dict[str, str]:
    """Bullets of a fragment by heading.

    Raises:
        ValueError: an unknown heading, or no bullet.
    """
    found: dict[str, str] = {}
    for part in re.split(r"^(?=### )", text, flags=re.M):
        heading, _, body = part.partition("\n") if part.startswith("### ") else ("", "", part)
        kind = heading.removeprefix("### ").strip() or DEFAULT
        if kind not in KINDS:
            raise ValueError(f"{name}: heading '{kind}' is none of {', '.join(KINDS)}")
        if body.strip():
            found[kind] = found.get(kind, "") + body.strip() + "\n"
    if not found or not all(body.startswith("- ") for body in found.values()):
        raise ValueError(f"{name}: a fragment holds bullets ('- ...')")
    return found


def merged(changelog: str, fragments: Mapping[str, str]) -> str:
    """The changelog with the bullets of all fragments at the ends of their sections.

    Args:
        changelog: its text; a section "Unreleased" is made if there is none.
        fragments: file name -> text.
    """
    new: dict[str, str] = {}
    for name in sorted(fragments):
        for kind, body in read_fragment(fragments[name], name).items():
            new[kind] = new.get(kind, "") + body
    if "## Unreleased\n" not in changelog:
        head, mark, tail = changelog.partition("\n## ")
        changelog = f"{head.rstrip()}\n\n## Unreleased\n" + (f"\n## {tail}" if mark else "")
    start = changelog.index("## Unreleased\n") + len("## Unreleased\n")
    end = changelog.find("\n## ", start)
    end = len(changelog) if end < 0 else end
    pieces = re.split(r"^### (\w+)\n", changelog[start:end], flags=re.M)
    sections = {k: body.strip() for k, body in zip(pieces[1::2], pieces[2::2], strict=True)}
    for kind, body in new.items():
        sections[kind] = f"{sections.get(kind, '')}\n{body}".strip()
    order = [*KINDS, *(kind for kind in sections if kind not in KINDS)]
    shown = [f"### {kind}\n\n{sections[kind]}\n" for kind in order if kind in sections]
    intro = f"{pieces[0].strip()}\n\n" if pieces[0].strip() else ""
    return changelog[:start] + "\n" + intro + "\n".join(shown) + changelog[end:]


def main(root: Path) -> int:
    """Collect, write and delete; nothing is deleted if a fragment cannot be read."""
    folder = root / "docs" / "changelog.d"
    paths = [path for path in sorted(folder.glob("*.md")) if path.name != "README.md"]
    try:
        texts = {path.name: path.read_text(encoding="utf-8") for path in paths}
        target = root / "CHANGELOG.md"
        target.write_text(merged(target.read_text(encoding="utf-8"), texts), encoding="utf-8")
    except ValueError as error:
        print(error)
        return 2
    for path in paths:
        path.unlink()
        print(f"collected: {path.relative_to(root)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(ROOT))
