"""Lines of text files: by index without holding them in memory, or all at once."""

import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from common.config import UserError
from common.damage import ERRORS, reading
from common.files import replacing, utf8

CACHE_FROM_BYTES = 1 << 24  # smaller files are indexed in memory at every start


class LineFile:
    """Lines of a UTF-8 text file by index.

    The file and its table of line starts are memory-mapped; the table of a large file is built once
    and kept alongside it (in memory where that folder is read-only).

    Args:
        path: the file.

    Raises:
        UserError: the file does not exist, or is not UTF-8.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise UserError(f"text file {self.path} does not exist")
        self._written = _written(self.path)
        self._bounds = cached_index(self.path, "lines", line_bounds)
        self._bytes: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self._bounds)

    def __getitem__(self, index: int) -> str:
        """Line without its line break or a byte order mark."""
        if not 0 <= index < len(self):
            raise IndexError(f"line {index} of {len(self)} in {self.path}")
        return self.span(*self._bounds[index])

    def part(self, start: int, stop: int) -> list[str]:
        """Consecutive lines as `__getitem__` returns them, by one read that maps no page."""
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"lines {start} to {stop} of {len(self)} in {self.path}")
        if start == stop:
            return []
        self._check()
        offset = int(self._bounds[start, 0])
        with self.path.open("rb") as file:
            file.seek(offset)
            content = file.read(int(self._bounds[stop - 1, 1]) - offset)
        bounds = (self._bounds[start:stop] - offset).tolist()
        return [self._text(content[a:b], offset + a) for a, b in bounds]

    def span(self, start: int, end: int) -> str:
        """Text between two byte offsets, without a byte order mark and a trailing line break.

        Raises:
            UserError: the file has changed since it was opened, so its lines are elsewhere.
        """
        self._check()
        if self._bytes is None:
            self._bytes = np.memmap(self.path, np.uint8, "r")
        return self._text(self._bytes[start:end].tobytes(), start)

    def _check(self) -> None:
        if _written(self.path) != self._written:
            raise UserError(
                f"{self.path} was changed while it was read: leave it alone during a run, and start"
                " again"
            )

    def _text(self, content: bytes, start: int) -> str:
        try:
            text = content.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError:  # an index of a version that did not check
            text = utf8(content, self.path, self.line_at(start) + 1)
        return text.removeprefix("\ufeff") if start == 0 else text

    def line_at(self, offset: int) -> int:
        """Number of the line, from 0 on, that holds a byte."""
        return int(np.searchsorted(self._bounds[:, 0], offset, side="right")) - 1

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_bytes": None}  # loader processes map it themselves


def _written(path: Path) -> tuple[int, int, int]:
    """What changes when a file is replaced or written to."""
    stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def read_lines(path: Path) -> list[str]:
    """Lines of a UTF-8 text file in memory, split at line feeds only.

    A carriage return before a line feed and a byte order mark are no text.

    Raises:
        UserError: there is no such file, or it is not UTF-8.
    """
    if not path.is_file():
        raise UserError(f"there is no text file {path}: expected one text per line")
    with reading(path, "text file in UTF-8"), path.open(encoding="utf-8-sig", newline="") as file:
        text = file.read()
    lines = text.removesuffix("\n").split("\n") if text else []
    return [line.removesuffix("\r") for line in lines]


def one_line(text: str) -> str:
    """Collapse every run of white space, line breaks included, to one space."""
    return " ".join(text.split())


def line_bounds(file: BinaryIO) -> Iterator[tuple[int, int]]:
    """Byte range of every line, line break included.

    Raises:
        UserError: a line is not UTF-8.
    """
    start = 0
    for number, line in enumerate(file, 1):
        utf8(line, Path(file.name), number)
        yield start, start + len(line)
        start += len(line)


def cached_index(
    path: Path, name: str, build: Callable[[BinaryIO], Iterable[tuple[int, int]]]
) -> np.ndarray:
    """Table of byte ranges of a file; of a large file built once and memory-mapped from then on.

    Args:
        path: the file that is indexed.
        name: kind of the index, part of the cache's file name.
        build: yields (start, end) of each entry.

    Returns:
        (entries, 2) int64, read-only.
    """
    stat = path.stat()
    if stat.st_size < CACHE_FROM_BYTES:
        return _table(path, build)
    mark = hashlib.blake2b(f"{stat.st_size}-{stat.st_mtime_ns}".encode(), digest_size=6).hexdigest()
    cache = path.with_name(f".{path.name}.{name}-{mark}.npy")
    if not cache.is_file():
        table = _table(path, build)
        try:
            with replacing(cache) as temporary, temporary.open("wb") as file:
                np.save(file, table)
        except OSError:  # read-only folder: this process keeps the table
            return table
    try:
        return np.asanyarray(np.load(cache, mmap_mode="r", allow_pickle=False))
    except ERRORS:  # another user's, or damaged: this process makes its own
        return _table(path, build)


def _table(path: Path, build: Callable[[BinaryIO], Iterable[tuple[int, int]]]) -> np.ndarray:
    flat = array("q")
    with open(path, "rb") as file:
        for bounds in build(file):
            flat.extend(bounds)
    return np.array(flat, dtype=np.int64).reshape(-1, 2)
