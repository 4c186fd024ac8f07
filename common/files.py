"""Files: replaced whole and synced; text that is UTF-8; no pipe or device in place of a file."""

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from common.config import UserError

KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
}


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file alongside `path`, which takes its place when the block ends.

    The file is synced before it is renamed and its folder after, so that a kill, a full disk or a
    loss of power leaves the old content or the new one. Several processes may write the same file.

    Args:
        path: the file; its folder is created if needed.

    Raises:
        OSError: it cannot be written; an older file is unchanged.
        UserError: a pipe, a device or a socket would be replaced.
    """
    refuse_special(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # a short name: that of the file may be as long as the file system allows
    temporary = path.with_name(f".{path.name[:40]}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.touch(exist_ok=False)
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # some libraries write what only their owner may read
        sync(temporary)
        temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # not every file system can sync a folder
        sync(path.parent)


@contextlib.contextmanager
def replacing_together(*paths: Path) -> Iterator[list[Path]]:
    """Temporary files alongside `paths`, whose rows belong together, such as vectors and names.

    All are complete, and older ones gone, before they get their names: a kill leaves the old files,
    or the new ones, or some of them missing, and never names of other vectors.

    Raises:
        OSError: one of them cannot be written; older files are unchanged.
        UserError: a pipe, a device or a socket would be replaced.
    """
    with contextlib.ExitStack() as stack:
        temporary = [stack.enter_context(replacing(path)) for path in paths]
        yield temporary
        for path in temporary:
            sync(path)  # a full disk is reported before an older file goes
        for path in paths[:-1]:  # the stack ends with the last one, which goes first
            path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file by `replacing`."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_bytes(path: Path, content: bytes) -> None:
    """Write a binary file by `replacing`."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def sync_all(folder: Path) -> None:
    """`sync` of all files and folders in a folder, and of itself."""
    for place in (*folder.rglob("*"), folder):
        if not place.is_symlink():
            sync(place)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def refuse_special(path: Path) -> None:
    """Refuse a pipe, a device or a socket, which may give bytes without end, or none.

    Raises:
        UserError: it is one; a file, a folder and a missing path pass.
    """
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except OSError:
        return
    if kind not in (stat.S_IFREG, stat.S_IFDIR):
        raise UserError(f"{path} is {KINDS.get(kind, 'no file')}: give a regular file")


def utf8(content: bytes, path: Path, line: int) -> str:
    """Text of bytes.

    Args:
        content: of one line or more.
        path: where it is from, for the message.
        line: number of its first line, from 1 on.

    Raises:
        UserError: it is not UTF-8; names file, line and byte.
    """
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        at = line + content[: error.start].count(b"\n")
        raise UserError(f"{path}, line {at}: {not_utf8(error)}") from error


def not_utf8(error: UnicodeDecodeError) -> str:
    """What is wrong with a text of another encoding, and what to do."""
    return (
        f"byte 0x{error.object[error.start]:02x} is not UTF-8; save the file as UTF-8, such as by "
        "iconv -f latin1 -t utf-8"
    )
