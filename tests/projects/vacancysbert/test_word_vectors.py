"""Mean word vectors of a .vec file."""

import pytest

from common.config import UserError
from projects.vacancysbert.word_vectors import read_word_vectors


def test_texts_are_means_of_their_known_words(tmp_path):
    path = tmp_path / "a.vec"
    path.write_text("3 2\nred 1 0\nfox 0 3\nRed 9 9\n", encoding="utf-8")
    actual = read_word_vectors(path)
    assert actual(["Red, fox!", "fox fox blue", "none"]).tolist() == [[0.5, 1.5], [0, 3], [0, 0]]
    assert read_word_vectors(path, limit=1)(["red", "fox"]).tolist() == [[1, 0], [0, 0]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("red 1 0\nfox 1\n", "line 2: 1 numbers"),
        ("red x y\n", "no vector"),
        ("1 2\n", "no word vector"),
    ],
)
def test_broken_files_are_refused(tmp_path, text, message):
    path = tmp_path / "a.vec"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        read_word_vectors(path)
    with pytest.raises(UserError, match="do not exist"):
        read_word_vectors(tmp_path / "absent.vec")
