#!/usr/bin/env python3
"""Refuse large files, private keys and files without a final newline (pre-commit hook)."""

import re
import sys
from pathlib import Path

LIMIT = 500_000
# the first line of a key: of PEM with any words (RSA, EC, OPENSSH, ENCRYPTED, PGP, ...) or none, of
# SSH2, of PuTTY; written so that this file itself does not hold one
PRIVATE_KEY = re.compile(
    rb"----[- ]BEGIN (?:[A-Z0-9]+ )*PRIVATE[ ]KEY|^PuTTY-User-Key-File[-]\d+:", re.MULTILINE
)


def problems(path: Path) -> list[str]:
    """What is wrong with one file."""
    content = path.read_bytes()
    found = []
    if len(content) > LIMIT:
        found.append(f"{path}: {len(content):,} bytes (limit {LIMIT:,})")
    if PRIVATE_KEY.search(content):
        found.append(f"{path}: holds a private key")
    if content and b"\0" not in content and not content.endswith(b"\n"):
        found.append(f"{path}: no newline at the end")
    return found


if __name__ == "__main__":
    errors = [line for name in sys.argv[1:] for line in problems(Path(name))]
    print("\n".join(errors))
    sys.exit(bool(errors))
