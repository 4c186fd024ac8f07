"""Files that a user's data name: what can't be read is left out, counted and named, up to a share."""

from collections.abc import Callable, Sequence
from pathlib import Path

from common.config import UserError
from common.data.decode import decode_image

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
