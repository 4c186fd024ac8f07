"""Files that are damaged: which one it is, and what to do about it."""

import csv
import json
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.config import ROOT, UserError, first_line
from common.files import not_utf8

# what readers of npz, gzip, JSON and text raise on content that is cut off or overwritten
ERRORS = (
    OSError,
    AttributeError,
    csv.Error,
    OverflowError,
    EOFError,
    ValueError,
    KeyError,
    TypeError,
    RecursionError,
    zipfile.BadZipFile,
    zlib.error,
)


def remedy(path: str | Path) -> str:
    """What to do about a damaged file: those of the repository come back from git."""
    try:
        relative = Path(path).resolve().relative_to(ROOT)
    except ValueError:
        return "get it again"
    return (
        f"restore it by: git checkout -- '{relative}'"
        if relative.parts[0] == "data"
        else "get it again"
    )


@contextmanager
def reading(path: str | Path, what: str) -> Iterator[None]:
    """Turn whatever a reader raises on damaged content into one `UserError`.

    Args:
        path: the file that is read inside.
        what: it is, without an article, such as "packed LiDAR drive".

    Raises:
        UserError: names file, reason and remedy.
    """
    try:
        yield
    except UserError:
        raise
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not {_a(what)}: {not_utf8(error)}") from error
    except ERRORS as error:
        said = f"no array {error}" if isinstance(error, KeyError) else first_line(error)
        raise UserError(f"{path} is not {_a(what)}, or damaged ({said}): {remedy(path)}") from error


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def parse_json(line: str, path: str | Path, number: int) -> object:
    """One line of a JSON-lines file.

    Raises:
        UserError: names file, line and remedy.
    """
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path}, line {number}: not valid JSON ({first_line(error)}): {remedy(path)}"
        ) from error
