"""WordNet's database files as a table of synonyms."""

import pytest

from common.config import UserError
from common.data.text.wordnet import FILES, read_synsets, wordnet_synonyms

NOUNS = """  1 This is the licence
00001 03 n 03 motorcycle 0 motor_bike 0 Two-wheeler 1 001 @ 00002 n 0000 | a vehicle
00002 03 n 01 entity 0 000 | alone
"""
ADJECTIVES = "00003 00 s 02 galore(ip) 0 plenty 0 001 & 00004 a 0000 | plentiful\n"


@pytest.fixture
def database(tmp_path):
    folder = tmp_path / "wordnet/dict"
    folder.mkdir(parents=True)
    for name in FILES:
        (folder / name).write_text("", encoding="latin-1")
    (folder / "data.noun").write_text(NOUNS, encoding="latin-1")
    (folder / "data.adj").write_text(ADJECTIVES, encoding="latin-1")
    return tmp_path


def test_lemmas_are_words_of_a_line(database):
    """Licence lines are none, underscores are blanks, and an adjective loses its place."""
    rows = [row["lemmas"] for row in read_synsets(database / "wordnet/dict")]
    assert rows == [["motorcycle", "motor bike", "Two-wheeler"], ["entity"], ["galore", "plenty"]]
    (database / "wordnet/dict/data.adv").write_text("a line\n", encoding="latin-1")
    with pytest.raises(UserError, match=r"data\.adv, line 1 is no synset"):
        list(read_synsets(database / "wordnet/dict"))


def test_synonyms_of_the_database_and_of_the_bundled_part(database):
    """A folder as a path or below the data root; hyphens stay, or are blanks."""
    root = str(database)
    for folder in ("wordnet/dict", str(database / "wordnet/dict")):
        assert wordnet_synonyms(folder, root) == {
            "motorcycle": ["motor bike", "two-wheeler"],
            "motor bike": ["motorcycle", "two-wheeler"],
            "two-wheeler": ["motorcycle", "motor bike"],
            "galore": ["plenty"],
            "plenty": ["galore"],
        }
    plain = wordnet_synonyms("wordnet/dict", root, hyphens=False)
    assert plain["motorcycle"] == ["motor bike", "two wheeler"]
    assert "automobile" in wordnet_synonyms(None, None)["car"]
    with pytest.raises(UserError, match="WordNet not found"):
        wordnet_synonyms("elsewhere", root)
