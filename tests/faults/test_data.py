"""Data that is not what it says: other encodings, empty texts, images that no decoder takes."""

import os

import pytest
import torch
from PIL import Image, ImageFile

from common.config import UserError
from common.damage import parse_json
from common.data.decode import Unreadable, decode_image
from common.data.image.sources import CachedImages, EvalTransform, ImageFiles
from common.data.image_text.captions import CaptionedImages, CaptionFiles, CaptionLists
from common.data.image_text.shards import sample_texts
from common.data.lines import LineFile, read_lines
from common.data.retrieval.readers import _json_lines
from common.data.tables import read_csv, read_jsonl
from common.data.text.tokenizers import ClipTokenizer

LATIN = "caf\u00e9".encode("latin-1")


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("a.csv", read_csv),
        ("a.csv", CaptionFiles),
        ("a.txt", LineFile),
        ("a.txt", read_lines),
        ("a.jsonl", read_jsonl),
        ("a.jsonl", lambda path: list(_json_lines(path))),
    ],
)
def test_text_in_another_encoding_is_refused(tmp_path, name, read):
    """It was read with U+FFFD in place of every letter beyond ASCII."""
    rows = {"csv": b"x.jpg,one\ny.jpg,%s\n", "txt": b"one\n%s\n", "jsonl": b'{"a":"b"}\n{"a":"%s"}'}
    path = tmp_path / name
    path.write_bytes(rows[path.suffix[1:]] % "caf\u00e9".encode())
    assert read(path)
    path.write_bytes(rows[path.suffix[1:]] % LATIN)
    with pytest.raises(UserError, match=rf"{name}.* 0xe9 is not UTF-8.*save .*iconv"):
        read(path)


@pytest.mark.parametrize("replaced", [False, True])
@pytest.mark.parametrize("read_before", [False, True])
def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path, replaced, read_before):
    """Its lines were looked for at their old places; a shorter file killed the process (SIGBUS)."""
    path = tmp_path / "a.txt"
    path.write_text("one\ntwo\nthree\n")
    lines = LineFile(path)
    assert not read_before or lines[2] == "three"
    new = tmp_path / "new" if replaced else path
    new.write_text("1\n2\n3\n")
    new.replace(path)
    with pytest.raises(UserError, match=r"a\.txt was changed while it was read"):
        lines[2]


def test_json_that_nests_without_end_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text("[" * 100_000 + "\n")
    with pytest.raises(UserError, match=r"a\.jsonl, line 1: not valid JSON"):
        parse_json("[" * 100_000, "a.jsonl", 1)
    with pytest.raises(UserError, match=r"a\.jsonl"):
        read_jsonl(tmp_path / "a.jsonl")


def pairs(texts, **options):
    images = CachedImages(torch.zeros(len(texts), 3, 8, 8, dtype=torch.uint8), EvalTransform(8))
    rows = CaptionLists([[text] for text in texts])
    return CaptionedImages(images, rows, ClipTokenizer(8), seed=0, text_policy="first", **options)


def test_empty_captions_count_as_corrupt():
    data = pairs(["a house", " ", "a tree", "a boat"], max_corrupt=0.5)
    batch = data[[(i, 0) for i in range(4)]]
    assert (batch["ids"].tolist(), batch["skipped"]) == ([0, 2, 3], 1)
    assert batch["texts"] == ["a house", "a tree", "a boat"]
    assert len(batch["images"]) == len(batch["tokens"]) == 3
    with pytest.raises(UserError, match="all 2 captions of a batch are empty"):
        pairs(["", ""])[[(0, 0), (1, 0)]]
    some = pairs(["a house"] * 9 + [""])
    with pytest.raises(UserError, match=r"captions: 10 of 100 samples are corrupt, .* 5\.0%"):
        some[[(i % 10, 0) for i in range(100)]]


def test_a_blank_caption_of_a_shard_is_corrupt():
    assert sample_texts({"json": b'{"texts": ["a", "b"]}'}, ["json.texts"]) == ["a", "b"]
    for content in (b'{"texts": ["a", " "]}', b'{"texts": ["a", 5]}', b'{"texts": null}'):
        with pytest.raises(ValueError, match="non-empty"):
            sample_texts({"json": content}, ["json.texts"])


@pytest.mark.parametrize("error", [RuntimeError, IndexError, OverflowError, AttributeError])
def test_whatever_a_decoder_raises_is_counted(tmp_path, monkeypatch, error):
    """The AVIF decoder raises RuntimeError, which ended the run with a traceback."""
    for name in ("0.png", "1.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    load = ImageFile.ImageFile.load

    def fail(self):
        if self.filename.endswith("1.png"):
            raise error("Failed to decode frame 0")
        return load(self)

    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    source = ImageFiles(lambda i: str(tmp_path / f"{i}.png"), 2, EvalTransform(8))
    images, kept = source.load([0, 1])
    assert (len(images), kept, source.counter.skipped) == (1, [0], 1)
    with pytest.raises(Unreadable, match=f"{error.__name__}: Failed to decode"):
        decode_image(str(tmp_path / "1.png"))


def test_an_image_in_memory_is_whole_and_too_little_memory_is_no_corrupt_image(
    tmp_path, monkeypatch
):
    Image.new("RGB", (4, 4), "red").save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    assert decode_image(whole).getpixel((0, 0)) == (255, 0, 0)
    with pytest.raises(Unreadable):
        decode_image(whole[:40])
    monkeypatch.setattr(Image, "open", lambda _: (_ for _ in ()).throw(MemoryError))
    with pytest.raises(MemoryError):
        decode_image(whole)


def test_a_pipe_among_images_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a\.png is a named pipe"):
        ImageFiles(lambda _: tmp_path / "a.png", 1, EvalTransform(8)).one(0)
