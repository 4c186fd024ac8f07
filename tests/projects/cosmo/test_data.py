"""Documents, windows, batches in turn, videos and the builder of interleaved videos."""

import base64
import io
import itertools
import json
import logging
import sys
import tarfile
from contextlib import nullcontext
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from common.config import UserError
from common.data.samplers import sample_rng
from common.decoding.generators import LocalGenerator
from common.encoders.text.tower import load_tokenizer
from common.engine.workspace import Workspace
from projects.cosmo import build_video, sources
from projects.cosmo.batches import CachedPatches, KindSource, Pixels, Words
from projects.cosmo.few_shot import Item, few_shot_prompt
from projects.cosmo.inference import opened as opened_for_use
from projects.cosmo.interleaved import documents as docs
from projects.cosmo.interleaved.clips import adjacent_clips, clip_seconds
from projects.cosmo.interleaved.round_robin import RoundRobin
from projects.cosmo.interleaved.tar_rows import TarRows
from projects.cosmo.interleaved.video import (
    FrameFolder,
    VideoFile,
    frame_times,
    open_video,
    segment_shots,
)
from projects.cosmo.network import load_language
from projects.cosmo.sources import Shards, draw, rows_of
from projects.cosmo.table import read_items
from tests.projects.cosmo.conftest import config


@pytest.fixture(scope="module")
def tokenizer():
    return load_language(config().model)[1]


# -- documents -----------------------------------------------------------------------------------


def test_item_13_matching_is_optimal():
    """Checklist 13: without noise the best of all assignments; noise is bounded; pairs below the
    threshold go.
    """
    rng = np.random.default_rng(0)
    for shape in ((3, 4), (4, 3), (4, 4)):
        values = rng.random(shape)
        actual = docs.match(values, threshold=-1)
        wide = values if shape[0] <= shape[1] else values.T
        best = max(
            sum(wide[i, j] for i, j in enumerate(p))
            for p in itertools.permutations(range(wide.shape[1]), len(wide))
        )
        assert sum(values[pair] for pair in actual) == pytest.approx(best)
        assert [j for _, j in actual] == sorted(j for _, j in actual)
    assert docs.match([[0.9, 0.1], [0.2, 0.2]], 0.24) == [(0, 0)]
    near = np.array([[0.5, 0.45], [0.45, 0.5]])
    drawn = {tuple(docs.match(near, 0.0, sample_rng(0, 0, i))) for i in range(200)}
    assert len(drawn) == 2
    far = np.array([[0.5, 0.3], [0.3, 0.5]])  # 0.4 against at most 4 x 0.08
    assert {tuple(docs.match(far, 0.0, sample_rng(0, 0, i))) for i in range(200)} == {
        ((0, 0), (1, 1))
    }


def obelics(texts, pictures=(), **scores):
    """A row as the COSMO release stores it: texts and pictures at the places of a document, scores
    as a string.
    """
    shown = iter(pictures)
    stored = [next(shown, "YQ==") if text is None else None for text in texts]
    score = str([[pair, value] for pair, value in scores.items()])
    return {"dataset": "obelics", "texts": texts, "image_info": stored, "score": score}


def test_documents_of_both_layouts():
    """MMC4 keeps all sentences in order, cut; OBELICS one text a picture, in both directions."""
    row = {
        "text_list": ["one", "x" * 300, "three"],
        "similarity_matrix": [[0, 0.9, 0], [0.8, 0, 0]],
    }
    actual = docs.document_of(row, 0.24, 30, sample_rng(0, 0, 0))
    assert actual.pictures == (1, 0)
    assert actual.text == "<visual>one<|endofchunk|><visual>" + "x" * 40 + " three<|endofchunk|>"
    row = obelics(
        ["one", None, None, "two", None], t0_i1=0.1, t3_i1=0.3, t0_i2=0.0, t0_i4=0.2, t3_i4=-0.1
    )
    kinds = {docs.document_of(row, 0.24, 30, sample_rng(0, 0, i)) for i in range(20)}
    two, one = (f"<visual>{word}<|endofchunk|>" for word in ("two", "one"))
    # places of pictures; the second one is like no text
    assert kinds == {docs.Document(two + one, (1, 4)), docs.Document(one + two, (4, 1))}
    with pytest.raises(ValueError, match="no picture"):
        docs.document_of(
            {"text_list": ["a"], "similarity_matrix": [[0.1]]}, 0.24, 30, sample_rng(0, 0, 0)
        )


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"score": [[0.1, 0.9]]}, r"not a list of \['t0_i1', value\]"),
        ({"score": "[['t0_i1', 0.3"}, "not a list of"),
        ({"score": "[['t0_i1']]"}, "not a list of"),
        ({"score": "[['i1_t0', 0.3]]"}, "names 'i1_t0', no pair such as t0_i1 of 2 places"),
        ({"score": "[['t0_i2', 0.3]]"}, "names 't0_i2'"),
        ({"score": "[['t1_i0', 0.3]]"}, "other than a text and a picture"),
        ({"score": "[['t0_i1', 0.0]]"}, "no picture of the document"),
        ({"texts": ["one"]}, "1 places for texts and 2 for pictures"),
        ({"texts": [None, None], "score": "[]"}, "no picture of the document"),
    ],
)
def test_rows_that_are_not_obelics_are_refused(changed, said):
    """Guards against pictures with a text that is not theirs, such as with the two places of a pair
    exchanged.
    """
    row = obelics(["one", None], t0_i1=0.3)
    rng = sample_rng(0, 0, 0)
    assert docs.document_of(row, 0.24, 30, rng).text == "<visual>one<|endofchunk|>"
    with pytest.raises(ValueError, match=said):
        docs.document_of({**row, **changed}, 0.24, 30, rng)


