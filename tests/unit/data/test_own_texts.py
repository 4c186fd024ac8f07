"""Labelled texts of a user: columns, skipped rows, rare classes."""

import pytest

from common.config import UserError
from common.data.text.labelled.own_texts import load_own_texts

ROWS = (
    "text,label\nhello you,greet\nhi,greet\nbye,part\nsee you,part\nno label,\n,greet\nodd,rare\n"
)


def test_rows_without_a_cell_and_rare_classes_are_counted(tmp_path):
    file = tmp_path / "own.csv"
    file.write_text(ROWS, encoding="utf-8")
    data = load_own_texts(file, 2)
    assert data.texts == ["hello you", "hi", "bye", "see you"]
    assert [data.classes[label] for label in data.labels] == ["greet", "greet", "part", "part"]
    assert (data.num_skipped, data.rare) == (2, {"rare": 1})


def test_other_names_are_read_by_their_place(tmp_path):
    file = tmp_path / "own.csv"
    file.write_text(ROWS.replace("text,label", "said,meant"), encoding="utf-8")
    assert load_own_texts(file, 2).classes == ["greet", "part"]
    json_lines = tmp_path / "own.jsonl"
    json_lines.write_text('{"label": 1, "text": "a"}\n{"label": 2, "text": "b"}\n', "utf-8")
    data = load_own_texts(json_lines, 1)
    assert (data.texts, data.classes) == (["a", "b"], ["1", "2"])


def test_one_class_is_refused(tmp_path):
    file = tmp_path / "own.csv"
    file.write_text(ROWS, encoding="utf-8")
    with pytest.raises(UserError, match="has 0 classes with 3 texts or more"):
        load_own_texts(file, 3)
