"""Texts of a sample: draw, guard, files, switches (checklist items 1-4, 10, 16)."""

import io
import json
import tarfile
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from common.config import UserError
from common.data.image.sources import ImageFiles
from common.data.image_text.captions import (
    CaptionedImages,
    CaptionFiles,
    CaptionLists,
    choose_texts,
)
from common.data.image_text.drawings import FRAMES
from common.data.samplers import sample_rng
from common.data.text.augment import Eda, WordDropout
from common.data.text.tokenizers import ClipTokenizer
from common.engine.comparison.spec import read_comparisons
from common.families.image_text.data import (
    files_of,
    num_samples,
    requirements,
    train_transform,
)
from common.families.image_text.drawings import POOL, pool_images
from projects.laclip import data as laclip_data
from projects.laclip.config import LaclipData
from projects.laclip.data import Formed, Sometimes, build_data, word_augmentation
from tests.projects.laclip.conftest import SOURCES, config, csv_config, text_of

TOKENIZER = ClipTokenizer(16)


def dataset(cfg):
    return build_data(cfg, TOKENIZER).train_set


def test_item_1_draw_is_uniform_and_new_at_every_access(official):
    """Item 1: each of the M + 1 texts has frequency 1 / (M + 1) over many accesses."""
    data = dataset(csv_config(official))
    drawn = Counter(data._texts(3, epoch)[0] for epoch in range(5000))
    assert set(drawn) == {text_of(s, 3) for s in ("original", *SOURCES)}
    assert all(abs(n / 5000 - 0.2) < 0.03 for n in drawn.values())
    runs = sum(data._texts(3, e) == data._texts(3, e + 1) for e in range(1000))
    assert abs(runs / 1000 - 0.2) < 0.06  # successive accesses are independent
    pairs = Counter((data._texts(3, e)[0], data._texts(4, e)[0]) for e in range(2500))
    assert len(pairs) == 25  # and so are samples of one epoch


def test_item_1_draw_is_independent_of_the_image_augmentation(official):
    """Item 1: with or without rewrites, the crop of an access is the same."""
    keys = [(i, 7) for i in range(4)]
    with_rewrites = dataset(csv_config(official))[keys]
    without = dataset(csv_config(official, "data.num_rewrites=0"))[keys]
    assert torch.equal(with_rewrites["images"], without["images"])
    assert with_rewrites["texts"] != without["texts"]
    assert not torch.equal(
        with_rewrites["images"], dataset(csv_config(official))[[(i, 8) for i in range(4)]]["images"]
    )


def test_item_2_without_rewrites_the_batches_are_those_of_clip(official):
    """Item 2: M = 0 gives, bit for bit, the batches of a plain one-caption data set."""
    cfg = csv_config(official, "data.num_rewrites=0")
    files = CaptionFiles(official / "toy/toy.csv")
    clip = CaptionedImages(
        ImageFiles(files.path, len(files), train_transform(cfg.data)),
        files,
        TOKENIZER,
        seed=cfg.seed,
        text_policy="first",
    )
    for epoch in range(3):
        keys = [(i, epoch) for i in (5, 2, 9)]
        ours, plain = dataset(cfg)[keys], clip[keys]
        assert ours["texts"] == plain["texts"] == [text_of("original", i) for i in (5, 2, 9)]
        assert torch.equal(ours["images"], plain["images"])
        assert torch.equal(ours["tokens"], plain["tokens"])


def test_item_3_short_texts_are_replaced_by_the_original():
    """Item 3: a drawn text with fewer than two words becomes the original caption."""
    texts = ["the original caption", "word", "", "two words"]
    drawn = {choose_texts(texts, "random", sample_rng(0, 0, i))[0] for i in range(100)}
    assert drawn == {"the original caption", "two words"}
    both = {tuple(choose_texts(texts, "multi", sample_rng(0, 0, i), 2)) for i in range(100)}
    assert {second for _, second in both} == drawn
    alone = choose_texts(["word"], "random", sample_rng(0, 0, 0))
    assert alone == ["word"]  # nothing to fall back to


