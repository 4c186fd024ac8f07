"""Views of a batch, texts, the mixture of drawings and photographs (checklist items 1, 13, 16)."""

import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import InterpolationMode

from common.config import UserError
from common.data.image.labelled import LabelledPixels
from common.data.image.simclr import SimCLRTransform
from common.data.image.sources import CLIP_MEAN, CLIP_STD, CachedImages, TrainTransform
from common.data.image_text.captions import CaptionFiles, CaptionLists
from common.data.samplers import sample_rng
from common.data.text.tokenizers import ClipTokenizer
from common.engine.workspace import Workspace
from common.families.image_text.data import text_keys, train_transform
from common.families.image_text.photographs import CLASSES, TEMPLATES
from projects.clip_baselines import data as data_module
from projects.clip_baselines.data import (
    build_data,
    text_changes,
    view_transforms,
    wordnet_requirement,
)
from projects.clip_baselines.index import write_index
from tests.projects.clip_baselines.conftest import config

TOKENIZER = ClipTokenizer(16)
CAPTION = "A photo of the large dog on a red sofa"


def rng(i=0):
    return sample_rng(0, 0, i)


def data_of(*words):
    return config(*words).data


def test_item_1_batch_has_a_clean_pair_and_k_views():
    """Checklist 1: shapes; the same sample everywhere; the views differ from each other."""
    data = build_data(config("data.num_augs=3"), TOKENIZER).train_set
    actual = data[[(i, 2) for i in (5, 0, 9)]]
    assert actual["images"].shape == (3, 3, 32, 32)
    assert actual["views"].shape == (3, 3, 3, 32, 32)
    assert actual["tokens"].shape == (3, 4, 16)
    assert actual["ids"].tolist() == [5, 0, 9]
    assert [len(texts) for texts in actual["texts"]] == [4, 4, 4]
    assert not torch.equal(actual["views"][0], actual["views"][1])
    alone = data[[(0, 2)]]
    assert torch.equal(alone["images"][0], actual["images"][1])  # independent of the batch
    assert torch.equal(alone["tokens"][0], actual["tokens"][1])
    torch.testing.assert_close(alone["views"][:, 0], actual["views"][:, 1], rtol=1e-4, atol=1e-5)


def test_item_16_without_views_there_is_the_clean_pair_alone():
    """Checklist 16: K = 0; clean images and texts are those of the strong recipe."""
    keys = [(i, 1) for i in range(4)]
    strong, basic = (
        build_data(
            config(f"data.num_augs={k}", f"method.separate_heads={k > 0}"), TOKENIZER
        ).train_set[keys]
        for k in (2, 0)
    )
    assert basic["views"].shape == (0, 4, 3, 32, 32)
    assert torch.equal(basic["images"], strong["images"])
    assert torch.equal(basic["tokens"], strong["tokens"][:, :1])


def test_item_13_exactly_one_operation_and_none_of_them_empties_a_text():
    """Checklist 13: the shares of the operations, and texts that stop words would empty."""
    data = data_of("data.remove_stopwords_prob=0")
    _, view = text_changes(data)
    kinds = Counter()
    words = CAPTION.split()
    for i in range(600):
        actual = view(CAPTION, rng(i)).split()
        if len(actual) < len(words) and set(actual) <= set(words):
            kinds["delete"] += 1
        elif sorted(actual) == sorted(words) and actual != words:
            kinds["swap"] += 1
        elif actual != words:
            kinds["replace"] += 1
            changed = [w for w in words if w not in actual]
            assert len(changed) <= 1  # a synonym may hold the word; max(1, 0.1 * 9 words)
        else:
            kinds["same"] += 1  # deletion drops each word with probability 0.1, so maybe none
    assert abs(kinds["replace"] / 600 - 0.4) < 0.07
    assert abs(kinds["swap"] / 600 - 0.4) < 0.07
    assert abs((kinds["delete"] + kinds["same"]) / 600 - 0.2) < 0.07
    for weights, expected in (("[0,0,0,1]", CAPTION), ("[1,0,0,0]", None)):
        _, only = text_changes(
            data_of("data.remove_stopwords_prob=0", f"data.eda_weights={weights}")
        )
        assert expected is None or only(CAPTION, rng()) == expected
    clean, view = text_changes(data_of("data.remove_stopwords_prob=1"))
    for text in ("the", "of the", "word", ""):
        assert clean(text, rng()) == text
        assert bool(view(text, rng())) == bool(text)