def test_captions_of_pairs():
    stored = "noisy\tclean one<EOC>clean two"
    drawn = {
        use: {docs.choose_caption(stored, use, sample_rng(0, 0, i)) for i in range(40)}
        for use in ("noisy_only", "clean_only", "mixed", "first", "last", "random")
    }
    assert drawn["noisy_only"] == {"noisy"}
    assert drawn["clean_only"] == {"clean one", "clean two"}
    assert drawn["mixed"] == drawn["random"] == {"noisy", "clean one", "clean two"}
    assert (drawn["first"], drawn["last"]) == ({"clean one"}, {"clean two"})
    blanks = [
        docs.caption_document("a", sample_rng(0, 0, i)).text.startswith("<visual> ")
        for i in range(200)
    ]
    assert 70 < sum(blanks) < 130


def test_item_15_at_most_three_pictures_and_zeros(tokenizer):
    """Checklist 15: windows hold whole places, their pictures and no fourth one; absent pictures
    are zeros.
    """
    ids = [1, 9, 2, 2, 9, 3, 3, 3, 9, 4, 9, 5, 5, 9, 6]
    for i in range(50):
        window = docs.token_window(ids, 9, 8, 3, sample_rng(0, 0, i))
        assert len(window.ids) <= 8
        assert window.ids.count(9) == window.places <= 3
        start = [k for k in range(len(ids)) if ids[k : k + len(window.ids)] == window.ids]
        assert any(sum(t == 9 for t in ids[:k]) == window.first for k in start)
    assert {docs.token_window(ids, 9, 8, 3, sample_rng(0, 0, i)).first for i in range(50)} == {
        0,
        1,
        2,
        3,
        4,
    }
    assert docs.token_window(ids, 9, 99, 3, sample_rng(0, 0, 0)) == docs.Window(ids[:10], 0, 3)

    class Five:
        def __len__(self):
            return 4

        def document(self, index, rng):
            pairs = [(i, i) for i in range(5 if index else 2)]
            return docs.mmc4_document([f"text {i}" for i in range(5)], pairs, 64), lambda i: [i]

    cfg = config("data.max_document=64")
    table = torch.arange(1.0, 6)[:, None, None].expand(5, 2, 3)
    source = KindSource(
        "interleaved_image", Five(), Words(tokenizer, cfg.data), CachedPatches(table), cfg.data, 0
    )
    batch = source.batch([(0, 0), (1, 0)])
    assert batch["patches"].shape == (2, 3, 1, 2, 3)
    assert batch["patches"][:, :, 0, 0, 0].tolist() == [[1, 2, 0], [1, 2, 3]]
    visual = source.words.ids["visual"]
    assert (batch["input_ids"] == visual).sum(1).tolist() == [2, 3]
    labels = batch["labels"]
    assert set(labels[0][batch["attention_mask"][0] == 0].tolist()) <= {-100}
    assert not (labels == visual).any()


def test_item_15_windows_begin_0_to_20_tokens_before_a_picture():
    """Spec, MMC4: every shift is drawn, none is larger, and no window begins before the place
    before.
    """
    ids = [1] * 40 + [9] + [2] * 60
    starts = set()
    for i in range(300):
        window = docs.token_window(ids, 9, 30, 3, sample_rng(0, 0, i))
        assert (len(window.ids), window.first, window.places) == (30, 0, 1)
        starts.add(window.ids.index(9))
    assert starts == set(range(21))
    near = [1] * 35 + [9, 2, 2, 9] + [3] * 60
    firsts = set()
    for i in range(100):
        window = docs.token_window(near, 9, 30, 3, sample_rng(0, 0, i))
        if window.first == 1:
            firsts.add(window.ids.index(9))
    assert firsts == {0, 1, 2}


def test_special_tokens_of_a_source_are_words(tokenizer):
    """A text that writes ``<visual>`` has no further place for a picture, nor roles or ends of
    chunks.
    """
    said = "a page <human>about `<visual>` tags<|endofchunk|>"
    rng = sample_rng(0, 0, 0)
    texts = {
        docs.caption_document(said, rng, 0.0).text: 1,
        docs.mmc4_document([said, said], [(0, 1)], 128).text: 1,
        docs.obelics_document([said, None], [None, "YQ=="], "[['t0_i1', 1.0]]", rng, 128).text: 1,
        docs.clip_document([said, said]).text: 2,
    }
    for text, pictures in texts.items():
        assert text.count("<visual>") == pictures
        assert "<human>" not in text
    assert docs.plain("<vis<visual>ual>") == "<vis ual>"
    words = Words(tokenizer, config().data)
    assert words.text(said).count(words.ids["visual"]) == 1
    assert words.text(" a dog ") == words.text("a dog")
    query = Item(0, (said,) * 4, "what is <visual>?")
    prompt = few_shot_prompt("vqa", [query], query, 1)
    assert prompt.text.count("<visual>") == len(prompt.pictures) == 2