def test_item_3_augmentation_does_not_leave_a_single_word():
    """Item 3: EDA or dropout that leaves one word is not used."""
    halve = Sometimes(lambda text, rng: text.split()[0], 1.0)
    assert halve("red car", sample_rng(0, 0, 0)) == "red car"
    synonym = Sometimes(lambda text, rng: "auto", 1.0)
    assert synonym("car", sample_rng(0, 0, 0)) == "auto"  # one word for one word


def test_augmentation_is_drawn_again_until_it_alters_the_text():
    """EDA leaves many short names as they are: a draw that does nothing is not an augmentation."""
    kinds = ["keep", "keep", "alter"] * 2
    lazy = Sometimes(lambda text, rng: text if kinds.pop(0) == "keep" else "red auto", 1.0)
    assert lazy("red  car", sample_rng(0, 0, 0)) == "red auto"
    assert Sometimes(lambda text, rng: text, 1.0)("red car", sample_rng(0, 0, 0)) == "red car"


def test_eda_arm_alters_four_of_five_drawn_names():
    """What compare.yaml says of its arm, on the names of the pool."""
    _, drawings = read_comparisons("laclip")
    cfg = config(*(f"{k}={v}" for k, v in drawings.arms["eda"].items()), name=drawings.base)
    files = CaptionFiles(files_folder() / "train.csv", root="")
    names = [files.texts(i)[0] for i in range(0, len(files), 8)]
    augment = word_augmentation(cfg.data)
    assert augment is not None
    sometimes = Sometimes(augment, cfg.data.augment_prob)
    drawn = [sometimes(name, sample_rng(0, 0, i)) for i, name in enumerate(names)]
    assert sum(a != b for a, b in zip(drawn, names, strict=True)) / len(names) >= 0.8


@pytest.mark.parametrize(
    ("name", "lines"), [("toy_bard.txt", 11), ("toy_bard.txt", 13), ("toy_human.txt", 0)]
)
def test_item_4_length_mismatch_is_an_error(official, name, lines):
    """Item 4: rewrite files of different length, or not a divisor of the CSV, are refused."""
    (official / "toy" / name).write_text("a b\n" * lines, encoding="utf-8")
    with pytest.raises(UserError, match=r"toy_(bard|human)\.txt"):
        dataset(csv_config(official))


def test_item_4_all_files_too_long_is_an_error_and_divisors_are_taken_modulo(official):
    """Item 4: 8 lines for 12 rows are refused, 6 lines are repeated."""
    for lines, fine in ((8, False), (6, True)):
        for source in SOURCES:
            text = "".join(f"{source} line {i}\n" for i in range(lines))
            (official / f"toy/toy_{source}.txt").write_text(text, encoding="utf-8")
        if fine:
            texts = dataset(csv_config(official)).captions.texts(8)
            assert texts == [text_of("original", 8), *(f"{s} line 2" for s in SOURCES)]
        else:
            with pytest.raises(UserError, match="8 lines for 12 image rows"):
                dataset(csv_config(official))


@pytest.mark.parametrize("name", ["toy.csv", "toy_mscoco.txt"])
def test_missing_files_are_named_with_layout_and_source(official, name):
    (official / "toy" / name).unlink()
    with pytest.raises(UserError, match=name.replace(".", r"\.")) as error:
        dataset(csv_config(official))
    assert "Expected layout" in str(error.value)
    assert "https://" in str(error.value)


def test_rows_with_other_suffixes_are_skipped(official):
    cfg = csv_config(official)
    assert num_samples(cfg.data) == len(dataset(cfg)) == 12
    assert [r.present for r in requirements(cfg)] == [True] * 5