def test_item_13_stop_words_go_with_their_probability_from_clean_and_augmented_texts():
    """Checklist 13: 0.8 of the accesses; `clean_before_augment` lower-cases first."""
    clean, view = text_changes(data_of("data.eda_weights=[0,0,0,1]"))
    for change in (clean, view):
        actual = [change(CAPTION, rng(i)) for i in range(500)]
        assert set(actual) == {CAPTION, "photo large dog red sofa"}
        assert abs(actual.count(CAPTION) / 500 - 0.2) < 0.06
    words = ["data.clean_before_augment=true", "data.remove_stopwords_prob=0"]
    clean, _ = text_changes(data_of(*words))
    assert clean("Two  CATS &amp; me", rng()) == "two cats & me"


def test_item_16_image_and_text_augmentation_are_switches():
    """Checklist 16: without them views are weak crops with the texts of the clean pair."""
    weak = view_transforms(data_of("data.image_augmentation=false"))
    assert len(weak) == 2
    assert not any(isinstance(t, SimCLRTransform) for t in weak)
    assert weak[0].scale == (0.5, 1.0)
    _, view = text_changes(data_of("data.text_augmentation=false", "data.remove_stopwords_prob=0"))
    assert view(CAPTION, rng()) == CAPTION
    strong = view_transforms(config(name="paper").data)
    assert (
        strong[0]
        == strong[1]
        == SimCLRTransform(
            224,
            (0.08, 1.0),
            jitter=(0.4, 0.4, 0.4, 0.1),
            jitter_prob=0.8,
            grey_prob=0.2,
            blur_prob=0.5,
            interpolation=InterpolationMode.BICUBIC,
        )
    )
    assert train_transform(config(name="paper").data).interpolation is InterpolationMode.BICUBIC
    first, second = view_transforms(data_of("data.asymmetric=true"))
    assert (first.blur_prob, first.solarise_prob) == (1.0, 0.0)
    assert (second.blur_prob, second.solarise_prob) == (0.1, 0.2)
    assert view_transforms(config(name="paper_29m").data)[0].size == 192


@pytest.fixture
def pairs(tmp_path):
    """A CSV of four pictures with titles, and descriptions of which two are empty."""
    for row in range(4):
        pixels = np.random.default_rng(row).integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{row}.png")
    (tmp_path / "toy.csv").write_text("".join(f"{i}.png,title {i}\n" for i in range(4)))
    (tmp_path / "toy_description.txt").write_text("long text 0\n\nlong text 2\n\n")
    return [
        "data.source=csv",
        f"data.root={tmp_path}",
        "data.captions=toy.csv",
        "data.texts=[original,description]",
        "data.remove_stopwords_prob=0",
        "data.text_augmentation=false",
        "data.batch_size=4",
    ]


def test_an_empty_caption_is_never_drawn_and_single_is_one_text_for_all_views(pairs):
    data = build_data(config(*pairs), TOKENIZER).train_set
    seen = Counter(data[[(0, e)]]["texts"][0][0] for e in range(60))
    assert set(seen) == {"title 0", "long text 0"}
    assert {data[[(1, e)]]["texts"][0][0] for e in range(20)} == {"title 1"}
    assert all(len(set(data[[(0, e)]]["texts"][0])) == 1 for e in range(20))
    multi = build_data(config(*pairs, "data.captions_of_views=multi"), TOKENIZER).train_set
    assert any(len(set(multi[[(0, e)]]["texts"][0])) == 2 for e in range(20))
    views = build_data(config(*pairs, "data.view_size=24"), TOKENIZER).train_set[[(0, 0), (2, 0)]]
    assert views["images"].shape[-1] == 32
    assert views["views"].shape == (2, 2, 3, 24, 24)


def test_an_unreadable_picture_is_left_out_of_all_parts(pairs, tmp_path):
    (tmp_path / "2.png").write_bytes(b"no image")
    data = build_data(config(*pairs, "data.max_corrupt=1.0"), TOKENIZER).train_set
    actual = data[[(i, 0) for i in range(4)]]
    assert (actual["ids"].tolist(), actual["skipped"]) == ([0, 1, 3], 1)
    assert len(actual["images"]) == actual["views"].shape[1] == len(actual["tokens"]) == 3


