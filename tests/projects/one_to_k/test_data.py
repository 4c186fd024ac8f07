"""Languages of a step, cleaning, JSON lines, readers of the benchmarks, and translation."""

import gzip
import io
import json
import tarfile
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from common.config import UserError
from common.data.samplers import sample_rng
from common.engine.workspace import Workspace
from projects.one_to_k.config import TranslateConfig
from projects.one_to_k.data import build_data, build_tokenizer, emoji_rows, training_source
from projects.one_to_k.fixed_length import NgramTokenizer
from projects.one_to_k.multilingual import CaptionLines, choose_languages, plain_caption
from projects.one_to_k.retrieval_sets import aligned, read_benchmark
from projects.one_to_k.translate import translate_file
from tests.projects.one_to_k.conftest import PLAIN, batch_of, config
from tests.unit.losses.golden import load

CLEAN = load("one_to_k")["outputs"]["pre_caption_max_words_5"]
SIX = ["en", "de", "fr", "es", "ru", "zh"]


@pytest.mark.parametrize(("text", "expected"), CLEAN.items())
def test_item_15_cleaning_has_the_golden_strings(text, expected):
    """Checklist 15: at most five words in these cases."""
    assert plain_caption(text, 5) == expected


def test_item_15_punctuation_becomes_a_blank():
    """Checklist 15: the sheet's list of characters, and no other."""
    assert (
        plain_caption("Don't a,b.c'd!e?f\"g(h)i*j#k:l;m~n-o/p")
        == "don t a b c d e f g h i j k l m n o p"
    )
    assert plain_caption("50% & Übergröße_") == "50% & übergröße_"
    assert plain_caption("w " * 60).count("w") == 40


def test_item_16_subsets_keep_the_order_and_change_with_the_access():
    """Checklist 16: caption_num languages are drawn, in the order of the list."""
    drawn = {tuple(choose_languages(SIX, "all", sample_rng(0, 0, i), 3)) for i in range(60)}
    assert len(drawn) > 12
    assert all([SIX.index(x) for x in row] == sorted(SIX.index(x) for x in row) for row in drawn)
    assert {len(set(row)) for row in drawn} == {3}
    assert choose_languages(SIX, "all", sample_rng(0, 0, 0)) == SIX


def test_items_1_16_batches_are_image_major_in_the_config_s_order():
    """Checklist 1, 16: row i * K + k is the k-th language of image i."""
    words = ("data.languages=[l2,l0,l1]", "data.pivot=l0")
    batch = batch_of(*words)
    assert batch["tokens"].shape[:2] == (8, 3)
    assert batch["languages"].tolist() == [[0, 1, 2]] * 8
    cfg = config(*words)
    source = training_source(cfg, build_tokenizer(cfg.model))
    tokenizer = build_tokenizer(cfg.model)
    for i in range(8):
        for k, language in enumerate(["l2", "l0", "l1"]):
            own = tokenizer([plain_caption(source.texts[i][language])])[0]
            assert torch.equal(batch["tokens"][i, k], own)
    two = batch_of("data.texts_per_image=2")
    assert two["tokens"].shape[1] == two["labels"].shape[1] == 2
    assert bool((two["languages"][:, 0] < two["languages"][:, 1]).all())


def test_item_17_arms_see_one_text_or_the_pivot_and_another():
    """Checklist 17: random_language draws one of all; pivot has the pivot first, never twice."""
    words = (*PLAIN, "method.objective=random_language")
    drawn = torch.cat([batch_of(*words, epoch=e)["languages"] for e in range(8)])
    assert drawn.shape == (64, 1)
    assert set(drawn.flatten().tolist()) == {0, 1, 2, 3}
    pivot = (*PLAIN, "method.objective=pivot", "data.pivot=l2")
    actual = torch.cat([batch_of(*pivot, epoch=e)["languages"] for e in range(8)])
    assert build_data(config(*pivot)).train_set.options.languages[0] == "l2"
    assert set(actual[:, 0].tolist()) == {0}
    assert set(actual[:, 1].tolist()) == {1, 2, 3}


