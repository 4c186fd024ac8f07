"""Chunks of a mapping on disk: one file of JSON lines each, which is complete or absent."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.config import UserError
from common.data.offline import claim
from common.files import replacing, write_bytes

MANIFEST = "manifest.json"


class Parts:
    """The files ``part-000000.jsonl``, ... of a folder, and the manifest of what they depend on.

    Args:
        folder: one per mapping; created if it does not exist.
        num_rows: N.
        chunk_size: rows in every file but the last.
        manifest: what the rows depend on, as plain values.
        name: of the mapping, for messages.

    Raises:
        UserError: the folder was made with another manifest; the message names the keys.
    """

    def __init__(
        self,
        folder: Path,
        num_rows: int,
        chunk_size: int,
        manifest: Mapping[str, Any],
        name: str = "row map",
    ) -> None:
        self.folder, self.num_rows, self.chunk_size = folder, num_rows, chunk_size
        layout = {"num_rows": num_rows, "chunk_size": chunk_size}
        claim(folder, {**manifest, **layout}, f"folder of '{name}',", MANIFEST)

    @classmethod
    def opened(cls, folder: Path) -> "Parts":
        """The files of an existing folder, whatever they depend on.

        Raises:
            UserError: it has no such files.
        """
        try:
            manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
            num_rows, chunk_size = (int(manifest.pop(name)) for name in ("num_rows", "chunk_size"))
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{folder} has no finished rows of a task: {error!r}") from error
        return cls(folder, num_rows, chunk_size, manifest)

    @property
    def num_chunks(self) -> int:
        """Files of a complete mapping."""
        return -(-self.num_rows // self.chunk_size)

    def bounds(self, chunk: int) -> range:
        """Rows of a chunk."""
        start = chunk * self.chunk_size
        return range(start, min(start + self.chunk_size, self.num_rows))

    def path(self, chunk: int) -> Path:
        """File of a chunk."""
        return self.folder / f"part-{chunk:06d}.jsonl"

    def missing(self, chunks: Iterable[int]) -> list[int]:
        """Those of the given chunks that are not there yet."""
        return [chunk for chunk in chunks if not self.path(chunk).is_file()]

    def write(self, chunk: int, content: bytes) -> None:
        """Put a chunk in its place; a kill leaves the old state or the new one."""
        write_bytes(self.path(chunk), content)

    def rows(self) -> Iterator[Any]:
        """All rows in order, one chunk in memory at a time.

        Raises:
            UserError: a chunk is missing or damaged.
        """
        for chunk in range(self.num_chunks):
            path = self.path(chunk)
            try:
                rows = [json.loads(line) for line in path.read_bytes().splitlines()]
            except (FileNotFoundError, ValueError):
                rows = []
            if len(rows) != len(self.bounds(chunk)):
                raise UserError(
                    f"{path} is missing or damaged: delete it if it is there, and start the same "
                    "command again"
                )
            yield from rows


def encoded(rows: Sequence[Any]) -> bytes:
    """JSON lines: no line break inside a row, the same bytes for equal rows on every machine."""
    lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows]
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogatepass")


def write_joined(path: Path, lines: Iterable[str]) -> None:
    """Write a text file line by line under a temporary name, then give it its own."""
    with (
        replacing(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="\n") as file,
    ):
        file.writelines(f"{line}\n" for line in lines)


def rows_digest(rows: Iterable[Any]) -> str:
    """SHA-256 of rows in their order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()