def indexed(tmp_path, rows, name="index.pkl"):
    """The pairs that `TASK=index` makes of rows, and its second texts."""
    if name.endswith(".npy"):
        np.save(tmp_path / name, np.array(rows, dtype=object), allow_pickle=True)
    else:
        (tmp_path / name).write_bytes(pickle.dumps(rows))
    output = tmp_path / f"{name}_out" / "pairs.csv"
    cfg = config(f"index.input={tmp_path / name}", f"index.output={output}")
    written = write_index(cfg, Workspace(tmp_path / "w"))
    second = output.with_name("pairs_description.txt")
    files = CaptionFiles(output, [second] if second.is_file() else [])
    assert len(files) == written
    with pytest.raises(UserError, match="exists: remove it"):
        write_index(cfg, Workspace(tmp_path / "w"))
    return [
        (str(files.path(i).relative_to(output.parent)), *files.texts(i)) for i in range(written)
    ]


def test_published_indices_become_pairs(tmp_path):
    """YFCC15M's photos lie by the digits of their number; the second text stays in line."""
    yfcc = [(1234567, "a title, with\na break", ""), (98765432, 'say "x"', "long text")]
    assert indexed(tmp_path, yfcc) == [
        ("01/234/567.jpg", "a title, with a break", ""),
        ("98/765/432.jpg", 'say "x"', "long text"),
    ]
    cc12m = [
        {"image_name": "00/no_image.txt", "captions": ["left out", "left out too"]},
        {"image_name": "00/1.jpg", "captions": ["a dog"]},
    ]
    assert indexed(tmp_path, cc12m, "cc12m.npy") == [("00/1.jpg", "a dog")]
    cc3m = [{"image_id": "7.jpg", "captions": ["one", "two"]}]
    assert indexed(tmp_path, cc3m, "cc3m.npy") == [("7.jpg", "one", "two")]
    words = ["index.input=cc3m.npy", f"index.output={tmp_path}/cc3m-v1.0", f"data.root={tmp_path}"]
    write_index(config(*words), Workspace(tmp_path / "w"))
    assert (tmp_path / "cc3m-v1.0.csv").read_text() == "7.jpg,one\n"
    assert (tmp_path / "cc3m-v1.0_description.txt").read_text() == "two\n"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(1, "two")], "row 0"),
        ([{"captions": ["x"]}], "row 0"),
        ([{"image_id": "a.jpg", "captions": []}], "row 0"),
        ([], "no list of rows"),
        ([{"image_id": 7, "captions": ["x"]}], "no image ends in"),
    ],
)
def test_an_index_of_another_form_is_refused(tmp_path, rows, message):
    with pytest.raises(UserError, match=message):
        indexed(tmp_path, rows)


@pytest.mark.slow
def test_mini_mixes_drawings_and_photographs():
    """A quarter photographs in expectation, with the captions of their classes; no test images."""
    cfg = config(
        "data.num_augs=0",
        "method.separate_heads=false",
        "data.remove_stopwords_prob=0",
        "data.train_fraction=0.1",
        name="mini",
    )
    data = build_data(cfg, TOKENIZER).train_set
    drawings = round(0.1 * 3456)
    assert len(data) == round(drawings / 0.75)
    assert len(data.images) == drawings + cfg.data.photos == drawings + 4500
    actual = data[[(i, 0) for i in (3, drawings + 1, drawings + 2)]]
    known = {t.format(c) for t in TEMPLATES for c in CLASSES}
    assert [texts[0] in known for texts in actual["texts"]] == [False, True, True]
    assert actual["ids"][0] == 3
    assert min(actual["ids"][1:]) >= drawings
    again = data[[(drawings + 1, e) for e in range(5)]]["ids"].tolist()
    assert len(set(again)) > 1


