"""Known vulnerabilities of the locked packages, from a folder, where no service can be reached.

    git clone https://github.com/pypa/advisory-database
    python scripts/advisories.py advisory-database/vulns

A folder of records in the OSV format, YAML or JSON, such as that one or the unpacked export of
osv.dev. What was published later than the newest record is unknown, so its date is printed. Ends
with 1 if a package is affected, with 2 if nothing could be compared.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import yaml
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

ROOT = Path(__file__).resolve().parents[1]
PIN = re.compile(r"^([\w.-]+)==([^\s;\\]+)", re.MULTILINE)
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
OLD = 30  # days


def locked(path: Path) -> list[tuple[str, str]]:
    """(package, version) of a lock file, where a package may have several for several Pythons."""
    return [(canonicalize_name(n), v) for n, v in PIN.findall(path.read_text(encoding="utf-8"))]


def records(folder: Path) -> Iterator[dict[str, Any]]:
    """All that are not withdrawn."""
    for path in sorted(folder.rglob("*")):
        if path.suffix not in (".yaml", ".json"):
            continue
        text = path.read_text(encoding="utf-8")
        record = json.loads(text) if path.suffix == ".json" else yaml.load(text, LOADER)
        if isinstance(record, dict) and "affected" in record and "withdrawn" not in record:
            yield record


def is_affected(version: str, affected: Mapping[str, Any]) -> bool:
    """Whether a version is listed, or lies in a range, of an entry of `affected`."""
    if version in affected.get("versions", ()):
        return True
    ranges = [r for r in affected.get("ranges", ()) if r.get("type") == "ECOSYSTEM"]
    return any(_is_inside(Version(version), each["events"]) for each in ranges)


def _is_inside(version: Version, events: Sequence[Mapping[str, str]]) -> bool:
    inside = False
    for event in sorted(events, key=_place):
        ((kind, at),) = event.items()
        if (
            at == "0"
            or version > Version(at)
            or (version == Version(at) and kind != "last_affected")
        ):
            inside = kind == "introduced"
    return inside


def _place(event: Mapping[str, str]) -> Version:
    return Version(next(iter(event.values())))


def findings(packages: Sequence[tuple[str, str]], folder: Path) -> tuple[list[str], int, str]:
    """(a line for each package and record that affects it, records read, day of the newest)."""
    versions: dict[str, list[str]] = {}
    for name, version in packages:
        versions.setdefault(name, []).append(version)
    lines, count, newest = set(), 0, ""
    for record in records(folder):
        count, newest = count + 1, max(newest, str(record.get("modified", ""))[:10])
        about = record.get("summary") or record.get("details", "").strip().split("\n")[0]
        for affected in record["affected"]:
            package = affected.get("package", {})
            name = canonicalize_name(package.get("name", ""))
            if package.get("ecosystem") != "PyPI":
                continue
            for version in versions.get(name, ()):
                try:
                    if is_affected(version, affected):
                        lines.add(f"{name} {version}: {record['id']} {about[:100]}")
                except InvalidVersion as error:
                    lines.add(f"{name} {version}: {record['id']} cannot be read: {error}")
    return sorted(lines), count, newest


def main(argv: Sequence[str] | None = None) -> int:
    """Compare; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--lock", type=Path, default=ROOT / "requirements.lock")
    args = parser.parse_args(argv)
    packages = locked(args.lock)
    lines, count, newest = findings(packages, args.folder)
    if not (packages and count):
        print(
            f"error: {args.folder} has {count} records in the OSV format and {args.lock.name}"
            f" {len(packages)} packages: nothing was compared",
            file=sys.stderr,
        )
        return 2
    print("\n".join(lines) or "no known vulnerability")
    print(f"{len(packages)} packages compared with {count} records, the newest of {newest}")
    if (age := (date.today() - date.fromisoformat(newest)).days) > OLD:
        print(f"warning: the newest record is {age} days old; what was published since is unknown")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