def test_item_10_truncation_keeps_the_end_token():
    """Item 10: an over-long text is cut and ends in end-of-text, the highest id."""
    tokens = ClipTokenizer(77)("word " * 100)
    assert tokens.shape == (1, 77)
    assert int(tokens[0, -1]) == 49407 == int(tokens.max())
    assert int(TOKENIZER("a cat").argmax()) == 3


def test_item_12_and_16_sources_and_counts_are_switches(official):
    """Items 12, 16: number and source of rewrites, alias coco."""
    cfg = csv_config(official, "data.texts=[original,coco,human]")
    assert cfg.data.text_sources == ["mscoco", "human"]
    assert [p.name for p in files_of(cfg.data)] == ["toy.csv", "toy_mscoco.txt", "toy_human.txt"]
    for count in range(5):
        data = dataset(csv_config(official, f"data.num_rewrites={count}"))
        assert len(data.captions.texts(0)) == 1 + count
    with pytest.raises(UserError, match="num_rewrites"):
        csv_config(official, "data.num_rewrites=5")
    with pytest.raises(UserError, match="begin with 'original'"):
        csv_config(official, "data.texts=[chatgpt]")


@pytest.mark.parametrize("kind", ["eda", "word_dropout"])
def test_item_16_word_level_augmentation_instead_of_rewrites(official, kind):
    """Item 16: EDA and word dropout alter captions at the configured share; no rewrite is read."""
    for name in ("chatgpt", "human"):
        (official / f"toy/toy_{name}.txt").unlink()
    options = [f"data.augmentation={kind}", "data.augment_strength=0.4"]
    for prob in (0.0, 0.8):
        data = dataset(csv_config(official, *options, f"data.augment_prob={prob}"))
        texts = [data._texts(3, epoch)[0] for epoch in range(300)]
        changed = sum(text != text_of("original", 3) for text in texts) / 300
        assert abs(changed - prob) < 0.08
        assert all(len(text.split()) >= 2 for text in texts)
        assert not any("says" in text for text in texts)


@pytest.mark.parametrize(
    "options", [["data.augmentation=eda", "data.num_rewrites=2"], ["data.augmentation=none"]]
)
def test_a_share_of_altered_captions_needs_captions_that_are_altered_anew(official, options):
    """Fixed versions are all altered and rewrites are no alterations: the share would do
    nothing."""
    csv_config(official, *options)
    with pytest.raises(UserError, match=r"data\.augment_prob is of captions that are altered"):
        csv_config(official, *options, "data.augment_prob=0.5")


def test_item_16_number_of_fixed_versions_is_a_switch(official):
    """Item 16: M altered versions beside the caption, the same at every access; 0 is CLIP."""
    for count in (0, 1, 3):
        words = ["data.augmentation=word_dropout", "data.augment_strength=0.4"]
        cfg = csv_config(official, *words, f"data.num_rewrites={count}")
        data = dataset(cfg)
        own = data.captions.texts(3)
        assert own == data.captions.texts(3)
        assert len(own) == cfg.data.num_texts == 1 + count
        assert text_of("original", 3) not in own[1:]
        assert {data._texts(3, epoch)[0] for epoch in range(80)} == set(own)
    assert any(len(set(data.captions.texts(i)[1:])) == 3 for i in range(12))
    other = dataset(csv_config(official, *words, "data.num_rewrites=3", "seed=1"))
    assert any(other.captions.texts(i) != data.captions.texts(i) for i in range(12))


def test_item_16_back_translation_is_read_from_files(official):
    """Item 16: back-translated captions take the place of the rewrites; none of them is CLIP."""
    for i in (1, 2):
        text = "".join(f"back {i} row {row}\n" for row in range(12))
        (official / f"toy/toy_back_translation_{i}.txt").write_text(text, encoding="utf-8")
    back = "data.augmentation=back_translation"
    for words, count in ((["data.num_rewrites=2"], 2), ([], 1), (["data.num_rewrites=0"], 0)):
        texts = dataset(csv_config(official, back, *words)).captions.texts(5)
        assert texts[1:] == ["back 1 row 5", "back 2 row 5"][:count]


