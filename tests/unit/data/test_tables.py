import gzip

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.config import UserError
from common.data.tables import csv_header, read_csv, read_jsonl, read_parquet, write_jsonl


@pytest.mark.parametrize("name", ["t.jsonl", "t.jsonl.gz"])
def test_jsonl_round_trip_is_deterministic(tmp_path, name):
    rows = [{"text": "caf\u00e9", "n": 1}, {"text": "line\u2028sep", "n": 2}]
    write_jsonl(tmp_path / name, rows)
    first = (tmp_path / name).read_bytes()
    write_jsonl(tmp_path / name, rows)
    assert (tmp_path / name).read_bytes() == first
    assert read_jsonl(tmp_path / name, ["text", "n"]) == rows


def test_jsonl_errors_name_line_and_nearest_column(tmp_path):
    path = tmp_path / "t.jsonl"
    write_jsonl(path, [{"title": "a"}])
    with pytest.raises(UserError, match=r"line 1: no column 'titel'; did you mean 'title'"):
        read_jsonl(path, ["titel"])
    path.write_text('{"a": 1}\n{broken\n')
    with pytest.raises(UserError, match="line 2: not valid JSON"):
        read_jsonl(path)
    path.write_text("[1]\n")
    with pytest.raises(UserError, match="expected an object, got list"):
        read_jsonl(path)
    with pytest.raises(UserError, match="does not exist"):
        read_jsonl(tmp_path / "absent.jsonl")


def test_truncated_gzip_is_a_user_error(tmp_path):
    path = tmp_path / "t.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"a": 1}\n' * 1000)[:-20])
    with pytest.raises(UserError, match="cannot read"):
        read_jsonl(path)


def test_csv_header_names_and_bad_rows(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('a,b\n1,"x, y"\n\n2,z\n')
    assert read_csv(path, ["b"]) == [{"a": "1", "b": "x, y"}, {"a": "2", "b": "z"}]
    with pytest.raises(UserError, match="no column 'c'"):
        read_csv(path, ["c"])
    path.write_text("1,2\n3\n")
    with pytest.raises(UserError, match="line 2: 1 fields, expected 2"):
        read_csv(path, names=["a", "b"])
    tsv = tmp_path / "t.tsv.gz"
    tsv.write_bytes(gzip.compress(b"a\tb\n1\t2\n"))
    assert read_csv(tsv) == [{"a": "1", "b": "2"}]


def test_parquet_columns(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"text": ["a", "b"], "n": [1, 2]}), path)
    assert read_parquet(path, ["n"]) == [{"n": 1}, {"n": 2}]
    assert read_parquet(path)[0] == {"text": "a", "n": 1}
    with pytest.raises(UserError, match="no column 'txt'"):
        read_parquet(path, ["txt"])
    path.write_bytes(b"nonsense")
    with pytest.raises(UserError, match="not a readable parquet"):
        read_parquet(path)


def test_a_quotation_mark_between_tabs_is_a_character(tmp_path):
    """It swallowed the rows up to the next one, without a word."""
    path = tmp_path / "t.tsv"
    path.write_text('text\tlabel\n"Open\ta\nshut" it\tb\n')
    rows = [{"text": '"Open', "label": "a"}, {"text": 'shut" it', "label": "b"}]
    assert read_csv(path) == rows
    assert read_csv(path, quoted=False) == rows
    assert [row["text"] for row in read_csv(path, quoted=True, fill="")] == ["Open\ta\nshut it"]


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path, name):
    """Excel writes one into its "CSV UTF-8"."""
    content = "\ufefftext,label\na,b\n".encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert read_csv(tmp_path / name, ["text"]) == [{"text": "a", "label": "b"}]
    assert csv_header(tmp_path / name, delimiter=",") == ["text", "label"]
    (tmp_path / "t.jsonl").write_bytes('\ufeff{"a": 1}\n'.encode())
    assert read_jsonl(tmp_path / "t.jsonl", ["a"]) == [{"a": 1}]


def test_long_cells_are_read_and_broken_rows_named(tmp_path, monkeypatch):
    path = tmp_path / "t.csv"
    path.write_text("text,label\n" + "x" * 200_000 + ",a\n")
    assert len(read_csv(path)[0]["text"]) == 200_000
    monkeypatch.setattr("common.data.tables.MAX_CELL", 1000)
    with pytest.raises(UserError, match=r"t\.csv, line 2: not a valid table"):
        read_csv(path)


def test_a_quotation_mark_that_nothing_closes_is_refused(tmp_path):
    """In the last column it took in the rest of the file, without a word."""
    path = tmp_path / "t.csv"
    path.write_text('label,text\n1,fine\n2,"hello\n3,foo\n4,bar\n')
    with pytest.raises(UserError, match=r"t\.csv, line 3: nothing closes a quotation mark"):
        read_csv(path)
    path.write_text('a,"b')
    with pytest.raises(UserError, match="line 1: nothing closes"):
        csv_header(path, delimiter=",")


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\n\n"])
def test_other_quotation_marks_are_read_as_ever(tmp_path, end):
    path = tmp_path / "t.csv"
    path.write_text(f'a,b\n"x"y,"two\nlines"\n1,6" wide\n2,"he said ""no"""{end}', newline="")
    assert [(row["a"], row["b"]) for row in read_csv(path)] == [
        ("xy", "two\nlines"),
        ("1", '6" wide'),
        ("2", 'he said "no"'),
    ]
    path.write_text("")
    assert read_csv(path, names=["a"]) == []


def test_parquet_with_damaged_pages_is_named(tmp_path):
    path = tmp_path / "t.parquet"
    table = pa.table({"text": [f"row {i} with text" for i in range(300)]})
    pq.write_table(table, path, compression="none", use_dictionary=False)
    content = bytearray(path.read_bytes())
    start = content.index(b"row 1 ") - 4  # the length of this text
    content[start : start + 4] = b"\xff\xff\xff\x7f"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"not a readable parquet file.*get it again"):
        read_parquet(path)