def test_pixels_are_augmented_and_normalised_as_configured():
    """Spec, augmentation: crop, flip and AutoAugment, ImageNet's statistics or the tower's; none in
    evaluation.
    """
    tower = SimpleNamespace(
        image_size=8, encoder=SimpleNamespace(image_mean=[0.5] * 3, image_std=[0.25] * 3)
    )
    grey = Image.new("RGB", (16, 16), (100, 150, 200))  # crops and flips leave it as it is
    values = torch.tensor([100, 150, 200]) / 255
    means, stds = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    plain = {"imagenet": (values - means) / stds, "tower": (values - 0.5) / 0.25}
    for name, want in plain.items():
        pixels = Pixels(tower, config("data.augment=true", f"data.normalise={name}").data)
        torch.testing.assert_close(pixels([grey], None)[0, :, 0, 0], want, rtol=1e-5, atol=1e-5)
        drawn = [pixels([grey], sample_rng(0, 0, i))[0] for i in range(24)]
        same = [bool(torch.allclose(d, want[:, None, None].expand_as(d), atol=1e-4)) for d in drawn]
        assert any(same)
        assert not all(same)  # AutoAugment changes colours
    half = Image.new("RGB", (16, 16))
    half.paste((255, 255, 255), (8, 0, 16, 16))
    pixels = Pixels(tower, config("data.augment=true").data)
    sides = {
        bool(d[0, 0, 0, 0] > d[0, 0, 0, -1])
        for d in (pixels([half], sample_rng(1, 0, i)) for i in range(24))
    }
    assert sides == {True, False}  # flips
    assert Pixels(tower, config().data).training is None


# -- batches in turn -----------------------------------------------------------------------------


class Numbers:
    def __init__(self, name, size):
        self.name, self.size = name, size

    def __len__(self):
        return self.size

    def batch(self, keys):
        return self.name, list(keys)


def test_item_12_kinds_come_in_turn_with_their_batch_sizes():
    """Checklist 12: round robin, as many batches as the shortest kind allows for each, 2 B, B / 2
    but at least 4.
    """
    data = config(name="paper").data
    assert [data.batch_of(k) for k in ("image_text", "video_text", "interleaved_image")] == [
        192,
        48,
        48,
    ]
    assert config("data.batch_size=4").data.batch_of("instruction") == 4
    stream = RoundRobin(
        [Numbers("a", 20), Numbers("b", 9), Numbers("c", 50)], [4, 2, 5], seed=1, unit=4
    )
    assert stream.batches_per_epoch == 3 * 4
    assert stream.num_samples == 48
    batches = list(itertools.islice(stream, 24))
    assert [name for name, _ in batches] == list("abc") * 8
    assert [len(keys) for _, keys in batches[:3]] == [4, 2, 5]
    for name, size in (("a", 20), ("b", 9), ("c", 50)):
        for epoch in (0, 1):
            rows = [
                r
                for n, keys in batches[12 * epoch : 12 * epoch + 12]
                if n == name
                for r, e in keys
                if e == epoch
            ]
            assert len(set(rows)) == len(rows) > 0
            assert max(rows) < size
    assert batches[0][1] != [(r, 0) for r, _ in batches[12][1]]


def test_item_12_any_place_and_any_rank(monkeypatch):
    """Checklist 12: a stream goes on where it was; two ranks share a batch of one kind; loader
    processes change nothing.
    """
    sources, sizes = [Numbers("a", 40), Numbers("b", 40)], [2, 3]
    whole = list(itertools.islice(RoundRobin(sources, sizes, 0), 30))
    stream = RoundRobin(sources, sizes, 0)
    stream.start_at(17)
    assert list(itertools.islice(stream, 13)) == whole[17:]
    shares = []
    for rank in (0, 1):
        monkeypatch.setattr("projects.cosmo.interleaved.round_robin.rank", lambda rank=rank: rank)
        monkeypatch.setattr("projects.cosmo.interleaved.round_robin.world_size", lambda: 2)
        shares.append(list(itertools.islice(RoundRobin(sources, sizes, 0), 8)))
    wide = list(itertools.islice(_single([4, 6], sources), 8))
    for one, two, both in zip(*shares, wide, strict=True):
        assert one[0] == two[0] == both[0]
        assert one[1] + two[1] == both[1]
    with pytest.raises(UserError, match="do not fill a batch"):
        RoundRobin(sources, [2, 30], 0)


def _single(sizes, sources):
    stream = RoundRobin(sources, [2, 3], 0)
    stream.batch_sizes, stream.world_size, stream.rank = sizes, 1, 0
    return stream


# -- files ---------------------------------------------------------------------------------------


def tar(path, members):
    with tarfile.open(path, "w") as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return str(path)


def jpeg(colour="red", shape="ball"):
    buffer = io.BytesIO()
    draw(colour, shape).save(buffer, "JPEG")
    return buffer.getvalue()


def test_a_shard_that_is_cut_off_between_two_files_is_refused(tmp_path, caplog):
    """What lacks a file is left out and counted, once."""
    path = tmp_path / "p.tar"
    tar(path, {"0.txt": b"a", "1.txt": b"b", "2.json": b"{}"})
    with caplog.at_level(logging.WARNING):
        assert len(TarRows(str(path), ["txt"])) == 2
    assert "1 of 3 samples of" in caplog.text
    assert len(caplog.records) == 1
    path.write_bytes(path.read_bytes()[: 2 * 1024])  # two files of a header and a block each
    with pytest.raises(UserError, match=r"p\.tar has no end"):
        TarRows(str(path), ["txt"])


def test_samples_of_shards_are_numbered_by_their_first_files(tmp_path):
    """Files of a sample that lie apart, keys with folders and other letters, an order over all
    shards.
    """
    tar(
        tmp_path / "0.tar",
        {"b/1.TXT": b"one", "a.txt": b"two", "b/1.seg.json": b"{}", "x.png": b""},
    )
    tar(tmp_path / "1.tar", {"caf\u00e9.json": b"[]", "caf\u00e9.txt": b"three"})
    rows = TarRows(str(tmp_path / "{0,1}.tar"), ["txt"])
    assert [rows[i]["__key__"] for i in range(3)] == ["b/1", "a", "caf\u00e9"]
    assert rows[0] == {
        "__key__": "b/1",
        "__url__": str(tmp_path / "0.tar"),
        "txt": b"one",
        "seg.json": b"{}",
    }
    assert list(rows[2])[2:] == ["json", "txt"]
    assert rows[-1] == rows[2]
    with pytest.raises(IndexError):
        rows[3]


