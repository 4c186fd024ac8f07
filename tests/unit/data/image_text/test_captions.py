from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from common.config import UserError
from common.data.image.sources import CachedImages, ImageFiles, TrainTransform
from common.data.image_text.captions import (
    CaptionedImages,
    CaptionFiles,
    CaptionLists,
    choose_texts,
)
from common.data.module import identity
from common.data.samplers import SeededBatchSampler, sample_rng
from common.data.text.tokenizers import BpeTokenizer

TEXTS = [
    [f"caption {i} x", f"first of {i}", f"second of {i}", "word", f"last of {i}"] for i in range(12)
]


@pytest.fixture(scope="module")
def tokenizer():
    return BpeTokenizer.train([t for row in TEXTS for t in row], vocab_size=300, context_length=12)


@pytest.fixture
def pairs(tokenizer):
    def make(texts=TEXTS, **options):
        pixels = torch.arange(len(texts) * 3 * 8 * 8).reshape(-1, 3, 8, 8).remainder(256).byte()
        source = CachedImages(pixels, TrainTransform(8))
        return CaptionedImages(source, CaptionLists(texts), tokenizer, seed=5, **options)

    return make


def test_every_text_is_drawn_equally_often():
    texts = ["a a", "b b", "c c", "d d", "e e"]
    draws = Counter(choose_texts(texts, "random", sample_rng(0, e, 3, 1))[0] for e in range(5000))
    assert set(draws) == set(texts)
    assert all(900 < n < 1100 for n in draws.values())  # 3.5 standard deviations


def test_one_word_texts_give_way_to_the_original():
    texts = ["the original", "word", " padded "]
    drawn = {choose_texts(texts, "random", np.random.default_rng(i))[0] for i in range(50)}
    assert drawn == {"the original"}
    many = choose_texts(texts, "multi", np.random.default_rng(0), 3)
    assert many == ["the original"] * 3


def test_multi_gives_the_original_and_different_rewrites():
    for seed in range(20):
        chosen = choose_texts(TEXTS[0], "multi", np.random.default_rng(seed), 2)
        assert chosen[0] == "caption 0 x"
        assert chosen[1] in {"first of 0", "second of 0", "last of 0", "caption 0 x"}
    all_of = choose_texts(["o o", "a a", "b b"], "multi", np.random.default_rng(0), 3)
    assert sorted(all_of[1:]) == ["a a", "b b"]


def test_batch_depends_on_keys_only_and_changes_over_epochs(pairs):
    data = pairs()
    batch = data[[(3, 0), (1, 0), (7, 0)]]
    alone = data[[(1, 0)]]
    assert batch["ids"].tolist() == [3, 1, 7]
    assert batch["skipped"] == 0
    assert torch.equal(batch["images"][1:2], alone["images"])
    assert batch["texts"][1] == alone["texts"][0]
    later = [data[[(1, epoch)]] for epoch in range(1, 30)]
    assert not torch.equal(alone["images"], later[0]["images"])
    assert {b["texts"][0] for b in later} == {
        "caption 1 x",
        "first of 1",
        "second of 1",
        "last of 1",
    }


def test_text_draw_does_not_touch_the_image_draw(pairs):
    keys = [(i, 4) for i in range(12)]
    drawn, original = pairs()[keys], pairs(text_policy="first")[keys]
    assert torch.equal(drawn["images"], original["images"])
    assert drawn["texts"] != original["texts"]


def test_without_rewrites_random_equals_first(pairs):
    keys = [(i, e) for i in range(12) for e in range(3)]
    single = [row[:1] for row in TEXTS]
    a, b = pairs(single)[keys], pairs(single, text_policy="first")[keys]
    assert torch.equal(a["images"], b["images"])
    assert torch.equal(a["tokens"], b["tokens"])


def test_multi_batch_has_a_text_axis(pairs):
    batch = pairs(text_policy="multi", num_texts=3)[[(0, 0), (5, 0)]]
    assert batch["tokens"].shape == (2, 3, 12)
    assert batch["texts"][1][0] == "caption 5 x"


def test_text_augmentation_is_applied_after_the_draw(pairs):
    batch = pairs(text_policy="first", augment_text=lambda text, rng: text.upper())[[(2, 0)]]
    assert batch["texts"] == ["CAPTION 2 X"]


def test_loader_processes_do_not_change_batches(pairs):
    def read(num_workers):
        sampler = SeededBatchSampler(12, 4, seed=1, num_batches=5)
        options = {"sampler": sampler, "batch_size": None, "collate_fn": identity}
        return list(DataLoader(pairs(), num_workers=num_workers, **options))

    for a, b in zip(read(0), read(2), strict=True):
        assert torch.equal(a["images"], b["images"])
        assert a["texts"] == b["texts"]


