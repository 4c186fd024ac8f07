"""Files that a user's data name: what can't be read is left out, counted and named, up to a share."""

from collections.abc import Callable, Sequence
from pathlib import Path

from common.config import UserError
from common.data.decode import decode_image
from common.data.image.class_folders import class_folders
from common.data.image.files import LabelledFiles

MOST = 0.05  # share of the files that may be missing or broken
NAMED = 5  # files that a message lists


def readable(
    paths: Sequence[Path],
    say: Callable[[str], None],
    *,
    what: str = "images",
    read: Callable[[Path], object] = decode_image,
) -> list[int]:
    """Which files can be read.

    Args:
        paths: N files.
        say: takes a line that counts and names the others.
        what: how the files are called.
        read: opens one; raises `OSError`, `ValueError` or `UserError` if it can't.

    Returns:
        Positions of the readable files, in order.

    Raises:
        UserError: more than `MOST` of the files can't be read.
    """
    bad: dict[int, str] = {}
    for place, path in enumerate(paths):
        try:
            read(path)
        except (OSError, ValueError, UserError) as error:
            bad[place] = f"{path} ({error})" if path.exists() else f"{path} (no such file)"
    if bad:
        names = "; ".join(list(bad.values())[:NAMED]) + ("; ..." if len(bad) > NAMED else "")
        count = f"{len(bad)} of {len(paths)} {what} cannot be read"
        if len(bad) > MOST * len(paths):
            raise UserError(
                f"{count}, more than {MOST:.0%}: repair them or take their rows out: {names}"
            )
        say(f"{count} and are left out: {names}")
    return [place for place in range(len(paths)) if place not in bad]


def readable_classes(
    folder: Path, say: Callable[[str], None]
) -> tuple[LabelledFiles, LabelledFiles, int, int]:
    """`class_folders` without the images that can't be read.

    Args:
        folder: of the class folders.
        say: see `readable`.

    Returns:
        Bank, test, how many files were left out, and how many images can't be read.

    Raises:
        UserError: see `class_folders` and `readable`.
    """
    bank, test, skipped = class_folders(folder)
    parts = (bank, test)
    paths = [part.path(i) for part in parts for i in range(len(part.paths))]
    kept = readable(paths, say)
    first = [i for i in kept if i < len(bank.paths)]
    second = [i - len(bank.paths) for i in kept if i >= len(bank.paths)]
    bank, test = (
        part._replace(paths=[part.paths[i] for i in rows], labels=part.labels[rows])
        for part, rows in zip(parts, (first, second), strict=True)
    )
    return bank, test, skipped, len(paths) - len(kept)