def test_settings_reach_the_loaders_and_the_views(monkeypatch, tmp_path):
    """Workers, seed, where the validation's images are; statistics and interpolation of weak views
    and strong ones."""
    asked = []
    monkeypatch.setattr(
        "common.data.image.benchmarks.load_image_set", lambda name, root, _: asked.append(str(root))
    )
    words = ["data.num_workers=3", "seed=7", "eval.validate=resisc45", f"eval.root={tmp_path}"]
    loaders = build_data(config(*words, "trainer.val_every_n_steps=1"), TOKENIZER)
    assert (loaders.num_workers, loaders.seed, asked) == (3, 7, [str(tmp_path)])
    looks = ["data.normalize=clip", "data.interpolation=bicubic", "data.jitter=[0.1,0.2,0.3,0.05]"]
    for words in ([], ["data.image_augmentation=false"]):
        for view in view_transforms(data_of(*looks, *words)):
            assert (view.mean, view.std) == (CLIP_MEAN, CLIP_STD)
            assert view.interpolation is InterpolationMode.BICUBIC
            assert words or view.jitter == (0.1, 0.2, 0.3, 0.05)
    weak = build_data(config("data.image_augmentation=false"), TOKENIZER).train_set[[(0, 0)]]
    assert not torch.allclose(weak["views"][0], weak["images"])  # a crop of its own
    weights = ["data.remove_stopwords_prob=0", "data.eda_weights=[0,1,0,0]"]
    _, swap = text_changes(data_of(*weights))
    assert {tuple(sorted(swap("a b c d", rng(i)).split())) for i in range(30)} == {tuple("abcd")}


def test_texts_are_changed_alike_in_files_and_in_shards(pairs, monkeypatch):
    """Clean texts and those of views in their places; every text of a pair may be drawn."""
    monkeypatch.setattr(data_module, "text_changes", lambda data: ("clean", "view"))
    monkeypatch.setattr(data_module, "shards", lambda data, samples, seed: samples)
    monkeypatch.setattr(data_module, "_loaders", lambda cfg, train: train)
    words = [*pairs, "data.captions_of_views=multi"]
    files = build_data(config(*words), TOKENIZER)
    stream = build_data(
        config(*words, "data.source=webdataset", "data.shards=0.tar", "data.num_samples=4"),
        TOKENIZER,
    )
    for texts in (files.texts, stream.texts):
        assert (texts.clean_text, texts.view_text) == ("clean", "view")
        assert (texts.captions, texts.num_views) == ("multi", 2)
    assert stream.text_keys == text_keys(data_of(*words))
    assert len(stream.text_keys) == 2


def test_photographs_are_drawn_by_seed_and_share(monkeypatch):
    """Each has its own captions, whatever row of an epoch reads it."""
    asked = []

    def photographs(root, count, seed, size):
        asked.append((count, seed))
        return LabelledPixels(torch.zeros(3, 3, 8, 8, dtype=torch.uint8), torch.arange(3), [])

    images = CachedImages(torch.zeros(12, 3, 8, 8, dtype=torch.uint8), TrainTransform(8))
    texts = CaptionLists([[f"drawing {i}"] for i in range(12)])
    monkeypatch.setattr(data_module, "train_pairs", lambda *_: (images, texts))
    monkeypatch.setattr(data_module.photographs, "photographs_to_train", photographs)
    words = ["data.photos=3", "data.photo_share=0.4", "seed=5", "data.num_augs=0"]
    words += ["method.separate_heads=false", "data.remove_stopwords_prob=0"]
    train = build_data(config(*words, name="mini"), TOKENIZER).train_set
    assert (len(train), asked) == (20, [(3, 5)])
    drawn = train[[(i, 0) for i in range(20)]]
    known = [f"drawing {i}" for i in range(12)]
    assert [row[0] for row in drawn["texts"][:12]] == known
    for (text,), row in zip(drawn["texts"][12:], drawn["ids"][12:].tolist(), strict=True):
        assert text in [template.format(CLASSES[row - 12]) for template in TEMPLATES]


def test_wordnet_is_needed_where_synonyms_are_drawn():
    words = ["data.wordnet=elsewhere"]
    assert [r.name for r in wordnet_requirement(config(*words))] == ["data: WordNet"]
    assert wordnet_requirement(config()) == []
    for word in ("data.text_augmentation=false", "data.eda_synonyms=false"):
        assert wordnet_requirement(config(*words, word)) == []


def test_views_have_the_probabilities_of_the_config():
    """Each of its own, and none of the recipe's."""
    words = ["data.jitter_prob=0.11", "data.grey_prob=0.22", "data.blur_prob=0.33"]
    for view in view_transforms(data_of(*words, "data.solarise_prob=0.44")):
        made = (view.jitter_prob, view.grey_prob, view.blur_prob, view.solarise_prob)
        assert made == (0.11, 0.22, 0.33, 0.44)
