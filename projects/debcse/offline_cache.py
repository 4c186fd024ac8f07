"""Values that are computed once and kept on disk."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.config import UserError
from common.data.offline import (
    CLAIM,
    KEY_BYTES,
    Item,
    Row,
    claim,
    content_digest,
    content_key,
)
from common.files import write_bytes

_START = b'{"key": "'


class OfflineCache:
    """Rows of an offline stage on disk, one JSON object each, found by their texts.

    Finished blocks are shards ``rows-*.jsonl`` that appear whole, so a stage that was stopped goes
    on with the first block that is missing. Only keys and places are held in memory.

    Args:
        folder: one folder per stage; created if it does not exist.
        settings: what the rows depend on besides their own texts, as plain values; None opens an
            existing cache whatever it was made with.

    Raises:
        UserError: the folder was made with other settings, is not a cache, or a shard is damaged.
    """

    def __init__(self, folder: str | Path, settings: Mapping[str, Any] | None) -> None:
        self.folder = Path(folder)
        if settings is not None:
            claim(self.folder, settings, "offline cache")
        elif not (self.folder / CLAIM).is_file():
            raise UserError(f"{folder} is not an offline cache: it has no {CLAIM}")
        self._places: dict[str, tuple[Path, int]] = {}
        for path in sorted(self.folder.glob("rows-*.jsonl")):
            self._index(path)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, item: Item) -> bool:
        return content_key(item) in self._places

    def missing(self, items: Sequence[Item]) -> list[int]:
        """Positions of the items that have no row, the first one of equal items."""
        places: dict[str, int] = {}
        for position, item in enumerate(items):
            key = content_key(item)
            if key not in self._places:
                places.setdefault(key, position)
        return list(places.values())

    def add(self, items: Sequence[Item], rows: Sequence[Row]) -> None:
        """Store the rows of some items as one shard.

        Raises:
            ValueError: another number of rows than items, no items, or a row that is not JSON.
        """
        if not items or len(items) != len(rows):
            raise ValueError(f"{len(items)} items need as many rows, got {len(rows)}")
        keys = [content_key(item) for item in items]
        lines = [
            json.dumps({"key": key, "row": row}, ensure_ascii=False, allow_nan=False)
            for key, row in zip(keys, rows, strict=True)
        ]
        path = self.folder / f"rows-{content_digest(keys)[:32]}.jsonl"
        write_bytes(path, "".join(f"{line}\n" for line in lines).encode())
        self._index(path)

    def fill(
        self,
        items: Sequence[Item],
        compute: Callable[[list[int]], Sequence[Row]],
        *,
        block_size: int = 1000,
        progress: Callable[[range], Iterable[int]] = iter,
    ) -> int:
        """Compute what is missing, a block at a time; equal items are computed once.

        Args:
            items: texts, or tuples of texts.
            compute: positions in `items` -> one row for each.
            block_size: items per call and per shard.
            progress: wraps the iterator over the first items of the blocks.

        Returns:
            Number of rows computed.
        """
        todo = self.missing(items)
        for start in progress(range(0, len(todo), block_size)):
            block = todo[start : start + block_size]
            self.add([items[i] for i in block], compute(block))
        return len(todo)

    def rows(self, items: Sequence[Item]) -> Iterator[Row]:
        """The rows of the items, in their order, read one by one.

        Raises:
            KeyError: an item has no row; see `fill`.
        """
        shard, file = None, None  # one is open at a time: a cache has more than a process may open
        try:
            for item in items:
                path, place = self._places[content_key(item)]
                if file is None or path != shard:
                    if file is not None:
                        file.close()
                    shard, file = path, path.open("rb")
                file.seek(place)
                row: Row = json.loads(file.readline())["row"]
                yield row
        finally:
            if file is not None:
                file.close()

    def _index(self, path: Path) -> None:
        place = 0
        with path.open("rb") as file:
            for line in file:
                if not (line.startswith(_START) and line.endswith(b"}\n")):
                    raise UserError(f"{path} is damaged at byte {place}: delete the file")
                key = line[len(_START) : len(_START) + 2 * KEY_BYTES].decode()
                self._places[key] = path, place
                place += len(line)