def test_wrong_numbers_of_texts_are_refused(pairs, tokenizer):
    with pytest.raises(UserError, match="num_texts=6, but a sample has 5 texts"):
        pairs(text_policy="multi", num_texts=6)
    with pytest.raises(UserError, match="needs text_policy 'multi'"):
        pairs(num_texts=2)
    with pytest.raises(UserError, match="same number of texts"):
        CaptionLists([["a"], ["b", "c"]])
    source = CachedImages(torch.zeros(3, 3, 8, 8, dtype=torch.uint8), TrainTransform(8))
    with pytest.raises(UserError, match="3 images but captions for 12"):
        CaptionedImages(source, CaptionLists(TEXTS), tokenizer, seed=0)


@pytest.fixture
def files(tmp_path):
    def write(rewrites, rows=None):
        rows = rows or [f"img/{i}.jpg,caption {i}" for i in range(4)]
        (tmp_path / "train.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
        paths = []
        for name, lines in rewrites.items():
            (tmp_path / name).write_text("".join(line + "\n" for line in lines), encoding="utf-8")
            paths.append(tmp_path / name)
        return tmp_path / "train.csv", paths

    return write


def test_official_files(files, tmp_path):
    rows = [
        "image,caption",
        'a/0.jpg,"red, round\nball"',
        "1.gif,no",
        "2.png,caf\u00e9\u2028bar",
        "3.jpeg,x y",
    ]
    csv, rewrites = files({"a.txt": ["r0", "r2", "r3"], "b.txt": ["s0", "s2", "s3"]}, rows)
    captions = CaptionFiles(csv, rewrites, root="/pictures")
    assert len(captions) == 3
    assert captions.texts(0) == ["red, round\nball", "r0", "s0"]
    assert captions.texts(1) == ["caf\u00e9\u2028bar", "r2", "s2"]
    assert str(captions.path(2)) == "/pictures/3.jpeg"
    assert CaptionFiles(csv).path(0) == tmp_path / "a/0.jpg"


def test_shorter_rewrite_files_are_taken_modulo(files):
    csv, rewrites = files({"a.txt": ["r0", "r1"]})
    captions = CaptionFiles(csv, rewrites)
    assert [captions.texts(i)[1] for i in range(4)] == ["r0", "r1", "r0", "r1"]


@pytest.mark.parametrize(
    ("rewrites", "message"),
    [
        ({"a.txt": ["r"] * 3}, "a.txt has 3 lines for 4 image rows"),
        ({"a.txt": ["r"] * 8}, "a.txt has 8 lines for 4 image rows"),
        ({"a.txt": []}, "a.txt has 0 lines"),
        ({"a.txt": ["r"] * 4, "b.txt": ["r"] * 2}, "different numbers of lines"),
    ],
)
def test_length_mismatch(files, rewrites, message):
    csv, paths = files(rewrites)
    with pytest.raises(UserError, match=message):
        CaptionFiles(csv, paths)


def test_unusable_csv(files):
    csv, _ = files({}, ["a.jpg"])
    with pytest.raises(UserError, match=r"line 1: no caption after a.jpg"):
        CaptionFiles(csv)
    csv, _ = files({}, ["a.gif,text of an unknown type"])
    with pytest.raises(UserError, match="has no row of the form"):
        CaptionFiles(csv)


def test_unreadable_images_leave_the_batch_with_their_texts(files, tmp_path, tokenizer):
    csv, _ = files({})
    (tmp_path / "img").mkdir()
    for i in (0, 1, 3):
        Image.new("L", (20, 10), 40 * i).save(tmp_path / f"img/{i}.jpg")
    (tmp_path / "img/1.jpg").write_bytes(b"broken")
    captions = CaptionFiles(csv)
    source = ImageFiles(captions.path, len(captions), TrainTransform(8), max_corrupt=0.6)
    batch = CaptionedImages(source, captions, tokenizer, seed=0)[[(i, 0) for i in range(4)]]
    assert batch["images"].shape == (2, 3, 8, 8)
    assert batch["ids"].tolist() == [0, 3]
    assert batch["skipped"] == 2
    assert batch["texts"] == ["caption 0", "caption 3"]
    assert source.counter.skipped == 2


def test_byte_order_marks_and_carriage_returns_are_no_text(tmp_path):
    """As spreadsheets write them: the first row was lost where its path is quoted, else it had a
    mark in its path.
    """
    for first in ("a/0.jpg", '"a/0.jpg"'):
        rows = f"\ufeff{first},one ball\r\nb.png,two balls\r\n"
        (tmp_path / "train.csv").write_bytes(rows.encode())
        (tmp_path / "rewrites.txt").write_bytes("\ufefffirst ball\r\nsecond ball\r\n".encode())
        captions = CaptionFiles(tmp_path / "train.csv", [tmp_path / "rewrites.txt"])
        assert [captions.path(i) for i in range(2)] == [tmp_path / "a/0.jpg", tmp_path / "b.png"]
        assert captions.texts(0) == ["one ball", "first ball"]
        assert captions.texts(1) == ["two balls", "second ball"]