def test_shards_of_pairs_and_documents(tmp_path):
    """Members by number, whatever their order; documents with base64 pictures; a damaged sample is
    left out.
    """
    tar(
        tmp_path / "p.tar",
        {
            "0.jpg": jpeg(),
            "0.txt": b"a ball",
            "1.txt": b"alone",
            "2.txt": b"two",
            "2.jpg": b"no image",
        },
    )
    assert len(TarRows(str(tmp_path / "p.tar"))) == 3
    data = config(
        "data.source=shards",
        f"data.root={tmp_path}",
        "data.kinds=[image_text, interleaved_image]",
        "data.shards={image_text: p.tar, interleaved_image: d.tar}",
    ).data
    pairs = Shards("image_text", data)
    assert len(pairs) == 2
    document, opened = pairs.document(0, sample_rng(0, 0, 0))
    assert "a ball" in document.text
    assert opened(0)[0].size == (64, 64)
    row = {
        "text_list": ["here", "a ball"],
        "similarity_matrix": [[0.1, 0.7]],
        "image_info": [{"image_base64": base64.b64encode(jpeg()).decode()}],
    }
    tar(tmp_path / "d.tar", {"0.json": json.dumps(row).encode()})
    document, opened = Shards("interleaved_image", data).document(0, sample_rng(0, 0, 0))
    assert document.text == "here<|endofchunk|><visual>a ball<|endofchunk|>"
    assert opened(0)[0].size == (64, 64)
    with pytest.raises(UserError, match=r"has the files mp4"):
        rows_of(
            config(
                "data.source=shards",
                "data.kinds=[video_text]",
                "data.shards={video_text: p.tar}",
                f"data.root={tmp_path}",
            ),
            "video_text",
            "train",
        ).document(0, sample_rng(0, 0, 0))


class Zeros:
    """Pixels of frames that are counted and not looked at."""

    field = "pixels"

    def __call__(self, frames, rng):
        return torch.zeros(len(frames), 3, 4, 4)


def test_obelics_shards_as_released(tmp_path, tokenizer, caplog):
    """Pictures are base64 themselves and come with their text; rows that do not fit are counted
    with their reason.
    """
    colours = {"red one": "red", "blue one": "blue"}
    pictures = [base64.b64encode(jpeg(colour)).decode() for colour in colours.values()]
    row = obelics(
        ["red one", None, None, "blue one"], pictures, t0_i1=0.3, t3_i1=0.2, t0_i2=0.1, t3_i2=0.4
    )
    rows = [row, {**row, "score": None}, {**row, "texts": row["texts"][:3]}]
    rows += [{**row, "image_info": [None, "no image", "no image", None]}]
    tar(tmp_path / "o.tar", {f"{i}.json": json.dumps(r).encode() for i, r in enumerate(rows)})
    data = config(
        "data.source=shards",
        f"data.root={tmp_path}",
        "data.kinds=[interleaved_image]",
        "data.shards={interleaved_image: o.tar}",
        "data.max_corrupt=1",
    ).data
    shards = Shards("interleaved_image", data)
    orders = set()
    for i in range(10):
        document, opened = shards.document(0, sample_rng(0, 0, i))
        texts = document.text.removeprefix("<visual>").removesuffix("<|endofchunk|>")
        for text, place in zip(
            texts.split("<|endofchunk|><visual>"), document.pictures, strict=True
        ):
            seen = np.array(opened(place)[0])[32, 32]
            assert int(seen.argmax()) == {"red": 0, "blue": 2}[colours[text]]
        orders.add(document.pictures)
    assert orders == {(1, 2), (2, 1)}
    source = KindSource("interleaved_image", shards, Words(tokenizer, data), Zeros(), data, 0)
    with caplog.at_level(logging.WARNING):
        batch = source.batch([(i, 0) for i in range(4)])
    assert batch["ids"].tolist() == [0]
    assert (batch["input_ids"] == source.words.ids["visual"]).sum() == 2
    assert source.counter.skipped == 3
    for said in ("score is not a list", "3 places for texts and 4 for pictures", "row 3"):
        assert said in caplog.text


def test_instructions_and_items_of_the_table(tmp_path):
    draw("red", "ball").save(tmp_path / "a.png")
    said = [{"from": "human", "value": "<image>\nwhat?"}, {"from": "gpt", "value": "a ball"}]
    (tmp_path / "i.json").write_text(json.dumps([{"image": "a.png", "conversations": said}]))
    cfg = config(
        "data.source=shards",
        "data.kinds=[instruction]",
        "data.shards={instruction: i.json}",
        f"data.root={tmp_path}",
    )
    document, opened = rows_of(cfg, "instruction", "train").document(0, sample_rng(0, 0, 0))
    assert document.text == "<visual><human>what?<gpt>a ball<|endofchunk|>"
    assert opened(0)[0].size == (64, 64)
    (tmp_path / "t.jsonl").write_text('{"texts": ["a"]}\n')
    with pytest.raises(UserError, match="neither image nor frames"):
        read_items(tmp_path / "t.jsonl")


