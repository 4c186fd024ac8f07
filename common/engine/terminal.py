"""Tables on a terminal: aligned where they fit, else a few lines for each row, no name broken.

Also warnings, which no closed terminal turns into errors.
"""

import contextlib
import os
import sys
from collections.abc import Collection, Sequence

from rich.console import Console

console = Console(highlight=False, soft_wrap=True, markup=False)  # brackets are text
GAP = "  "


def warn(text: str) -> None:
    """Write a line to stderr; where that is closed, nobody reads it."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def print_table(
    title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[int] = ()
) -> None:
    """Print a table; its columns stand below each other where the terminal is wide enough.

    Args:
        title: line above it.
        heads: of the columns.
        rows: a cell for each column; empty ones are left out on a narrow terminal.
        right: columns whose cells end below each other, such as numbers.
    """
    console.print(title)
    for line in table_lines(heads, rows, right, _width()):
        console.print(line)


def table_lines(
    heads: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[int], width: int | None
) -> list[str]:
    r"""The lines of a table.

    >>> rows = [["top1", "0.5000", "0.1000"], ["mean_rank", "3.000", ""]]
    >>> print(*table_lines(["metric", "value", "chance"], rows, (1, 2), 40), sep="\n")
    metric      value  chance
    top1       0.5000  0.1000
    mean_rank   3.000
    >>> print(*table_lines(["metric", "value", "chance"], rows, (1, 2), 20), sep="\n")
    top1
      value 0.5000
      chance 0.1000
    mean_rank
      value 3.000
    """
    used = [i for i in range(len(heads)) if any(row[i] for row in rows)]
    sizes = {i: max(len(heads[i]), *(len(row[i]) for row in rows)) for i in used}
    if width is None or sum(sizes.values()) + len(GAP) * (len(used) - 1) <= width:
        cells = [
            [row[i].rjust(sizes[i]) if i in right else row[i].ljust(sizes[i]) for i in used]
            for row in (heads, *rows)
        ]
        return [GAP.join(row).rstrip() for row in cells] if rows else []
    lines = []
    for row in rows:
        lines += [row[0], *_filled([f"{heads[i]} {row[i]}" for i in used[1:] if row[i]], width)]
    return lines


def _filled(parts: Sequence[str], width: int) -> list[str]:
    """Indented lines that hold as many parts as fit; no part is broken."""
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + len(GAP) + len(part) <= width:
            lines[-1] += GAP + part
        else:
            lines.append(GAP + part)
    return lines


def _width() -> int | None:
    """Columns of the terminal; None where output goes to a file or another command."""
    return console.width if console.is_terminal or "COLUMNS" in os.environ else None
