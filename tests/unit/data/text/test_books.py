"""Sentences, windows and halves of books."""

import json

import pytest

from common.config import ROOT, UserError
from common.data.text.books import Chapter, halves, load_books, read_book_folder, split_sentences
from projects.rankgen.books import chapter_windows, extend

GOLDEN = json.loads((ROOT / "tests/golden/rankgen.json").read_text())


def chapter(lengths, name="one", book="book"):
    """Sentences of the given numbers of words; every word occurs once."""
    count = iter(range(10_000))
    sentences = [" ".join(f"w{next(count)}" for _ in range(n)) + "." for n in lengths]
    return Chapter(book, name, sentences)


@pytest.mark.parametrize("case", GOLDEN["outputs"]["extend_cases"])
def test_extension_equals_the_released_code(case):
    """Golden: which sentences a word limit lets in, in both directions."""
    given = GOLDEN["inputs"]["extend"]
    end = extend(
        given["lengths"],
        case["start"],
        case["limit"],
        case["direction"],
        exceed=case["exceed_len"],
    )
    assert end == case["end_index"]
    low, high = sorted((case["start"], end))
    assert " ".join(given["sentences"][low : high + 1]) == case["text"]


def test_sentences_end_at_punctuation_quotes_and_capitals():
    text = (
        "“Well,” said Mr. Holmes.  “I am off!” She left. St. James slept… Why?\nJ. K. knew 3 p.m."
        " well."
    )
    assert split_sentences(text) == [
        "“Well,” said Mr. Holmes.",
        "“I am off!”",
        "She left.",
        "St. James slept…",
        "Why?",
        "J. K. knew 3 p.m. well.",
    ]
    assert split_sentences("  ") == []
    assert split_sentences("no end") == ["no end"]


@pytest.mark.parametrize("overlap", [True, False])
def test_windows_continue_exactly_where_the_prefix_ends(overlap):
    """Checklist 8: whole sentences, at most 60 words, the continuation is the next text, 10 to
    30."""
    text = chapter([7, 12, 9, 20, 14, 3, 18, 25, 6, 11, 40, 8, 9, 15, 12, 10, 22])
    actual = chapter_windows(text, prefix_words=60, min_words=10, max_words=30, overlap=overlap)
    whole = " ".join(text.sentences)
    assert actual
    for window in actual:
        assert f"{window.prefix} {window.continuation}" in whole
        assert len(window.prefix.split()) <= 60
        assert 10 <= len(window.continuation.split()) <= 30
        assert window.continuation.startswith(text.sentences[window.start])
        assert window.prefix.endswith(".")
        first = text.sentences.index(window.prefix.split(".")[0] + ".")
        longer = len(window.prefix.split()) + len(text.sentences[first - 1].split())
        assert first > 0
        assert longer > 60  # no further sentence would have fitted
    ends = [w.start + len(w.continuation.split(".")) - 1 for w in actual]
    pairs = list(zip(ends, actual[1:], strict=False))
    disjoint = all(end <= window.start for end, window in pairs)
    assert disjoint != overlap


def test_continuations_have_all_lengths_and_depend_on_the_seed():
    text = chapter([5] * 200)
    options = {"prefix_words": 20, "min_words": 10, "max_words": 30}
    lengths = [len(w.continuation.split()) for w in chapter_windows(text, **options)]
    assert set(lengths) == {10, 15, 20, 25, 30}
    again = [len(w.continuation.split()) for w in chapter_windows(text, **options, seed=1)]
    assert lengths != again


def test_a_long_sentence_or_a_short_chapter_gives_no_window():
    assert chapter_windows(chapter([4, 4]), prefix_words=20) == []
    actual = chapter_windows(chapter([9] * 6 + [200] + [9] * 6), prefix_words=20, max_words=30)
    assert actual
    assert all(len(w.prefix.split()) <= 20 and len(w.continuation.split()) <= 30 for w in actual)


def test_halves_share_no_chapter():
    """Checklist 9: what tunes the generator is disjoint from what trains the ranker."""
    chapters = [chapter([9] * 30, f"{i}", book) for book in "ab" for i in range(5)]
    generator, ranker = halves(chapters)
    assert not {id(c) for c in generator} & {id(c) for c in ranker}
    assert len(generator) + len(ranker) == len(chapters)
    assert {c.book for c in ranker} == {c.book for c in generator} == {"a", "b"}
    whole = [Chapter(f"book {i}", "", ["One."]) for i in range(4)]
    assert [[c.book for c in side] for side in halves(whole)] == [
        ["book 0", "book 2"],
        ["book 1", "book 3"],
    ]


def test_parts_of_the_bundled_novels_are_disjoint():
    parts = {
        part: {(c.book, c.name) for c in load_books(None, part)}
        for part in ("train", "dev", "test")
    }
    assert sum(map(len, parts.values())) == len(set().union(*parts.values())) == 289
    assert {book for book, _ in parts["test"]} == {book for book, _ in parts["train"]}


def test_book_folder(tmp_path):
    (tmp_path / "b.txt").write_text("Second book. It ends.\n\nNew paragraph.", encoding="utf-8")
    (tmp_path / "a.txt").write_text("First.", encoding="utf-8")
    first, second = read_book_folder(tmp_path)
    assert (first.book, first.sentences) == ("a", ["First."])
    assert second.sentences == ["Second book.", "It ends.", "New paragraph."]
    with pytest.raises(UserError, match=r"one \.txt file per document"):
        list(read_book_folder(tmp_path / "none"))