def test_pictures_of_every_kind_are_upright(tmp_path, tokenizer):
    """A photograph that its camera turned is trained on as it is seen, in tars and in folders."""
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    content = io.BytesIO()
    Image.new("RGB", (64, 32)).save(content, "jpeg", exif=exif)
    (tmp_path / "a.jpg").write_bytes(content.getvalue())
    said = [{"from": "human", "value": "what?"}, {"from": "gpt", "value": "a ball"}]
    (tmp_path / "i.json").write_text(json.dumps([{"image": "a.jpg", "conversations": said}]))
    encoded = base64.b64encode(content.getvalue()).decode()
    page = {"text_list": ["a"], "image_info": [{"image_base64": encoded}]}
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for name, data in {
            "0.jpg": content.getvalue(),
            "0.txt": b"a ball",
            "1.json": json.dumps(page | {"similarity_matrix": [[1.0]]}).encode(),
        }.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    for kind, file in {
        "instruction": "i.json",
        "image_text": "s.tar",
        "interleaved_image": "s.tar",
    }.items():
        cfg = config(
            "data.source=shards",
            f"data.kinds=[{kind}]",
            f"data.shards={{{kind}: {file}}}",
            f"data.root={tmp_path}",
        )
        _, opened = rows_of(cfg, kind, "train").document(0, sample_rng(0, 0, 0))
        assert opened(0)[0].size == (32, 64)
    turned = Image.open(tmp_path / "a.jpg")
    assert turned.size == (64, 32)
    assert opened_for_use(turned).size == (32, 64)


def test_conversations_left_out_and_cut_are_counted(tmp_path, tokenizer, caplog):
    draw("red", "ball").save(tmp_path / "a.png")
    rows = []
    for answer in ("a ball", "a ball " * 60):
        turns = [{"from": "human", "value": "what?"}, {"from": "gpt", "value": answer}]
        rows += [{"image": "a.png", "conversations": turns}, {"conversations": turns}]
    (tmp_path / "i.json").write_text(json.dumps(rows))
    cfg = config(
        "data.source=shards",
        "data.kinds=[instruction]",
        "data.shards={instruction: i.json}",
        f"data.root={tmp_path}",
        "data.max_document=40",
    )

    class Zeros:
        field = "pixels"

        def __call__(self, frames, rng):
            return torch.zeros(len(frames), 3, 2, 2)

    with caplog.at_level(logging.WARNING):
        conversations = rows_of(cfg, "instruction", "train")
        assert "2 of 4 conversations have no image" in caplog.text
        words = Words(tokenizer, cfg.data)
        source = KindSource("instruction", conversations, words, Zeros(), cfg.data, 0)
        source.batch([(0, 0)])
        assert "were cut" not in caplog.text
        assert source.batch([(0, 0), (1, 0)])["input_ids"].shape == (2, 40)
    assert source.cut == 1
    assert "1 conversations so far had more than data.max_document=40 tokens" in caplog.text
    with pytest.raises(UserError, match="shows a picture within data.max_document=40"):
        KindSource("interleaved_image", Wordy(), words, Zeros(), cfg.data, 0).batch([(0, 0)])


class Wordy:
    """A document that shows its picture late."""

    def __len__(self):
        return 1

    def document(self, index, rng):
        return SimpleNamespace(text="so " * 400, pictures=[]), None


def test_turns_of_others_are_refused(tmp_path):
    """What a system or a user says is not an answer to train on."""
    path = tmp_path / "i.json"
    cfg = config(
        "data.source=shards",
        "data.kinds=[instruction]",
        "data.shards={instruction: i.json}",
        f"data.root={tmp_path}",
    )
    said = [{"from": "system", "value": "be kind"}, {"from": "gpt", "value": "a ball"}]
    path.write_text(json.dumps([{"image": "a.png", "conversations": said}]))
    with pytest.raises(UserError, match="from human or gpt, not system; rename"):
        rows_of(cfg, "instruction", "train")
    path.write_text(json.dumps([{"image": "a.png"}]))
    with pytest.raises(UserError, match="not a JSON list of image and conversations"):
        rows_of(cfg, "instruction", "train")
    turns = [
        {"from": "human", "value": "<image> <gpt>what?"},
        {"from": "gpt", "value": "a <visual>"},
    ]
    path.write_text(json.dumps([{"image": "a.png", "conversations": turns}]))
    document, _ = rows_of(cfg, "instruction", "train").document(0, sample_rng(0, 0, 0))
    assert document.text == "<visual><human>what?<gpt>a<|endofchunk|>"


# -- videos --------------------------------------------------------------------------------------


@pytest.fixture
def videos(tmp_path):
    """Two folders of frames with two and three shots, and the list of them."""
    for name, shots in (("one", ["red", "blue"]), ("two", ["green", "black", "red"])):
        (tmp_path / name).mkdir()
        for i, colour in enumerate(c for c in shots for _ in range(4)):
            Image.new("RGB", (48, 48), colour).save(tmp_path / name / f"{i:03d}.png")
    (tmp_path / "list.jsonl").write_text('{"video": "one"}\n{"video": "two"}\n')
    return tmp_path


def test_shots_and_frames(videos):
    """Kernel temporal segmentation finds changes and no more; frames are those of their time."""
    video = FrameFolder(videos / "one")
    assert video.seconds == 8
    assert [f.getpixel((0, 0)) for f in video.frames([3.9, 4.0, 99])] == [
        (255, 0, 0),
        (0, 0, 255),
        (0, 0, 255),
    ]
    rng = np.random.default_rng(0)
    centres = np.eye(3)[[0] * 5 + [1] * 3 + [2] * 6]
    assert segment_shots(centres + 0.02 * rng.standard_normal(centres.shape), 8, 0.2) == [0, 5, 8]
    assert segment_shots(np.ones((6, 2)), 4, 0.1) == [0]
    with pytest.raises(UserError, match="not a folder of pictures"):
        FrameFolder(videos / "nothing")