def test_forms_of_a_rewrite(official):
    """A rewrite may keep the caption, stand in one caption with the others, or add no word."""
    caption, bard = text_of("original", 3), text_of("bard", 3)
    own = dataset(csv_config(official, "data.text_form=with_caption")).captions.texts(3)
    assert own[:3] == [caption, f"{caption}, {text_of('chatgpt', 3)}", f"{bard}, {caption}"]
    (joined,) = dataset(csv_config(official, "data.text_form=joined")).captions.texts(3)
    assert joined == ", ".join(text_of(s, 3) for s in ("original", *SOURCES))
    framed = dataset(csv_config(official, "data.text_form=framed")).captions
    assert len(framed.texts(3)) == 5
    assert all(caption in text and "says" not in text for text in framed.texts(3))
    assert framed.texts(3) == framed.texts(3)
    same = Formed(CaptionLists([["a cat", "a cat"]]), "with_caption", 0)
    assert same.texts(0) == ["a cat", "a cat"]


def test_frames_are_of_the_caption_its_image_and_the_seed(official):
    """Each rewrite has frames of its kind; images and seeds draw others."""
    first, other = (
        dataset(csv_config(official, "data.text_form=framed", f"seed={seed}")).captions
        for seed in (0, 1)
    )
    frames = []
    for captions in (first, other):
        rows = [captions.texts(i) for i in range(12)]
        frames.append([[t.replace(row[0], "{}") for t in row[1:]] for row in rows])
    assert frames[0] != frames[1]
    assert len({tuple(row) for row in frames[0]}) > 6
    for row in frames[0]:
        assert all(text in FRAMES[m % len(FRAMES)] for m, text in enumerate(row))


def test_a_text_that_comes_twice_is_joined_once():
    twice = CaptionLists([["a cat", "a pet", "a cat"]])
    assert Formed(twice, "joined", 0).texts(0) == ["a cat, a pet"]


def test_augmentations_have_strength_and_synonyms_of_the_config(monkeypatch):
    monkeypatch.setattr(laclip_data, "wordnet_synonyms", lambda pos, root: {"a": [root]})
    words = ["data.augment_strength=0.4", "data.root=here"]
    made = [
        word_augmentation(config(*words, f"data.augmentation={kind}").data)
        for kind in ("eda", "word_dropout", "none")
    ]
    assert made == [Eda({"a": ["here"]}, 0.4), WordDropout(0.4), None]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data.text_form=joined", "method.num_texts=2"], "an image has 1 texts"),
        (["data.text_form=framed", "data.augmentation=eda"], "needs data.augmentation=none"),
        (["data.source=webdataset", "data.shards=x.tar", "data.text_form=joined"], "as they are"),
        (
            [
                "data.source=webdataset",
                "data.shards=x.tar",
                "data.augmentation=eda",
                "data.num_rewrites=2",
            ],
            "as they are",
        ),
        (["data.augmentation=eda", "data.num_rewrites=1001"], "between 0 and 1000, the versions"),
    ],
)
def test_texts_that_cannot_be_given_are_refused(words, said):
    with pytest.raises(UserError, match=said):
        config(*words)


@pytest.mark.slow
def test_texts_of_the_arms_fit_their_context():
    """No word of all_texts or of a rewrite is cut: equal information."""
    _, spec = read_comparisons("laclip")
    for arm in ("all_texts", "laclip", "framed"):
        cfg = config(*(f"{k}={v}" for k, v in spec.arms[arm].items()), name=spec.base)
        files = [files_folder() / f"train_{source}.txt" for source in cfg.data.text_sources]
        captions = CaptionFiles(files_folder() / "train.csv", files, root="")
        formed = Formed(captions, cfg.data.text_form, 0)
        texts = [text for i in range(len(captions)) for text in formed.texts(i)]
        longest = sorted(texts, key=len)[-300:]
        length = cfg.model.open_clip["text_cfg"]["context_length"]
        assert int((ClipTokenizer(77)(longest) != 0).sum(1).max()) <= length, arm


