"""Checkpoint files that end with a checksum of their content.

A file of `torch.save` is a zip archive. Its comment, which every reader of zip archives passes
over, takes the SHA-256 of all bytes before the digits, so file and checksum get their name in one
rename.
"""

import contextlib
import hashlib
import os
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch

from common.config import UserError

MARK = b"sha256:"
DIGITS = 64
COMMENT = len(MARK) + DIGITS
END_RECORD = 22  # bytes of a zip's last record: its signature, ..., the comment's length
END_SIGNATURE = b"PK\x05\x06"
BLOCK = 1 << 22


class _HashedFile:
    """A file for `torch.save`, hashed on its way; the last bytes wait, since they will change."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest, self.waiting = file, hashlib.sha256(), b""
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        size = len(data)
        try:
            self._pass_on(self.waiting)
            self.waiting = b""
            if size > END_RECORD:
                self._pass_on(data)
            else:
                self.waiting = bytes(data)
        except OSError as error:  # torch reports something else
            self.error = error
            raise
        return size

    def flush(self) -> None:
        """Torch asks for it; `close` does it."""

    def close(self) -> None:
        """Write the end record with the comment."""
        if self.waiting[:4] != END_SIGNATURE or self.waiting[-2:] != b"\0\0":
            raise RuntimeError("torch.save no longer ends with the end record of a zip archive")
        self._pass_on(self.waiting[:-2] + COMMENT.to_bytes(2, "little") + MARK)
        self.file.write(self.digest.hexdigest().encode())
        self.file.flush()
        os.fsync(self.file.fileno())

    def _pass_on(self, data: Any) -> None:
        self.file.write(data)
        self.digest.update(data)


def write(content: Any, path: Path) -> None:
    """Save with a checksum: under a temporary name, synced, renamed.

    Raises:
        UserError: the file cannot be written, for instance because the disk is full; what lay at
            `path` is still there.
    """
    temporary = path.with_suffix(".tmp")
    file: _HashedFile | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as raw:
            file = _HashedFile(raw)
            torch.save(content, file)  # type: ignore[arg-type]
            file.close()
        temporary.replace(path)
        _sync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        reason = file.error if file is not None and file.error is not None else error
        if isinstance(reason, OSError):
            raise UserError(
                f"cannot write {path}: {reason.strerror}. What was saved before it is intact: "
                "mend this, then resume the run"
            ) from error
        raise


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint file, as "it ..."; None when it is as it was written.

    A file without a checksum (of another program, or of an older version) is checked by the
    checksums that the zip format has for its members.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            file.seek(max(0, size - COMMENT))
            tail = file.read()
            if tail.startswith(MARK) and len(tail) == COMMENT:
                found = _digest(file, size - DIGITS)
                wanted = tail[len(MARK) :].decode("ascii", errors="replace")
                return None if found == wanted else "does not match its checksum"
        bare = tail[-END_RECORD:]
        if bare[:4] != END_SIGNATURE or bare[-2:] != b"\0\0":
            return "is empty" if not size else "is cut off, or no checkpoint"
        with zipfile.ZipFile(path) as archive:
            member = archive.testzip()
        return None if member is None else f"does not match the checksum of its member {member}"
    except FileNotFoundError:
        return "is missing"
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError, EOFError) as error:
        return f"is unreadable ({error})"


def _digest(file: BinaryIO, size: int) -> str:
    """Of the first `size` bytes."""
    file.seek(0)
    digest = hashlib.sha256()
    while size > 0 and (block := file.read(min(BLOCK, size))):
        digest.update(block)
        size -= len(block)
    return digest.hexdigest()


def _sync_folder(folder: Path) -> None:
    """Make the new name survive a power cut, where the file system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