class Recorder:
    """A video of 60 seconds that notes which points in time are asked for."""

    asked: list[list[float]] = []  # noqa: RUF012
    seconds = 60.0

    def __init__(self, content):
        self.content = content

    def frames(self, times):
        self.asked.append(list(times))
        return [draw("red", "ball") for _ in times]


def test_clips_are_read_at_the_speed_they_are_stored_at(tmp_path, monkeypatch):
    """Of HowTo: times of clips divided by 5; videos with one text from their beginning."""
    clips = [
        {"clip": "0:00:00 - 0:00:05", "caption": "he cuts"},
        {"clip": "0:00:05 - 0:00:20", "caption": "he eats"},
    ]
    tar(
        tmp_path / "v.tar",
        {
            "0.mp4": b"film",
            "0.json": json.dumps({"clips": json.dumps(clips)}).encode(),  # as released
            "1.mp4": b"film",
            "1.json": b'{"clips": "[]"}',
            "2.mp4": b"film",
            "2.json": json.dumps({"clips": clips}).encode(),  # as the builder writes them
        },
    )
    tar(tmp_path / "t.tar", {"0.webm": b"film", "0.txt": b"a man"})
    data = config(
        "data.source=shards",
        f"data.root={tmp_path}",
        "data.kinds=[interleaved_video, video_text]",
        "data.shards={interleaved_video: v.tar, video_text: t.tar}",
        "data.speed=5",
        "data.frames=2",
        "data.video_seconds=8",
        "data.clips=2",
    ).data
    monkeypatch.setattr(sources, "VideoFile", Recorder)
    monkeypatch.setattr(Recorder, "asked", [])
    shards = Shards("interleaved_video", data)
    document, opened = shards.document(0, sample_rng(0, 0, 0))
    assert document == docs.clip_document(["he cuts", "he eats"])
    assert shards.document(2, sample_rng(0, 0, 0))[0] == document
    assert len(opened(1)) == 2
    opened(0)
    Shards("video_text", data).document(0, sample_rng(0, 0, 0))[1](0)
    assert Recorder.asked == [frame_times(1, 4, 2), frame_times(0, 1, 2), [2.0, 6.0]]
    with pytest.raises(ValueError, match="without clips"):
        shards.document(1, sample_rng(0, 0, 0))


def test_clips_of_howto_are_repaired_as_released(tmp_path, monkeypatch):
    """One that ends before it begins is the two seconds before its end; of too few clips the last
    one is repeated.
    """
    clips = [{"clip": "0:01:10 - 0:01:05", "caption": "he cuts"}]
    content = json.dumps({"clips": json.dumps(clips)}).encode()
    tar(tmp_path / "v.tar", {"0.mp4": b"film", "0.json": content})
    data = config(
        "data.source=shards",
        f"data.root={tmp_path}",
        "data.kinds=[interleaved_video]",
        "data.shards={interleaved_video: v.tar}",
        "data.speed=5",
        "data.frames=2",
    ).data
    monkeypatch.setattr(sources, "VideoFile", Recorder)
    monkeypatch.setattr(Recorder, "asked", [])
    shards = Shards("interleaved_video", data)
    actual = [shards.document(0, sample_rng(0, 0, i))[0].text for i in range(20)]
    assert {text.count("he cuts") for text in actual} == {2, 3}
    shards.document(0, sample_rng(0, 0, 0))[1](1)
    assert Recorder.asked == [frame_times(63 / 5, 65 / 5, 2)]
    assert clip_seconds("0:00:09 - 0:00:01", repair=True) == (0, 3)  # moved into the video
    assert clip_seconds("0:00:04 - 0:00:04", repair=True) == (4, 4)
    for clip in ("0:01:10 - 0:01:05", "0:00:04 - 0:00:04"):
        with pytest.raises(ValueError, match="ends before it begins"):
            clip_seconds(clip)
    drawn = {tuple(adjacent_clips("[1, 2, 3, 4]", 3, sample_rng(0, 0, i))) for i in range(60)}
    assert drawn == {(1, 2), (2, 3), (3, 4), (1, 2, 3), (2, 3, 4)}


def test_a_damaged_video_is_left_out(tmp_path, monkeypatch, tokenizer, caplog):
    """Counted as any other sample; without PyAV the run ends, and a single file is named."""

    class Broken(Exception):
        pass

    def opened(source):
        raise Broken("moov atom not found")

    av = ModuleType("av")
    av.open, av.error = opened, SimpleNamespace(FFmpegError=Broken)
    monkeypatch.setitem(sys.modules, "av", av)
    with pytest.raises(ValueError, match="no readable video: moov"):
        VideoFile(b"x")
    (tmp_path / "x.mp4").write_bytes(b"x")
    with pytest.raises(UserError, match=r"x\.mp4 is not a video, or damaged .*get it again"):
        open_video(tmp_path / "x.mp4")
    tar(tmp_path / "t.tar", {"0.mp4": b"film", "0.txt": b"a", "1.mp4": b"x", "1.txt": b"b"})
    data = config(
        "data.source=shards",
        f"data.root={tmp_path}",
        "data.kinds=[video_text]",
        "data.shards={video_text: t.tar}",
    ).data
    monkeypatch.setattr(
        sources, "VideoFile", lambda c: Recorder(c) if c == b"film" else VideoFile(c)
    )
    source = KindSource(
        "video_text", Shards("video_text", data), Words(tokenizer, data), Zeros(), data, 0
    )
    with caplog.at_level(logging.WARNING):
        assert source.batch([(0, 0), (1, 0)])["ids"].tolist() == [0]
    assert source.counter.skipped == 1
    assert "moov" in caplog.text
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match="pip install av"):
        source.batch([(0, 0), (1, 0)])