def test_multi_text_batches_hold_original_and_one_rewrite(official):
    batch = dataset(csv_config(official, "method.num_texts=2"))[[(i, 0) for i in range(6)]]
    assert batch["tokens"].shape == (6, 2, 16)
    for row, (first, second) in enumerate(batch["texts"]):
        assert first == text_of("original", row)
        assert second in {text_of(s, row) for s in SOURCES}
    with pytest.raises(UserError, match="num_texts=6"):
        csv_config(official, "method.num_texts=6")


def write_shard(path, num_samples):
    with tarfile.open(path, "w") as archive:
        for i in range(num_samples):
            buffer = io.BytesIO()
            Image.fromarray(np.full((40, 40, 3), i * 9 % 256, np.uint8)).save(buffer, "JPEG")
            rewrites = {s: text_of(s, i) for s in SOURCES}
            files = {
                "jpg": buffer.getvalue(),
                "txt": text_of("original", i).encode(),
                "json": json.dumps(rewrites).encode(),
            }
            for suffix, content in files.items():
                info = tarfile.TarInfo(f"{i:05d}.{suffix}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))


def test_shards_draw_among_caption_and_rewrites(tmp_path):
    write_shard(tmp_path / "s-0.tar", 24)
    cfg = config(
        "data.source=webdataset",
        "data.shards=s-{0..0}.tar",
        f"data.root={tmp_path}",
        "data.num_samples=24",
        "data.batch_size=8",
        "data.texts=[original,chatgpt,mscoco]",
    )
    stream = iter(dataset(cfg))
    kinds = Counter()
    for _ in range(30):
        batch = next(stream)
        assert batch["images"].shape == (8, 3, 32, 32)
        for row, text in zip(batch["ids"].tolist(), batch["texts"], strict=True):
            kinds[next(s for s in ("original", *SOURCES) if text == text_of(s, row))] += 1
    assert set(kinds) == {"original", "chatgpt", "mscoco"}
    assert all(abs(n / 240 - 1 / 3) < 0.12 for n in kinds.values())
    assert requirements(cfg)[0].present


def test_missing_shards_are_a_user_error(tmp_path):
    cfg = config("data.source=webdataset", "data.shards=x-{0..1}.tar", f"data.root={tmp_path}")
    with pytest.raises(UserError, match=r"x-0\.tar"):
        dataset(cfg)
    assert not requirements(cfg)[0].present


def test_pool_is_complete_and_its_seed_draws_the_subset():
    """The bundled drawings fit their texts; the seed changes which of them are trained on."""
    cfg = config(name="mini_drawings")
    files = CaptionFiles(files_folder() / "train.csv", [], root="")
    names = [str(files.path(i)) for i in (0, 5, len(files) - 1, 0)]
    images = pool_images(names, cfg.data)
    assert images.shape == (4, 3, 36, 36)
    assert torch.equal(images[0], images[3])
    assert not torch.equal(images[0], images[1])
    assert num_samples(cfg.data) == round(0.75 * len(files)) > 2500


def test_pool_queries_share_no_word_with_the_name_and_splits_are_apart():
    from common.data.image_text.drawings import words
    from common.data.tables import read_jsonl

    rows = read_jsonl(files_folder() / "test.jsonl.gz")
    assert {row["split"] for row in rows} == {"dev", "test"}
    for row in rows:
        assert not set(words(row["query"])) & set(words(row["name"])), row
    files = CaptionFiles(files_folder() / "train.csv", [], root="")
    trained = {str(files.path(i)) for i in range(len(files))}
    assert not trained & {row["image"] for row in rows}


def files_folder():
    from common.data.lookup import bundled

    return bundled(POOL)


def test_defaults_of_the_schema_are_the_paper_s():
    data = LaclipData()
    assert data.texts == ["original", *SOURCES]
    assert data.crop_scale == (0.5, 1.0)
