"""Collections from files and folders; two encoders in an index; what is printed."""

import json

import pytest
import torch

from common.config import UserError
from common.evaluation.retrieval import text_search
from common.evaluation.retrieval.options import SearchConfig
from common.evaluation.retrieval.text_index import TextIndex
from common.evaluation.retrieval.text_search import (
    indexed,
    read_documents,
    read_texts,
    search_texts,
)
from common.families.retrieval.search import with_words


def test_a_file_holds_a_text_a_line_and_a_folder_paragraphs(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "a.txt").write_text("first line\nsecond line\n\n\n  another \n")
    (tmp_path / "b/c.md").write_text("\n# head\n\nbody")
    (tmp_path / "b/d.py").write_text("code")
    assert read_texts(tmp_path / "a.txt") == ["first line", "second line", "another"]
    assert read_texts(tmp_path) == ["first line second line", "another", "# head", "body"]


def test_a_folder_in_the_beir_layout_gives_its_documents(tmp_path):
    rows = [{"_id": "1", "title": "T", "text": "one"}, {"_id": "2", "text": "two"}]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "README.md").write_text("not a document")
    assert read_texts(str(tmp_path)) == ["T one", "two"]


def test_hits_have_ids_an_output_file_and_a_reason_for_fewer_texts(tmp_path, capsys):
    """1,400 documents became 1,398 texts without a reason, and no hit had an id."""
    texts = {"1": "one", "2": "four", "3": " ", "4": "one"}
    lines = [json.dumps({"_id": i, "text": text}) + "\n" for i, text in texts.items()]
    (tmp_path / "corpus.jsonl").write_text("".join(lines))
    (tmp_path / "queries.txt").write_text("two\n")
    output = tmp_path / "hits.jsonl"
    options = SearchConfig(
        file=str(tmp_path), queries=str(tmp_path / "queries.txt"), output=str(output), k=2
    )
    index = indexed(options, rows, list, lambda: "key")
    assert "2 of 4 documents read (1 empty and 1 repeated left out)" in capsys.readouterr().out
    search_texts(index, options)
    assert "[1, 4] one" in capsys.readouterr().out
    (answer,) = map(json.loads, output.read_text().splitlines())
    assert answer["query"] == "two"
    assert [hit["ids"] for hit in answer["hits"]] == [["1", "4"], ["2"]]
    (tmp_path / "plain.txt").write_text("two\nthree\n")
    plain = read_documents(tmp_path / "plain.txt")
    assert (plain.ids, plain.summary) == ({}, "2 of 2 texts read")
    with pytest.raises(ValueError, match=r"must end in \.jsonl"):
        SearchConfig(output="hits.csv")


def test_ranks_of_the_encoder_and_of_words_are_merged():
    """The encoder prefers the first text, the words of the query are those of the last."""
    texts = ["red fox", "blue whale", "old man"]

    def encode(rows):
        return torch.tensor([[3.0, 0.0] if r == "red fox" else [1.0, 1.0] for r in rows])

    index = TextIndex(
        encode, texts, query_encoder=lambda rows: torch.tensor([[1.0, 0.0]]), metric="dot"
    )

    def best(weight, query="the old man"):
        searched = with_words(index, weight)
        return [hit.text for hit in searched.search([query], k=3)[0]]

    assert best(1.0)[0] == "red fox"
    assert best(0.0) == ["old man"]  # no other text has a word of the query
    assert best(0.1)[0] == "old man"
    assert best(0.97) == ["red fox", "old man", "blue whale"]
    assert best(0.5, "zebra") == texts  # without a common word the encoder decides
    assert best(0.0, "zebra") == []
    with pytest.raises(UserError, match=r"search\.dense_weight=0\.5: BM25 needs documents"):
        with_words(TextIndex(encode, ["!"]), 0.5)


def test_nothing_to_read_is_said(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_texts(tmp_path / "none.txt")
    with pytest.raises(UserError, match="has no text"):
        read_texts(tmp_path)


def test_a_line_ends_at_a_line_break_alone_and_a_byte_order_mark_is_no_text(tmp_path):
    """Other separators of Unicode once cut a text in two, and the mark stayed in the first text."""
    (tmp_path / "a.txt").write_bytes(
        "\ufefffirst\u2028text\x0b \x85 goes on\r\nsecond\r\n".encode()
    )
    assert read_texts(tmp_path / "a.txt") == ["first\u2028text\x0b \x85 goes on", "second"]
    (tmp_path / "a.txt").rename(tmp_path / "a.md")
    assert read_texts(tmp_path) == ["first\u2028text\x0b \x85 goes on second"]


def test_a_file_that_is_not_utf_8_is_named(tmp_path):
    """It once ended in a traceback."""
    (tmp_path / "latin.txt").write_bytes("caf\u00e9 du nord\n".encode("latin-1"))
    for place in (tmp_path / "latin.txt", tmp_path):
        with pytest.raises(UserError, match="latin.txt is not a text file in UTF-8"):
            read_texts(place)


def rows(texts):
    return torch.tensor([[float(len(text)), 1.0] for text in texts])


def test_queries_have_an_encoder_of_their_own():
    def turned(texts):
        return rows(texts).flip(1)

    index = TextIndex(rows, ["a", "bbbb"], query_encoder=turned, metric="dot")
    assert [hit.text for hit in index.search("cc", k=2)[0]] == ["bbbb", "a"]
    assert index.search("cc", k=1)[0][0].score == 4.0 + 2.0
    assert TextIndex(rows, ["a", "bbbb"]).search("a", k=1)[0][0].text == "a"


def test_what_is_printed(tmp_path, capsys):
    (tmp_path / "q.txt").write_text("cc\n")
    index = TextIndex(rows, ["a", "bbbb"], metric="dot")
    search_texts(index, SearchConfig(queries=str(tmp_path / "q.txt"), k=1))
    assert capsys.readouterr().out.split() == ["2", "texts", "indexed", "cc", "9.000", "bbbb"]
    search_texts(index, SearchConfig(queries=str(tmp_path / "q.txt"), threshold=99.0))
    assert "no text has a score of 99.0 or more" in capsys.readouterr().out


def test_queries_of_a_file_are_searched_in_blocks_and_printed_in_order(
    tmp_path, monkeypatch, capsys
):
    """Each with its own hits; what is typed is answered one by one."""
    asked = ["cc", "a", "", "dddd", "bb"]
    (tmp_path / "q.txt").write_text("\n".join(asked))
    index = TextIndex(rows, ["a", "bbbb"], metric="dot")
    sizes = []
    plain = index.search
    monkeypatch.setattr(
        index, "search", lambda part, *rest: (sizes.append(len(part)), plain(part, *rest))[1]
    )
    monkeypatch.setattr(text_search, "BLOCK", 3)
    search_texts(index, SearchConfig(queries=str(tmp_path / "q.txt"), k=2))
    said = capsys.readouterr().out
    assert sizes == [3, 1]
    typed = iter(["cc", "a", "dddd", "bb", ""])
    monkeypatch.setattr("builtins.input", lambda prompt: next(typed))
    search_texts(index, SearchConfig(k=2))
    assert sizes == [3, 1, 1, 1, 1, 1]
    assert capsys.readouterr().out == said
    assert [line for line in said.splitlines()[1:] if line and line[0] != " "] == [
        "cc",
        "a",
        "dddd",
        "bb",
    ]