def film(monkeypatch, frames: int, damaged: int | None = None) -> list[str]:
    """PyAV with a video of two frames a second; what is done is noted."""
    done: list[str] = []

    def frame(i):
        def to_image():
            done.append(f"picture {i}")
            return Image.new("RGB", (4, 4), (i, 0, 0))

        return SimpleNamespace(time=i / 2, to_image=to_image)

    def decode(stream):
        for i in range(frames):
            if i == damaged and any(note.startswith("picture") for note in done):
                raise OSError("gone")
            done.append(f"frame {i}")
            yield frame(i)

    av = ModuleType("av")
    container = SimpleNamespace(streams=SimpleNamespace(video=[0]), decode=decode)
    av.open, av.error = lambda source: nullcontext(container), SimpleNamespace(FFmpegError=OSError)
    monkeypatch.setitem(sys.modules, "av", av)
    return done


def test_of_a_video_only_the_wanted_frames_become_pictures(monkeypatch):
    """Every frame as a picture would be gigabytes a minute; what follows the last one is not
    decoded again.
    """
    done = film(monkeypatch, 12)
    video = VideoFile(b"film")
    assert done == [f"frame {i}" for i in range(12)]
    assert video.seconds == 5.5
    done.clear()
    shown = video.frames([2.2, -1.0, 1.0, 2.4])
    assert [picture.getpixel((0, 0))[0] for picture in shown] == [4, 0, 2, 4]
    assert [note for note in done if "picture" in note] == ["picture 0", "picture 2", "picture 4"]
    assert "frame 5" not in done
    assert video.frames([99.0])[0].getpixel((0, 0)) == (11, 0, 0)
    assert video.frames([]) == []


def test_a_video_that_is_damaged_meanwhile_is_told(monkeypatch):
    film(monkeypatch, 12, damaged=3)
    with pytest.raises(ValueError, match="no readable video: gone"):
        VideoFile(b"film").frames([0.0, 5.0])


def test_item_16_clips_are_in_seconds_of_the_event(videos, monkeypatch):
    """A video stored at twice the speed; its frames are asked for in its own seconds, its clips are
    not.
    """
    given = [{"clip": "0:00:00 - 0:00:06"}, {"clip": "0:00:06 - 0:00:16", "tags": ["mine"]}]
    folder = FrameFolder(videos / "one")
    seen = []

    def frames(times):
        seen.append(list(times))
        return folder.frames(times)

    video = SimpleNamespace(seconds=folder.seconds, frames=frames)
    monkeypatch.setattr(build_video, "open_video", lambda path, fps: video)
    cfg = config("video.speed=2", "video.tags=[red, blue]", "video.penalty=0.02")
    build = build_video.build_shots(cfg)
    clips = build([{"video": "one", "clips": given}], [])[0]
    assert seen == [frame_times(0, 3, 3)]  # the second clip has tags
    assert clips[1]["tags"] == ["mine"]
    assert len(clips[0]["tags"]) == 2
    actual = build([{"video": "one"}], [])[0]
    assert [c["clip"] for c in actual] == ["0:00:00 - 0:00:08", "0:00:08 - 0:00:16"]
    assert clip_seconds(actual[1]["clip"], 2) == (4, 8)
    late = {"video": "one", "clips": [{"clip": "0:00:16 - 0:00:18"}]}
    with pytest.raises(UserError, match=r"16 seconds at video\.speed=2.* begins later"):
        build([late], [])


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({}, r"made up: set video\.tags"),
        ({"clips": []}, r"made up: set video\.tags"),
        ({"clips": [{"clip": "0:00:00 - 0:00:03", "asr": ""}]}, r"made up: set video\.tags"),
        ({"clips": [{"clip": "0:03 to 0:05", "asr": "cut"}]}, "clips are written"),
        ({"clips": ["0:00:00 - 0:00:03"]}, "clips are written"),
    ],
)
def test_item_16_captions_are_not_made_up(videos, tmp_path, row, said):
    """Clips of which nothing is known but the time are refused before anything is computed."""
    (videos / "bad.jsonl").write_text(json.dumps({"video": "one", **row}) + "\n")
    with pytest.raises(UserError, match=said):
        build_video.write_clips(config(f"video.inputs={videos}/bad.jsonl"), Workspace(tmp_path))
    assert not (tmp_path / "shots").exists()