def test_item_17_equal_steps_and_equal_texts_are_arms_of_the_comparison():
    """Checklist 17: six, two and one encoded texts an image and step, times the steps."""
    import yaml

    from common.config import ROOT

    arms = yaml.safe_load((ROOT / "configs/one_to_k/compare.yaml").read_text())["arms"]
    steps = {name: arm.get("trainer.max_steps", 600) for name, arm in arms.items()}
    assert steps["one_to_k"] == steps["random"] == steps["pivot"]
    assert 6 * steps["one_to_k"] == steps["random_x6"] == 2 * steps["pivot_x3"]


def test_the_drawings_have_three_parts_without_flags_where_they_are_retrieved():
    cfg = config(name="mini")
    parts = {split: emoji_rows(cfg, split) for split in ("train", "dev", "test")}
    rows = [set(parts[s][0]) for s in parts]
    assert not rows[0] & (rows[1] | rows[2])
    assert not rows[1] & rows[2]
    assert len(parts["test"][0]) == 269
    assert not any(t["en"].startswith("flag:") for s in ("dev", "test") for t in parts[s][1])
    assert any(t["en"].startswith("flag:") for t in parts["train"][1])
    assert emoji_rows(config("seed=9", name="mini"), "train")[0] != parts["train"][0]
    assert emoji_rows(config("seed=9", name="mini"), "test")[0] == parts["test"][0]
    few = config("data.train_fraction=0.02", name="mini")
    source = training_source(few, build_tokenizer(few.model))
    assert source.texts == emoji_rows(few, "train")[1]
    assert len(source.images) == len(source.texts) == 24


