"""Readers of tables: ``.jsonl`` / ``.jsonl.gz``, CSV / TSV and parquet, with column checks."""

import csv
import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from common.config import UserError, nearest
from common.damage import parse_json, remedy
from common.files import not_utf8, write_bytes

Row = dict[str, Any]
MAX_CELL = 2**31 - 1  # characters; the csv module's own limit is 131,072


def read_jsonl(path: str | Path, columns: Sequence[str] = ()) -> list[Row]:
    """Rows of a JSON-lines file, gzipped if the name ends in ``.gz``.

    Args:
        path: the file.
        columns: names that every row must have.

    Raises:
        UserError: file missing or damaged, a line that is not a JSON object, a missing column.
    """
    rows: list[Row] = []
    with _readable(path):
        for number, line in enumerate(_lines(path), start=1):
            if not line.strip():
                continue
            row = parse_json(line, path, number)
            if not isinstance(row, dict):
                raise UserError(
                    f"{path}, line {number}: expected an object, got {type(row).__name__}"
                )
            _check_columns(path, columns, row, f", line {number}")
            rows.append(row)
    return rows


def text_of(value: object) -> str:
    """A JSON value as text, for readers that take numbers too.

    Raises:
        ValueError: it is null, a list or an object.
    """
    if value is None or isinstance(value, list | dict):
        raise ValueError(f"expected a text, got {json.dumps(value)[:60]}")
    return str(value)


def write_jsonl(path: str | Path, rows: Iterable[Row]) -> None:
    """Write rows as JSON lines; ``.gz`` is compressed, with equal bytes for equal rows."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    data = gzip.compress(text, mtime=0) if str(path).endswith(".gz") else text
    write_bytes(Path(path), data)


def read_csv(
    path: str | Path,
    columns: Sequence[str] = (),
    *,
    names: Sequence[str] | None = None,
    delimiter: str | None = None,
    fill: str | None = None,
    quoted: bool | None = None,
) -> list[Row]:
    """Rows of a CSV or TSV file, all values strings.

    Args:
        path: the file; gzipped if the name ends in ``.gz``.
        columns: names that must be in the header.
        names: column names of a file without header.
        delimiter: None: tab if the name holds ``.tsv``, else comma.
        fill: value of the cells that a too short row lacks; None: such a row is an error.
        quoted: whether a cell in quotation marks may hold delimiters and line breaks; None: not
            between tabs, where a quotation mark is a character of the text.

    Raises:
        UserError: file missing or damaged, a missing column, two columns of one name, a row of
            another length than the header, or a quotation mark that nothing closes.
    """
    delimiter = delimiter or ("\t" if ".tsv" in Path(path).name else ",")
    with _readable(path):
        cells = _cells(path, delimiter, delimiter != "\t" if quoted is None else quoted)
        header = list(names) if names is not None else next(cells, (0, []))[1]
        _check_columns(path, columns, header)
        if len(set(header)) < len(header):
            raise UserError(f"{path}: two columns have the same name ({', '.join(header)})")
        rows = []
        for number, values in cells:
            if not values:
                continue
            if fill is not None:
                values += [fill] * (len(header) - len(values))
            if len(values) != len(header):
                raise UserError(
                    f"{path}, line {number}: {len(values)} fields, expected "
                    f"{len(header)} ({', '.join(header)})"
                )
            rows.append(dict(zip(header, values, strict=True)))
    return rows


def num_rows(path: str | Path) -> int:
    """Rows of a CSV file without header that are not empty."""
    with Path(path).open(encoding="utf-8-sig", newline="") as lines:
        return sum(bool(row) for row in csv.reader(lines))


def csv_header(path: str | Path, *, delimiter: str) -> list[str]:
    """Names in the first line of a CSV or TSV file, gzipped if the name ends in ``.gz``.

    Names may be in quotation marks, whatever the delimiter.

    Raises:
        UserError: file missing or damaged.
    """
    with _readable(path):
        return next(_cells(path, delimiter, True), (0, []))[1]


def read_parquet(path: str | Path, columns: Sequence[str] = ()) -> list[Row]:
    """Rows of a parquet file.

    Args:
        path: the file.
        columns: columns to read; empty: all.

    Raises:
        UserError: file missing or damaged, or a missing column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _readable(path):
        try:
            file = pq.ParquetFile(path)
            _check_columns(path, columns, file.schema_arrow.names)
            rows: list[Row] = file.read(columns=list(columns) or None).to_pylist()
        except pa.ArrowInvalid as error:
            raise UserError(
                f"{path} is not a readable parquet file: {error}; {remedy(path)}"
            ) from error
        return rows


class _readable:
    """Turns errors of the file system and of gzip into a UserError that names the file."""

    def __init__(self, path: str | Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        if not Path(self.path).is_file():
            raise UserError(f"table {self.path} does not exist")

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, UnicodeDecodeError):
            raise UserError(f"{self.path}: {not_utf8(error)}") from error
        if isinstance(error, OSError | EOFError | zlib.error):
            raise UserError(f"cannot read {self.path}: {error}; {remedy(self.path)}") from error


def _cells(path: str | Path, delimiter: str, quoted: bool) -> Iterator[tuple[int, list[str]]]:
    """Number of its last line, and cells, of every row."""
    csv.field_size_limit(MAX_CELL)
    ended = False

    def lines() -> Iterator[str]:
        nonlocal ended
        yield from _lines(path)
        ended = True
        yield ""  # a row of its own, but within an open quotation mark

    reader = csv.reader(
        lines(), delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    )
    before = 0
    try:
        for values in reader:
            if ended:
                break
            before = reader.line_num
            yield before, values
    except csv.Error as error:
        where = f"{path}, line {reader.line_num}"
        raise UserError(f"{where}: not a valid table ({error}): {remedy(path)}") from error
    if values:  # csv gives the rest of the file as one cell, without a word
        raise UserError(
            f"{path}, line {before + 1}: nothing closes a quotation mark of this row, so it would "
            'take in the rest of the file: write the mark twice within quotes, as "", or remove it'
        )


def _lines(path: str | Path) -> Iterator[str]:
    opener: Any = gzip.open if str(path).endswith(".gz") else open
    with opener(path, "rt", encoding="utf-8-sig", newline="") as file:  # Excel begins with a mark
        yield from file


def _check_columns(
    path: str | Path, columns: Sequence[str], present: Iterable[str], where: str = ""
) -> None:
    present = list(present)
    for name in columns:
        if name not in present:
            raise UserError(f"{path}{where}: no column '{name}'{nearest(name, present)}")