def test_item_16_any_local_model_captions_clips(videos, monkeypatch, tmp_path):
    """Checklist 16: shots, inputs of clips, captions conditioned on the one before; shared out,
    continued, the written form.
    """
    asked: list[str] = []

    def generator(*args, **kwargs):
        def generate(prompts, rngs, most):
            asked.extend(p.text for p in prompts)
            return [f" he does {int(rng.integers(1000))}. More.\nrest" for rng in rngs]

        return generate

    monkeypatch.setattr(build_video, "text_generator", generator)
    words = [
        f"video.inputs={videos}/list.jsonl",
        "video.tags=[red, blue]",
        "video.num_tags=1",
        "video.penalty=0.02",
        "task.chunk_size=1",
    ]
    half = build_video.write_clips(config(*words, "task.shard=0/2"), Workspace(tmp_path / "w"))
    assert half is None
    assert not asked  # a share has the shots of its own videos, captions need all of them
    rest = build_video.write_clips(config(*words, "task.shard=1/2"), Workspace(tmp_path / "w"))
    assert rest is None  # now the shots are complete, the first share's captions are missing
    assert len(asked) == 3  # clips of the second video
    folder = build_video.write_clips(config(*words), Workspace(tmp_path / "w"))
    assert folder is not None
    count = len(asked)
    actual = {
        name: json.loads((folder / f"{name}.json").read_text())["clips"] for name in ("one", "two")
    }
    assert [len(actual[n]) for n in ("one", "two")] == [2, 3]
    assert actual["one"][0]["clip"] == "0:00:00 - 0:00:04"
    assert all(
        set(c) == {"clip", "caption"} and c["caption"].endswith(".")
        for own in actual.values()
        for c in own
    )
    assert clip_seconds(actual["two"][2]["clip"]) == (8, 12)
    for own in actual.values():  # the caption before stands in the prompt of the next
        for before, clip in itertools.pairwise(own):
            prompt = next(
                p
                for p in asked
                if f"Time: {clip['clip']}" in p and f"Before: {before['caption']}" in p
            )
            assert "Tags: " in prompt
    assert count == 5
    again = build_video.write_clips(config(*words), Workspace(tmp_path / "w"))
    assert len(asked) == count  # nothing is asked twice
    assert again == folder
    with pytest.raises(UserError, match=r"video\.inputs"):
        build_video.write_clips(config(), Workspace(tmp_path))


def test_item_16_long_speech_leaves_the_question_and_the_caption_before(
    monkeypatch, videos, tmp_path
):
    """Guards against a prompt whose end is cut: the model would go on with the speech; the count is
    said.
    """
    asked = []

    def generate(self, prompts, rngs, most):
        asked.extend(prompt.text for prompt in prompts)
        return [" he cuts it."] * len(prompts)

    monkeypatch.setattr(LocalGenerator, "__call__", generate)
    clips = [{"clip": "0:00:00 - 0:00:03", "asr": "short"}]
    clips.append({"clip": "0:00:03 - 0:00:08", "asr": "now " * 1000, "regions": ["a knife"] * 40})
    (videos / "given.jsonl").write_text(json.dumps({"video": "one", "clips": clips}) + "\n")
    cfg = config(f"video.inputs={videos}/given.jsonl")
    build_video.write_clips(cfg, Workspace(tmp_path / "w"))
    assert asked[1].endswith("\nBefore: he cuts it.\nSentence:")
    assert "Speech: now now" in asked[1]
    assert "Regions: a knife; a knife" in asked[1]
    tokens = len(load_tokenizer(cfg.video.model)(asked[1])["input_ids"])
    assert 0.8 * build_video.prompt_budget(cfg) < tokens <= build_video.prompt_budget(cfg)
    assert "1 of 2 clips: inputs shortened" in (tmp_path / "w/notes.txt").read_text()


def test_item_16_empty_captions_are_drawn_again_and_left_out(videos, monkeypatch, tmp_path):
    """Guards against documents of pictures without text: they are counted and not written."""
    asked: list[str] = []

    def generator(*args, **kwargs):
        def generate(prompts, rngs, most):
            asked.extend(p.text for p in prompts)
            # the second clip never has a caption, the third at its second draw
            third = sum("0:00:06" in text for text in asked)
            return [
                "\n" if "0:00:03" in p.text or ("0:00:06" in p.text and third < 2) else "He cuts."
                for p in prompts
            ]

        return generate

    monkeypatch.setattr(build_video, "text_generator", generator)
    bounds = ["0:00:00 - 0:00:02", "0:00:03 - 0:00:04", "0:00:06 - 0:00:08"]
    rows = [
        {"video": "one", "clips": [{"clip": b, "asr": "x"} for b in bounds]},
        {"video": "two", "clips": [{"clip": bounds[1], "asr": "x"}]},
    ]
    (videos / "given.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [f"video.inputs={videos}/given.jsonl", f"video.output={tmp_path}/out"]
    folder = build_video.write_clips(config(*words), Workspace(tmp_path / "w"))
    clips = json.loads((folder / "one.json").read_text())["clips"]
    assert clips == [{"clip": bounds[i], "caption": "He cuts."} for i in (0, 2)]
    assert not (folder / "two.json").exists()
    assert "Before: He cuts." in asked[-1]  # of the last clip that has one
    told = (tmp_path / "w/notes.txt").read_text()
    assert "2 clips and 1 videos left out" in told
    with pytest.raises(UserError, match=r"one\.json exists already"):
        build_video.write_clips(config(*words), Workspace(tmp_path / "other"))


def test_item_16_with_a_model_of_transformers(videos, tmp_path):
    """Checklist 16: the bundled language model writes what the documented form holds; given clips
    and speech are used.
    """
    row = {
        "video": "one",
        "clips": [
            {"clip": "0:00:00 - 0:00:03", "asr": "now we cut"},
            {"clip": "0:00:03 - 0:00:08", "tags": ["knife"]},
        ],
    }
    (videos / "given.jsonl").write_text(json.dumps(row) + "\n")
    cfg = config(f"video.inputs={videos}/given.jsonl", "video.max_new_tokens=6")
    folder = build_video.write_clips(cfg, Workspace(tmp_path / "w"))
    clips = json.loads((folder / "one.json").read_text())["clips"]
    assert {c["clip"] for c in clips} <= {"0:00:00 - 0:00:03", "0:00:03 - 0:00:08"}
    assert all(c["caption"] for c in clips)


def test_a_text_is_embedded_as_a_caption_that_is_cut(tokenizer):
    data = config("data.max_caption=5").data
    whole = Words(tokenizer, config().data).text("one two three four five six")
    assert len(whole) > 5
    assert Words(tokenizer, data).text("one two three four five six") == whole[:5]
