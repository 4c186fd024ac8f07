from collections import Counter, defaultdict

from common.data.lookup import BUNDLED
from common.data.splits import (
    book_split,
    clipart_key,
    clipart_split,
    emoji_split,
    sentence_split,
    stable_fraction,
)
from common.data.tables import read_jsonl


def test_hash_is_pinned_and_uniform():
    assert stable_fraction("red") == 0.05433795954653776
    counts = Counter(int(10 * stable_fraction(str(i))) for i in range(10_000))
    assert all(900 < counts[i] < 1100 for i in range(10))


def test_last_fifth_of_every_book_is_held_back():
    books = ["a"] * 10 + ["b"] * 9 + ["c"]
    expected = ["train"] * 8 + ["test"] * 2 + ["train"] * 7 + ["test"] * 2 + ["train"]
    assert book_split(books) == expected
    mixed = book_split(["a", "b"] * 5)  # position counts within a book, not in the list
    assert mixed == ["train"] * 8 + ["test"] * 2


def test_bundled_emoji_counts():
    rows = read_jsonl(BUNDLED / "emoji-captions/captions.jsonl.gz", ["base"])
    assert Counter(emoji_split(r["base"]) for r in rows) == {"train": 1299, "test": 326}


def test_bundled_clipart_counts_and_variants_stay_together():
    titles = [r["title"] for r in read_jsonl(BUNDLED / "clipart/meta.jsonl.gz", ["title"])]
    assert Counter(map(clipart_split, titles)) == {"train": 2492, "test": 507}
    sides = defaultdict(set)
    for title in titles:
        sides[clipart_key(title)].add(clipart_split(title))
    assert len(sides) == 2030
    assert all(len(side) == 1 for side in sides.values())


def test_clipart_key_cases():
    assert clipart_key("arrow1 sergio luiz arauj") == "arrow sergio luiz"
    assert clipart_key("muffin3 bw") == clipart_key("Muffin2 color") == "muffin"
    assert clipart_key("dolphin") == "dolphin"
    assert clipart_key("0042") == "0042"


def test_sentences_are_split_95_to_5():
    counts = Counter(sentence_split(f"sentence number {i}") for i in range(20_000))
    assert counts == {"train": 18985, "test": 1015}
