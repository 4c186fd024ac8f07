"""The code behind a run or a result: commit, local changes, locked packages."""

import hashlib
import subprocess
from functools import cache
from typing import Any

from common import __version__
from common.config import ROOT

LOCK = "requirements.lock"
# what runs read; a card that `make compare` has written is not a change of the code
READ_BY_RUNS = ("common", "projects", "arena", "configs", "data", LOCK, ":(exclude)*.md")


def git(*words: str) -> str | None:
    """What a git command prints about the repository; None if it fails or there is no git."""
    try:
        done = subprocess.run(
            ["git", *words],
            cwd=ROOT,
            capture_output=True,
            encoding="utf-8",
            errors="backslashreplace",  # names of files
            timeout=60,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def code_state() -> dict[str, Any]:
    """Commit of the code (None without git), and whether files that runs read differ from it."""
    commit = git("rev-parse", "HEAD")
    return {
        "commit": commit,
        "dirty": bool(commit and git("status", "--porcelain", "--", *READ_BY_RUNS)),
    }


@cache
def code_identity() -> str:
    """What two processes have in common that run the same code, in 16 hexadecimal digits.

    That is version and commit, and name, size and time of each file that differs from the commit.
    """
    parts = [__version__, git("rev-parse", "HEAD")]
    changed = git("status", "--porcelain", "-z", "--untracked-files=all", "--", *READ_BY_RUNS)
    for entry in (changed or "").split("\0"):
        path = ROOT / entry.lstrip().partition(" ")[2].lstrip()
        state = path.stat() if path.is_file() else None
        parts.append(f"{entry} {state.st_size} {state.st_mtime_ns}" if state else entry)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def lock_hash() -> str | None:
    """Twelve hexadecimal digits of the locked packages; None where the file is missing."""
    path = ROOT / LOCK
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12] if path.exists() else None