def picture(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def lines(tmp_path):
    """Twelve JSON lines in two files; line 3 lacks a language."""
    for part in range(2):
        rows = []
        for i in range(6):
            number = 6 * part + i
            picture(tmp_path / f"images/{number}.png", number)
            caption = {"en": f"a picture {number}", "de": f"ein Bild {number}"}
            if number == 3:
                del caption["de"]
            rows.append(json.dumps({"caption": caption, "image_path": f"{number}.png"}))
        (tmp_path / f"part_{part}.data").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return tmp_path


def test_json_lines_give_languages_of_the_first_line_and_leave_out_what_lacks_one(lines):
    words = (
        f"data.root={lines}",
        "data.source=jsonl",
        "data.files=part_*.data",
        "data.images=images",
        "data.languages=[]",
        "data.batch_size=4",
        "data.rand_augment=true",
        *PLAIN,
    )
    batch = batch_of(*words, count=8)
    assert build_data(config(*words)).train_set.options.languages == ["de", "en"]
    assert batch["ids"].tolist() == [0, 1, 2, 4, 5, 6, 7]
    assert batch["skipped"] == 1
    assert batch["images"].shape == (7, 3, 16, 16)
    again = batch_of(*words, count=8)
    assert torch.equal(again["images"], batch["images"])
    assert not torch.equal(batch_of(*words, count=8, epoch=1)["images"], batch["images"])


def test_a_stream_has_the_batches_of_the_same_lines(lines):
    """Masks too; a sample that lacks a language is left out."""
    words = [f"data.root={lines}", "data.languages=[de,en]", "data.batch_size=8"]
    expected = batch_of(
        *words, "data.source=jsonl", "data.files=part_*.data", "data.images=images", count=8
    )
    rows = [row for path in sorted(lines.glob("part_*")) for row in path.read_text().splitlines()]
    with tarfile.open(lines / "0.tar", "w") as tar:
        for i, row in enumerate(rows[:8]):
            image = lines / "images" / json.loads(row)["image_path"]
            for suffix, content in {"png": image.read_bytes(), "json": row.encode()}.items():
                info = tarfile.TarInfo(f"{i}.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    stream = ["data.source=webdataset", "data.shards=0.tar", "data.num_samples=8"]
    data = build_data(config(*words, *stream, "data.max_corrupt=0.5")).train_set
    data.shuffle_buffer = 0
    batch = next(iter(data))
    assert "labels" in batch
    for name in ("images", "tokens", "languages", "masked", "labels", "ids"):
        assert torch.equal(batch[name], expected[name]), name
    assert batch["skipped"] == expected["skipped"] == 1


@pytest.mark.parametrize("rand_augment", ["false", "true"])
def test_crops_have_the_share_of_the_picture_that_the_config_gives(tmp_path, rand_augment):
    """A whole picture shows all of a ramp from black to white, a crop a part of it.

    RandAugment changes some of them, so the median of 32 counts.
    """
    ramp = np.tile(np.arange(256, dtype=np.uint8)[:, None], (1, 256))  # mirroring leaves it
    (tmp_path / "images").mkdir()
    Image.fromarray(np.stack([ramp] * 3, -1)).save(tmp_path / "images/a.png")
    row = {"image_path": "a.png", "caption": {"en": "a ramp", "de": "eine Rampe"}}
    (tmp_path / "pairs.data").write_text((json.dumps(row) + "\n") * 32)
    source = [f"data.root={tmp_path}", "data.source=jsonl", "data.files=pairs.data"]
    source += ["data.images=images", "data.languages=[]", f"data.rand_augment={rand_augment}"]

    def median_range(share: float) -> float:
        words = [*source, f"data.crop_scale=[{share},{share}]", *PLAIN]
        images = batch_of(*words, count=32)["images"]
        return float((images.amax((1, 2, 3)) - images.amin((1, 2, 3))).median())

    # the ramp's height is the root of the crop's share, stretched by ratios of 3/4 to 4/3
    assert 0.35 < median_range(0.25) / median_range(1.0) < 0.65


def test_broken_json_lines_are_named(tmp_path):
    with pytest.raises(UserError, match=r"no file .*part_\*"):
        CaptionLines(tmp_path / "part_*.data")
    (tmp_path / "part_0.data").write_text('{"caption": {"en": "a"}}\nnot json\n')
    actual = CaptionLines(tmp_path / "part_*.data")
    with pytest.raises(UserError, match="line 2 is not JSON"):
        actual[1]
    with pytest.raises(UserError, match="no image_path"):
        actual.image_path(0)


def test_blank_lines_are_no_samples_and_errors_name_their_file(tmp_path):
    """Lines of several files, one with a byte order mark; numbers are those of an editor."""
    rows = [
        json.dumps({"caption": {"en": f"text {i}"}, "image_path": f"{i}.png"}) for i in range(3)
    ]
    (tmp_path / "part_0.data").write_bytes(f"\ufeff{rows[0]}\r\n\r\n{rows[1]}\r\n \r\n".encode())
    (tmp_path / "part_1.data").write_text(f'\n{rows[2]}\n\n{{"caption": {{"en": "a"}}}}\nno\n\n')
    actual = CaptionLines(tmp_path / "part_*.data")
    assert len(actual) == 5
    assert [actual[i]["en"] for i in range(3)] == ["text 0", "text 1", "text 2"]
    assert [actual.image_path(i) for i in range(3)] == ["0.png", "1.png", "2.png"]
    with pytest.raises(UserError, match=r"part_1\.data, line 4 has no image_path"):
        actual.image_path(3)
    with pytest.raises(UserError, match=r"part_1\.data, line 5 is not JSON"):
        actual[4]
    for path in tmp_path.glob("part_*"):
        path.write_text("\n\n")
    with pytest.raises(UserError, match=r"part_\*\.data has no line"):
        CaptionLines(tmp_path / "part_*.data")


def name_of(number, part="val"):
    """A file name of COCO's 2014 release."""
    return f"COCO_{part}2014_{number:012d}.jpg"


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def zipped(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()))


def multi30k_files(root):
    """Two images of the release: splits are called otherwise in task2 than in task1."""
    tasks = root / "multi30k"
    names = tasks / "task1/image_splits/test_2016_flickr.txt"
    names.parent.mkdir(parents=True)
    names.write_text("1.jpg\n2.jpg\n")
    for language, text in (("en", "one\ntwo\n"), ("fr", "un\ndeux\n")):
        zipped(tasks / f"task1/raw/test_2016_flickr.{language}.gz", text)
    for i in range(1, 6):
        zipped(tasks / f"task2/raw/test_2016.{i}.en.gz", f"one {i}\ntwo {i}\n")


COCO = {9: "train", 42: "test", 73: "val", 74: "restval", 75: "test"}  # Karpathy's splits


def coco_files(root):
    """Karpathy's file, STAIR's two, whose names have no folder, and COCO-CN with its own split."""
    parts = {n: "train" if split == "train" else "val" for n, split in COCO.items()}
    rows = [
        {
            "filepath": f"{parts[n]}2014",
            "filename": name_of(n, parts[n]),
            "cocoid": n,
            "split": split,
            "imgid": i,
            "sentids": [i],
            "sentences": [{"raw": f"a {n}", "imgid": i, "sentid": i}],
        }
        for i, (n, split) in enumerate(COCO.items())
    ]
    write_json(root / "coco/dataset_coco.json", {"images": rows, "dataset": "coco"})
    for part in ("train", "val"):
        own = sorted((n for n in COCO if parts[n] == part), reverse=True)
        captions = [
            {"image_id": n, "id": n + k, "caption": f"{n} {k}"} for k in (1, 2) for n in own
        ]
        images = [{"id": n, "file_name": name_of(n, part)} for n in own]
        content = {"images": images, "annotations": captions}
        write_json(root / f"coco/stair_captions_v1.2_{part}.json", content)
    (root / "coco/coco-cn_train.txt").write_text(f"{name_of(9, 'train')[:-4]}\n")
    (root / "coco/coco-cn_test.txt").write_text(f"{name_of(74)[:-4]}\n")
    texts = [
        f"{name_of(9, 'train')[:-4]}#0\t九",
        f"{name_of(74)[:-4]}#0\t七",
        f"{name_of(74)[:-4]}#1\t四",
    ]
    (root / "coco/imageid.human-written-caption.txt").write_text("\n".join(texts) + "\n", "utf-8")


def address(number):
    """An image_url of Wikipedia."""
    return f"https://upload.wikimedia.org/wikipedia/commons/c/c0/{number}%28a%29.jpg"


def wit_files(root, texts, split="test"):
    """Rows of IGLUE, all of one image_idx, and the file that names the pictures."""
    for language, own in texts.items():
        rows = [
            {
                "image_idx": 57,
                "image_url": address(n),
                "meta_url": f"http://commons.wikimedia.org/wiki/File:{n}",
                "caption_reference_description": text,
                "language": language,
                "wit_ix": f"wit-test_{i}",
                "page_url": f"https://{language}.wikipedia.org/wiki/{n}",
            }
            for i, (n, text) in enumerate(own)
        ]
        write_lines(root / f"wit/{split}_{language}.jsonl", rows)
    numbers = sorted({n for own in texts.values() for n, _ in own})
    named = [{"image_url": address(n), "img_path": f"{n}.png"} for n in numbers]
    write_lines(root / "wit/images.jsonl", named)


def benchmark_files(root):
    """A few images in each of the four official layouts."""
    multi30k_files(root)
    coco_files(root)
    for language in ("en", "de"):
        rows = [
            {"img_path": f"{n}.jpg", "id": str(n), "sentences": [f"{language} {n}"]} for n in (1, 2)
        ]
        rows.append({"img_path": "3.jpg", "id": "3", "sentences": [""]})
        write_lines(root / "xflickrco" / language / "test.jsonl", rows)
    wit_files(root, {"da": [(1, "et kort"), (1, "to kort"), (2, None), (3, "tredje")]})


def test_item_18_readers_of_the_four_benchmarks(tmp_path):
    """Checklist 18: official layouts; several captions an image; aligned sets are told apart."""
    benchmark_files(tmp_path)
    multi = read_benchmark("multi30k", tmp_path, ["en", "fr"], "test_2016_flickr")
    assert multi["en"].images == multi["fr"].images == ("1.jpg", "2.jpg")
    assert multi["fr"].texts == ("un", "deux")
    assert not aligned(multi)
    x = read_benchmark("xflickrco", tmp_path, ["en", "de"], "test")
    assert x["de"].texts == ("de 1", "de 2")
    assert aligned(x)
    with pytest.raises(UserError, match=r"ru/test\.jsonl.*iglue"):
        read_benchmark("xflickrco", tmp_path, ["ru"], "test")
    zipped(tmp_path / "multi30k/task1/raw/test_2016_flickr.fr.gz", "un\n")
    with pytest.raises(UserError, match="another number of lines"):
        read_benchmark("multi30k", tmp_path, ["fr"], "test_2016_flickr")


def test_item_18_the_five_test_captions_of_multi30k_are_found_under_the_name_of_task2(tmp_path):
    """Checklist 18: test_2016_flickr of task1 is test_2016 of task2; one caption instead is
    told."""
    multi30k_files(tmp_path)
    five = read_benchmark("multi30k", tmp_path, ["en"], "test_2016_flickr")["en"]
    assert five.texts == tuple(f"{x} {i}" for x in ("one", "two") for i in range(1, 6))
    assert five.texts_of_image() == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    raw = tmp_path / "multi30k/task2/raw"
    (raw / "test_2016.1.en.gz").unlink()  # a part of them is an error
    with pytest.raises(UserError, match=r"task2/raw/test_2016\.1\.en"):
        read_benchmark("multi30k", tmp_path, ["en"], "test_2016_flickr")
    for path in raw.iterdir():
        path.unlink()
    with pytest.warns(UserWarning, match=r"one caption an image.*task2/raw/test_2016\.1\.en\.gz"):
        one = read_benchmark("multi30k", tmp_path, ["en"], "test_2016_flickr")["en"]
    assert one.texts == ("one", "two")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # task2 has no French
        read_benchmark("multi30k", tmp_path, ["fr"], "test_2016_flickr")


def test_item_18_files_of_other_systems_and_damaged_ones(tmp_path):
    """Byte order marks and carriage returns are no text; what is cut off is named."""
    benchmark_files(tmp_path)
    tasks = tmp_path / "multi30k/task1"
    (tasks / "image_splits/test_2016_flickr.txt").write_bytes("\ufeff1.jpg\r\n2.jpg\r\n".encode())
    packed = tasks / "raw/test_2016_flickr.fr.gz"
    packed.write_bytes(gzip.compress("\ufeffun\r\ndeux\r\n".encode()))
    actual = read_benchmark("multi30k", tmp_path, ["fr"], "test_2016_flickr")["fr"]
    assert (actual.images, actual.texts) == (("1.jpg", "2.jpg"), ("un", "deux"))
    packed.write_bytes(packed.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"fr\.gz is not a text file.*damaged.*get it again"):
        read_benchmark("multi30k", tmp_path, ["fr"], "test_2016_flickr")
    path = tmp_path / "coco/dataset_coco.json"
    path.write_text(path.read_text("utf-8")[:-5])
    with pytest.raises(UserError, match=r"dataset_coco\.json is not a JSON file.*damaged"):
        read_benchmark("coco", tmp_path, ["en"], "test")


def test_item_18_coco_is_karpathy_s_split_in_english_and_japanese(tmp_path):
    """Checklist 18: one name a picture, and no image of another split, in whichever file it
    stands."""
    coco_files(tmp_path)
    test = read_benchmark("coco", tmp_path, ["en", "ja", "zh"], "test")
    assert (
        test["en"].images
        == test["ja"].images
        == (f"val2014/{name_of(42)}", f"val2014/{name_of(75)}")
    )
    assert test["ja"].texts == ("42 1", "42 2", "75 1", "75 2")
    assert test["zh"].images == (f"val2014/{name_of(74)}",)  # COCO-CN's own split
    assert test["zh"].texts == ("七", "四")
    val = read_benchmark("coco", tmp_path, ["en", "ja"], "val")
    assert val["en"].images == val["ja"].images == (f"val2014/{name_of(73)}",)
    train = read_benchmark("coco", tmp_path, ["en", "ja"], "train")  # with restval
    assert train["en"].images == (f"train2014/{name_of(9, 'train')}", f"val2014/{name_of(74)}")
    assert train["ja"].images == train["en"].images


def test_item_18_files_that_coco_needs_are_named(tmp_path):
    """Checklist 18: both of STAIR's for training, Karpathy's for all but COCO-CN; lost images are
    told.
    """
    coco_files(tmp_path)
    folder = tmp_path / "coco"
    path = folder / "stair_captions_v1.2_val.json"
    content = json.loads(path.read_text("utf-8"))
    rest = [row for row in content["annotations"] if row["image_id"] != 75]
    write_json(path, content | {"annotations": rest})
    with pytest.warns(UserWarning, match="'ja': 1 of the 2 images of split 'test' have no caption"):
        assert len(read_benchmark("coco", tmp_path, ["ja"], "test")["ja"].images) == 1
    write_json(path, {"images": []})
    with pytest.raises(UserError, match="no 'annotations'"):
        read_benchmark("coco", tmp_path, ["ja"], "test")
    path.unlink()
    with pytest.raises(
        UserError, match=r"stair_captions_v1\.2_val\.json does not exist.*STAIR-Lab"
    ):
        read_benchmark("coco", tmp_path, ["ja"], "train")
    (folder / "dataset_coco.json").unlink()
    with pytest.raises(UserError, match=r"dataset_coco\.json does not exist.*karpathy"):
        read_benchmark("coco", tmp_path, ["zh", "ja"], "test")
    assert read_benchmark("coco", tmp_path, ["zh"], "test")["zh"].texts == ("七", "四")


def test_item_18_pictures_of_wit_are_known_by_their_address(tmp_path):
    """Checklist 18: IGLUE's rows have no file name and share image_idx; a file of ours names the
    pictures.
    """
    wit_files(tmp_path, {"da": [(1, "et kort"), (1, "to kort"), (2, None), (3, "tredje")]})
    da = read_benchmark("wit", tmp_path, ["da"], "test")["da"]
    assert (da.texts, da.images) == (("et kort", "to kort", "tredje"), ("1.png", "3.png"))
    assert da.image_of_text == (0, 0, 1)
    path = tmp_path / "wit/images.jsonl"
    write_lines(path, [{"image_url": address(n), "img_path": "1.png"} for n in (1, 3)])
    with pytest.raises(
        UserError, match=r"1%28a%29\.jpg and .*3%28a%29\.jpg have the same file 1\.png"
    ):
        read_benchmark("wit", tmp_path, ["da"], "test")
    write_lines(path, [{"image_url": address(1), "img_path": "1.png"}])
    with pytest.raises(
        UserError, match=r"no line for 1 of the 2 pictures.*3%28a%29\.jpg: save them below"
    ):
        read_benchmark("wit", tmp_path, ["da"], "test")
    path.unlink()
    with pytest.raises(
        UserError, match=r"wit/images\.jsonl does not exist.*image_url.*base64.*kaggle"
    ):
        read_benchmark("wit", tmp_path, ["da"], "test")


def test_items_12_18_fine_tuning_reads_pairs_with_the_ids_of_their_images(tmp_path):
    """Checklist 12, 18: captions of one image share an id, in one language or a mix."""
    benchmark_files(tmp_path)
    for n in (1, 2):
        picture(tmp_path / f"multi30k/images/{n}.jpg", n)
    words = (
        f"data.root={tmp_path}",
        "data.source=multi30k",
        "data.images=multi30k/images",
        "data.languages=[en,fr]",
        "data.split=test_2016_flickr",
        "method.objective=finetune",
        *PLAIN,
    )
    batch = batch_of(*words, count=12)
    assert batch["ids"].tolist() == [0] * 5 + [1] * 5 + [0, 1]
    assert batch["languages"].flatten().tolist() == [0] * 10 + [1] * 2


def test_items_12_18_a_picture_of_coco_has_one_id_in_all_languages(tmp_path):
    """Checklist 12, 18: it is not its own negative where captions of several releases are mixed."""
    coco_files(tmp_path)
    picture(tmp_path / f"coco/images/train2014/{name_of(9, 'train')}", 1)
    picture(tmp_path / f"coco/images/val2014/{name_of(74)}", 2)
    words = (
        f"data.root={tmp_path}",
        "data.source=coco",
        "data.images=coco/images",
        "data.languages=[en,zh,ja]",
        "method.objective=finetune",
        *PLAIN,
    )
    batch = batch_of(*words, count=7)
    assert batch["ids"].tolist() == [0, 1, 0, 0, 0, 1, 1]
    assert batch["languages"].flatten().tolist() == [0, 0, 1, 2, 2, 2, 2]
    assert batch["skipped"] == 0


def test_trigrams_are_hashed_between_blanks():
    one = NgramTokenizer(1000, [3], 8)
    rows = one(["cat", "cats", "火车"])
    assert (rows > 0).sum(1).tolist() == [3, 4, 2]
    assert rows[0, :2].tolist() == rows[1, :2].tolist()
    assert torch.equal(one(["cat"]), NgramTokenizer(1000, [3], 8)(["cat"]))


@pytest.fixture
def translator(tmp_path):
    """A tiny random BART with the built-in tokenizer, in a folder."""
    from transformers import BartConfig, BartForConditionalGeneration

    from common.encoders.text.tiny_tokenizer import tiny_tokenizer

    torch.manual_seed(0)
    sizes = BartConfig(
        vocab_size=256,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
        decoder_start_token_id=2,
        forced_eos_token_id=None,
        max_position_embeddings=64,
    )
    BartForConditionalGeneration(sizes).save_pretrained(tmp_path / "bart")
    tiny_tokenizer(256).save_pretrained(tmp_path / "bart")
    return tmp_path / "bart"


def test_translation_keeps_texts_that_are_there(translator, tmp_path):
    """Guards against a person's text that a machine's replaces; kept and empty ones are counted."""
    rows = [
        {"image_path": "a.png", "caption": {"en": "a dog", "id": "anjing"}},
        {"image_path": "b.png", "caption": {"en": "a cat", "id": ""}},
    ]
    (tmp_path / "in.data").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {
        "input": str(tmp_path / "in.data"),
        "output": str(tmp_path / "out.data"),
        "device": "cpu",
        "model": str(translator),
        "languages": ["id"],
        "max_new_tokens": 4,
        "prompt": "{language}: {text}",
    }
    translate_file(TranslateConfig(**options), Workspace(tmp_path / "w"))
    actual = [
        json.loads(x)["caption"] for x in (tmp_path / "out.data").read_text("utf-8").splitlines()
    ]
    assert actual[0] == {"en": "a dog", "id": "anjing"}
    empty = int(not actual[1]["id"])
    told = (tmp_path / "w/notes.txt").read_text()
    assert f"1 texts were there and are kept; {empty} came out empty" in told
    with pytest.raises(UserError, match="names the source 'en'"):
        translate_file(TranslateConfig(**{**options, "languages": ["en", "de"]}))


def test_translation_adds_languages_and_goes_on_after_a_stop(lines, translator, tmp_path):
    """Each line comes back with its image and further texts; finished chunks are kept."""
    options = {
        "input": str(lines / "part_1.data"),
        "output": str(tmp_path / "out.data"),
        "model": str(translator),
        "languages": ["id", "tr"],
        "max_new_tokens": 4,
        "prompt": "to {language}: {text}",
        "device": "cpu",
        "batch_size": 2,
    }
    from common.data.row_map.options import RowMapConfig

    part = translate_file(TranslateConfig(**options), task=RowMapConfig("0/2", chunk_size=2))
    assert not part.complete
    whole = translate_file(TranslateConfig(**options), task=RowMapConfig(chunk_size=2))
    assert whole.computed == 6 - part.computed
    rows = [json.loads(x) for x in (tmp_path / "out.data").read_text("utf-8").splitlines()]
    assert [r["image_path"] for r in rows] == [f"{n}.png" for n in range(6, 12)]
    assert all(set(r["caption"]) == {"en", "de", "id", "tr"} for r in rows)
    with pytest.raises(UserError, match="no text in 'fr'"):
        translate_file(TranslateConfig(**{**options, "source": "fr"}))
    with pytest.raises(UserError, match=r"set translate\.input"):
        translate_file(TranslateConfig())
    options |= {"prompt": "{text}", "output": str(tmp_path / "other.data")}
    with pytest.raises(UserError, match=r"translate\.prompt"):
        translate_file(TranslateConfig(**options))
