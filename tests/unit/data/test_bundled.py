"""The tracked files: aligned, readable, and within the size that the README promises."""

import re

from common.data.lookup import BUNDLED
from common.data.packed import PackedImages
from common.data.tables import read_jsonl


def test_emoji_rows_match_their_images_and_hold_no_skin_tones():
    rows = read_jsonl(
        BUNDLED / "emoji-captions/captions.jsonl.gz", ["emoji", "base", "en", "keywords_en"]
    )
    images = PackedImages(BUNDLED / "emoji-captions/images.npz")
    assert len(rows) == len(images) == 1625
    assert not any(re.search("[\U0001f3fb-\U0001f3ff]", row["emoji"]) for row in rows)
    assert len({row["base"] for row in rows}) == 1625
    apple = next(i for i, row in enumerate(rows) if row["en"] == "red apple")
    red, green, blue = images.decode(64, [apple]).images[0, :, 20:50, 20:44].float().mean((1, 2))
    assert red > 1.5 * green
    assert red > 1.5 * blue


def test_names_in_six_languages_run_parallel_to_the_drawings():
    columns = ["en", "de", "fr", "es", "ru", "zh"]
    names = read_jsonl(BUNDLED / "emoji-captions/names.jsonl.gz", ["emoji", "en"])
    rows = read_jsonl(BUNDLED / "emoji-captions/captions.jsonl.gz", ["emoji", "en"])
    assert [(n["emoji"], n["en"]) for n in names] == [(r["emoji"], r["en"]) for r in rows]
    assert [n["en"] for n in names if len(n) < 7] == ["flag: Sark"]
    apple = next(n for n in names if n["en"] == "red apple")
    assert [apple[c] for c in columns[1:4]] == ["roter Apfel", "pomme rouge", "manzana roja"]
    chinese = [any(ord(c) > 0x4DFF for c in n.get("zh", "")) for n in names]
    assert sum(chinese) > 0.99 * len(names)


def test_drawings_with_a_skin_tone_name_it_and_have_a_base():
    rows = read_jsonl(BUNDLED / "emoji-tones/captions.jsonl.gz", ["emoji", "base", "en"])
    assert len(rows) == len(PackedImages(BUNDLED / "emoji-tones/images.npz")) == 1195
    for row in rows:
        assert row["en"].endswith("skin tone")
        assert len(re.findall("[\U0001f3fb-\U0001f3ff]", row["emoji"])) == 1
        assert not re.search("[\U0001f3fb-\U0001f3ff]", row["base"])


def test_clipart_rows_match_their_images():
    rows = read_jsonl(BUNDLED / "clipart/meta.jsonl.gz", ["title", "path", "category"])
    assert len(rows) == len(PackedImages(BUNDLED / "clipart/images.npz")) == 2999


def test_wordnet_subset():
    rows = read_jsonl(
        BUNDLED / "wordnet/synsets.jsonl.gz", ["id", "pos", "lemmas", "definition", "pointers"]
    )
    assert len(rows) == 17358
    held = {row["id"] for row in rows}
    dog = next(row for row in rows if "domestic dog" in row["lemmas"])
    assert any(kind == "@" and target in held for kind, target in dog["pointers"])


def test_beauty_sequences():
    rows = read_jsonl(BUNDLED / "rec-amazon/beauty-frequent.jsonl.gz", ["user", "items"])
    items = [item for row in rows for item in row["items"]]
    assert (len(rows), len(set(items)), len(items)) == (10600, 3367, 97938)
    assert min(len(row["items"]) for row in rows) == 5


def test_total_size_and_licences():
    size = sum(
        p.stat().st_size for p in BUNDLED.rglob("*") if p.is_file() and "models" not in p.parts
    )
    assert size < 60e6
    readme = (BUNDLED / "README.md").read_text(encoding="utf-8")
    for folder in (
        p.name for p in BUNDLED.iterdir() if p.is_dir() and p.name not in ("licences", "models")
    ):
        assert f"`{folder}`" in readme
    for licence in (BUNDLED / "licences").iterdir():
        assert f"licences/{licence.name}" in readme
