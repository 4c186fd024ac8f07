"""GLUE's tables: lines, columns, values of labels."""

import gzip

import pytest

from common.config import UserError
from common.data.text.pairs.glue_files import cells_at, glue_file, label_value, plain_table


@pytest.mark.parametrize("name", ["a.tsv", "a.tsv.gz"])
def test_lines_have_their_numbers_and_cells(tmp_path, name):
    """Quotation marks and lone carriage returns are of the text; short and long rows are as they
    are.
    """
    text = '\ufeffid\tlabel\ttext\r\n0\t1\ta "b\r\n\n1\t0\tc\rd\te\n\t\t\n2\n'
    content = text.encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    header, places, rows = plain_table(tmp_path / name, ("text", "label"))
    assert (header, places) == (["id", "label", "text"], [2, 1])
    assert rows == [(2, ["0", "1", 'a "b']), (4, ["1", "0", "c\rd", "e"]), (6, ["2"])]
    assert [cells_at(cells, places) for _, cells in rows] == [
        ['a "b', "1"],
        ["c\rd", "0"],
        ["", ""],
    ]
    assert plain_table(tmp_path / name, ("3", "1"))[1] == [3, 1]
    assert plain_table(tmp_path / name, ("3", "1"))[2][0] == (1, ["id", "label", "text"])
    with pytest.raises(UserError, match="no column 'txt'; did you mean 'text'"):
        plain_table(tmp_path / name, ("txt",))


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"", "is empty"), (b"\n\r\n", "is empty"), (b"text\ncaf\xe9\n", "not a table in UTF-8")],
)
def test_files_that_hold_no_table(tmp_path, content, told):
    path = tmp_path / "a.tsv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"a\.tsv {'is ' if told[0] == 'n' else ''}{told}"):
        plain_table(path, ("text",))


def test_labels_are_classes_or_finite_scores():
    assert label_value(["no", "yes"], "yes", "x") == 1
    assert label_value([], "-1e1", "x") == -10
    with pytest.raises(UserError, match="x, line 3: label 'yse'; did you mean 'yes'"):
        label_value(["no", "yes"], "yse", "x, line 3")
    for label in ("nan", "inf", "-Infinity", "much"):
        with pytest.raises(UserError, match=f"x, line 3: '{label}' is not a score"):
            label_value([], label, "x, line 3")


def test_the_diagnostic_set_has_two_names(tmp_path):
    """The leaderboard's and the download script's; below the data root, or `glue_data` in it."""
    with pytest.raises(UserError, match=r"AX/AX\.tsv"):
        glue_file(str(tmp_path), "AX/AX.tsv")
    for place in ("glue_data/diagnostic/diagnostic.tsv", "AX/AX.tsv"):
        path = tmp_path / place
        path.parent.mkdir(parents=True)
        path.write_text("index\tsentence1\tsentence2\n")
        assert glue_file(str(tmp_path), "AX/AX.tsv") == path
