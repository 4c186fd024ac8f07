"""A loss of power: of every file only what was synced is left."""

import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.interrupted import die


class Disk:
    """What a disk has got of the files of a folder: of each its content at its last sync.

    Args:
        folder: of files.
        kept: where those contents are kept, by inode.
        at: number of syncs at which the power fails; 0: never.
    """

    def __init__(self, folder: Path, kept: Path, at: int = 0) -> None:
        self.folder, self.kept, self.at, self.syncs = folder, kept, at, 0
        kept.mkdir(parents=True, exist_ok=True)

    def fsync(self, handle: int, sync: Callable[[int], None] = os.fsync) -> None:
        """In place of ``os.fsync``."""
        sync(handle)
        place = Path(f"/proc/self/fd/{handle}")
        if place.is_file():
            # whole or not at all, since this process may be killed meanwhile
            copy = self.kept / secrets.token_hex(8)
            shutil.copyfile(place, copy)
            copy.replace(self.kept / str(place.stat().st_ino))
        self.syncs += 1
        if self.syncs == self.at:
            self.fail()
            die()

    def fail(self) -> None:
        """The power fails: every file is as it was when last synced, or empty."""
        for path in self.files():
            path.write_bytes(self.content(path))

    def files(self) -> list[Path]:
        """All files of the folder."""
        return [p for p in self.folder.rglob("*") if p.is_file()]

    def content(self, path: Path) -> bytes:
        """What would be left of a file."""
        kept = self.kept / str(path.stat().st_ino)
        return kept.read_bytes() if kept.exists() else b""

    def lost(self) -> set[str]:
        """Names of files that a loss of power would leave older or empty."""
        return {path.name for path in self.files() if path.read_bytes() != self.content(path)}
