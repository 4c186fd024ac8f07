"""Files of a folder that any number of processes write together, each of them once."""

import fcntl
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common.data.offline import claim

POLL_SECONDS = 0.5
LOCKS = "shards.lock"


def fill_shards(
    folder: Path,
    owner: Mapping[str, Any],
    paths: Sequence[Path],
    write: Callable[[int], None],
    *,
    wait: bool = True,
) -> bool:
    """Write the files of a folder that are missing, together with other processes.

    Args:
        folder: of the files.
        owner: what their content depends on, see `claim`.
        paths: of the shards.
        write: writes the file of a shard as a whole, see `replacing`.
        wait: whether to wait for files that other processes write.

    Returns:
        Whether all files are there.

    Raises:
        UserError: the folder belongs to another owner.
    """
    claim(folder, owner, "folder of shards")
    while missing := [i for i, path in enumerate(paths) if not path.is_file()]:
        worked = False
        for shard in missing:
            with _claimed(folder, shard) as free:
                if free and not paths[shard].is_file():
                    for left_over in folder.glob(f".{paths[shard].name}.*.tmp"):  # of one killed
                        left_over.unlink()
                    write(shard)
                    worked = True
        if not worked:
            if not wait:
                return False
            time.sleep(POLL_SECONDS)
    return True


@contextmanager
def _claimed(folder: Path, shard: int) -> Iterator[bool]:
    """Whether this process may encode a shard: it locks one byte of a file while it does."""
    handle = os.open(folder / LOCKS, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, shard)
        except OSError:
            yield False
        else:
            yield True
    finally:
        os.close(handle)  # frees the byte
