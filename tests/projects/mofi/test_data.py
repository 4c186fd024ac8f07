"""Training data: drawn entities, texts, files (checklist items 3, 7, 11, 14, 16)."""

import io
import json
import tarfile
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from common.config import UserError
from common.data.image.labelled import LabelledPixels
from projects.mofi import build, bundled, planning
from projects.mofi.bundled import (
    CLASS_ALIASES,
    Pool,
    half_of,
    linked_rows,
    precision,
    read_pool,
)
from projects.mofi.config import Config
from projects.mofi.data import (
    IMAGE_STREAM,
    NO_ENTITY,
    file_set,
    read_entities,
    streamed_data,
    synthetic_set,
    training_data,
)
from projects.mofi.stages import (
    filter_config,
    filter_path,
    pool_set,
    score_rows,
    scored,
    stages,
)
from tests.projects.mofi.conftest import TOKENIZER, batch_of, config

POOL = (
    "data.photos=200",
    "data.train_fraction=0.05",
    "select.enabled=false",
    "select.min_images=2",
)


def data_of(*words):
    cfg = config(*words)
    return training_data(cfg, synthetic_set(cfg), TOKENIZER).train_set


def test_one_entity_of_an_image_is_drawn_at_every_access():
    """Each of its entities has an equal share; others stand in `entities`, padded with -1."""
    data = data_of()
    drawn = Counter(data[[(0, epoch)]]["labels"].item() for epoch in range(300))
    own = set(data.data.numbers[0])
    assert drawn.keys() == own
    assert all(abs(n / 300 - 0.5) < 0.1 for n in drawn.values())
    batch = batch_of(count=4)
    assert batch["entities"].shape == (4, 8)
    for row, numbers in zip(batch["entities"].tolist(), data.data.numbers, strict=False):
        assert [y for y in row if y != NO_ENTITY] == numbers
    assert all(y in row for y, row in zip(batch["labels"], batch["entities"], strict=True))
    few = data_of("data.max_entities=1")
    assert few[[(1, 0)]]["entities"].shape == (1, 1)
    with pytest.raises(UserError, match=r"set data\.max_entities=2"):
        few[[(0, 0)]]  # the second one could be drawn as its negative


def test_the_set_and_not_the_config_says_how_many_classes_there_are():
    """A class that no image has would be drawn as a negative for ever."""
    cfg = config("method.num_classes=2000")
    module = next(stages(cfg)).module
    assert module.classifier.matrix.num_classes == len(synthetic_set(cfg).table)


@pytest.mark.parametrize("text", ["name", "name_description", "alt_text"])
def test_item_16_contrastive_text_is_switchable(text):
    """Checklist 16: the drawn entity's name, name and description, or the image's alt-text."""
    data = data_of(f"data.text={text}")
    batch = data[[(i, 3) for i in range(6)]]
    for index, (label, actual) in enumerate(
        zip(batch["labels"].tolist(), batch["texts"], strict=True)
    ):
        entity = data.data.table[label]
        expected = {
            "name": entity.name,
            "name_description": f"{entity.name}, {entity.description}",
            "alt_text": data.data.alt_texts[index],
        }[text]
        assert actual == expected
    assert torch.equal(batch["tokens"], TOKENIZER(batch["texts"]))


def test_items_11_14_recipes_and_clip_see_the_same_images():
    """Checklist 11, 14: recipe and text change neither images nor drawn entities."""
    arms = [
        ("method.recipe=supervised",),
        ("method.recipe=contrastive", "data.text=name"),
        ("method.recipe=contrastive", "data.text=alt_text", "method.same_entity=negative"),
    ]
    actual = [batch_of(*words, epoch=2) for words in arms]
    for other in actual[1:]:
        assert torch.equal(other["images"], actual[0]["images"])
        assert torch.equal(other["labels"], actual[0]["labels"])
        assert torch.equal(other["entities"], actual[0]["entities"])
    assert actual[1]["texts"] != actual[2]["texts"]


@pytest.fixture(scope="module")
def pool():
    cfg = config(*POOL, name="mini")
    actual = read_pool(cfg)
    return cfg, actual, linked_rows(cfg, actual)


@pytest.mark.slow
def test_the_pool_s_captions_are_as_noisy_as_the_config_says(pool):
    """Three quarters of the photographs' captions name the class; the truth is not in the rows."""
    cfg, actual, rows = pool
    words = {i: set(aliases) for i, aliases in CLASS_ALIASES.items()}
    right = [
        any(w in text for w in words[y])
        for text, y in zip(actual.alt_texts[:200], actual.truth, strict=False)
    ]
    assert 0.6 < np.mean(right) < 0.9
    assert len(rows) == len(actual.images) == 200 + round(0.05 * 1879)
    share, count = precision(cfg, rows, actual.truth)
    assert count > len(rows)
    assert 0.3 < share < 0.8
    again = read_pool(config(*POOL, "data.train_fraction=0.01", name="mini"))
    assert again.alt_texts[:200] == actual.alt_texts[:200]


@pytest.mark.slow
def test_the_filters_never_see_what_they_score(pool, tmp_path, monkeypatch):
    """Halves are disjoint, cover all, and depend on the seed; the filter is plain CLIP on
    alt-texts.
    """
    cfg, actual, rows = pool
    learnt, judged = [], []
    for name, stub in {
        "MOFI": lambda cfg: torch.nn.Linear(1, 1),
        "training_data": lambda *_: None,
        "filter_path": lambda *_: tmp_path / "absent",
        "keep_weights": lambda *_: None,
        "alt_text_set": lambda cfg, pool, part: learnt.append(set(part.tolist())),
        "score_rows": lambda cfg, module, pool, rows, part: judged.append(set(part.tolist())),
    }.items():
        monkeypatch.setattr(f"projects.mofi.stages.{name}", stub)
    filters = list(scored(cfg, actual, rows))
    assert [stage.name for stage in filters] == ["filter_0", "filter_1"]
    trainers = [stage.trainer for stage in filters]
    assert trainers == [{"max_steps": cfg.filter.steps, "val_every_n_steps": None}] * 2
    assert [own & other for own, other in zip(learnt, judged, strict=True)] == [set(), set()]
    assert judged[0] | judged[1] == set(range(len(actual.images)))
    halves = half_of(cfg, actual.names)
    assert 0.35 < halves.double().mean() < 0.65
    assert not torch.equal(halves, half_of(config("seed=5", name="mini"), actual.names))
    own = filter_config(cfg)
    assert (own.method.recipe, own.method.same_entity, own.data.text) == (
        "contrastive",
        "negative",
        "alt_text",
    )


def test_the_filters_do_not_depend_on_the_rate_of_the_recipe():
    """A search of the rate must not change the labels; without a rate of its own a filter has the
    recipe's.
    """

    def places(*words):
        cfg = config(*words, name="mini")
        own = filter_config(cfg)
        return own.optim.lr, [filter_path(own, half) for half in (0, 1)]

    assert places("optim.lr=1e-2") == places() == places("method.recipe=supervised")
    assert places("filter.lr=1e-2") != places()
    assert places("filter.lr=null", "optim.lr=1e-2")[0] == 1e-2
    assert len({*places()[1], *places("seed=5")[1]}) == 4  # a half of a seed has its own weights


def test_scores_are_of_names_alone_and_stay_with_their_image(monkeypatch):
    """Rows outside of the part keep theirs."""
    texts = {}

    def words(cfg, module, asked):
        texts.update({text: place for place, text in enumerate(asked)})
        return torch.eye(2)[: len(asked)]

    monkeypatch.setattr("projects.mofi.stages.encode_texts", words)
    pictures = torch.tensor([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]])
    monkeypatch.setattr("projects.mofi.stages.encode_images", lambda cfg, module, x: pictures[x])
    oak, lark = ({"id": n, "name": n, "description": "x", "clip_score": 9} for n in ("oak", "lark"))
    rows = [{"entities": [dict(e) for e in own]} for own in ([oak], [oak], [lark, oak])]
    pool = Pool(torch.arange(3), [], [], [])
    score_rows(config(name="mini"), None, pool, rows, torch.tensor([2, 0]))
    assert texts == {"a lark": 0, "a oak": 1}
    scores = [[round(e["clip_score"], 4) for e in row["entities"]] for row in rows]
    assert scores == [[0.2], [9], [0.5, 0.6]]


def test_the_pool_is_drawn_by_the_seed(monkeypatch):
    """Drawings and halves; a photograph's truth is its class. An epoch has as many images as
    `data.train_fraction` leaves."""
    photos = LabelledPixels(torch.zeros(3, 3, 8, 8, dtype=torch.uint8), torch.tensor([2, 0, 9]), [])
    drawings = [(f"{i}.svg", f"name {i}", f"noun {i}") for i in range(40)]
    monkeypatch.setattr(bundled, "photographs_to_train", lambda *_: photos)
    monkeypatch.setattr(
        bundled, "pool_images", lambda names, data: torch.zeros(len(names), 3, 8, 8)
    )
    for module in (bundled, planning):
        monkeypatch.setattr(module, "training_drawings", lambda root: drawings)
    cfg, other = (config("data.train_fraction=0.5", f"seed={s}", name="mini") for s in (0, 1))
    pool, again = read_pool(cfg), read_pool(other)
    assert pool.truth[:3] == [list(CLASS_ALIASES)[y] for y in (2, 0, 9)]
    assert [t.split()[1] for t in pool.truth[3:]] == [n[:-4] for n in pool.names[3:]]
    assert len(pool.names) == len(again.names) == 23
    assert pool.names != again.names
    assert half_of(cfg, drawings).tolist() != half_of(other, drawings).tolist()
    assert planning.num_samples(cfg) == cfg.data.photos + 20


def test_selection_of_the_pool_raises_the_precision_of_labels(pool):
    """With scores that tell right from wrong, the kept labels are better; images without any go."""
    _cfg, actual, rows = pool
    marked = [
        {**row, "entities": [e | {"clip_score": float(e["id"] == y)} for e in row["entities"]]}
        for row, y in zip(rows, actual.truth, strict=True)
    ]
    own = config(*POOL[:2], "select.threshold=0.5", "select.min_images=2", name="mini")
    data, quality = pool_set(own, actual, marked)
    before, after, kept, images = quality.tolist()
    assert after == 1 > before
    assert 0 < kept < images < 1
    assert len(data.images) == len(data.numbers) == len(data.alt_texts)
    assert data.counts.sum() == sum(map(len, data.numbers))


@pytest.fixture
def files(tmp_path):
    rows = [("a.png", ["Q1"]), ("b.png", ["Q2", "Q1"]), ("c.png", ["Q2"])]
    for name, _ in rows:
        Image.fromarray(np.zeros((40, 40, 3), dtype=np.uint8)).save(tmp_path / name)
    lines = [
        json.dumps({"image": n, "alt_text": f"of {n}", "entities": [{"id": i} for i in ids]})
        for n, ids in rows
    ]
    (tmp_path / "i2e.jsonl").write_text("\n".join(lines) + "\n")
    table = "id\tname\tdescription\tcount\nQ1\tlark\ta bird\t2\nQ2\toak\t\t2\n"
    (tmp_path / "entities.tsv").write_text(
        table, "utf-8-sig"
    )  # a mark is not a part of a column's name
    return tmp_path


def csv_config(root, *words) -> Config:
    return config("data.source=jsonl", "data.files=i2e.jsonl", f"data.root={root}", *words)


def test_sets_of_the_engine_are_read_from_disk(files):
    """Rows through offsets; numbers are places in entities.tsv; one without a description has a
    name.
    """
    data = training_data(csv_config(files), file_set(csv_config(files)), TOKENIZER).train_set
    batch = data[[(0, 0), (1, 0), (2, 0)]]
    assert batch["images"].shape == (3, 3, 32, 32)
    assert [list(row) for row in data.data.numbers] == [[0], [1, 0], [1]]
    assert batch["texts"][0] == "lark, a bird"
    assert batch["texts"][2] == "oak"
    assert data.data.counts.tolist() == [2, 2]


def test_a_stream_has_the_batches_of_the_same_files(files):
    """Rows of the engine as ``.json`` next to the images; a row without entities is left out."""
    cfg = csv_config(files, "data.batch_size=3")
    expected = training_data(cfg, file_set(cfg), TOKENIZER).train_set[[(i, 0) for i in range(3)]]
    lines = (files / "i2e.jsonl").read_text().splitlines()
    with tarfile.open(files / "0.tar", "w") as tar:
        for i, line in enumerate([*lines, '{"entities": []}']):
            for suffix, content in {
                "png": (files / f"{'abca'[i]}.png").read_bytes(),
                "json": line.encode(),
            }.items():
                info = tarfile.TarInfo(f"{i}.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    words = ["data.source=webdataset", "data.shards=0.tar", "data.max_corrupt=0.9"]
    cfg = config(*words, "data.num_samples=4", "data.batch_size=4", f"data.root={files}")
    stream = streamed_data(cfg, read_entities(files / "entities.tsv"), TOKENIZER).train_set
    stream.shuffle_buffer = 0
    batch = next(iter(stream))
    for name in ("images", "tokens", "labels", "entities", "ids"):
        assert torch.equal(batch[name], expected[name]), name
    assert (batch["texts"], batch["skipped"]) == (expected["texts"], 1)
    cfg.method.sampling = "frequency"
    classifier = next(stages(cfg)).module.classifier
    assert classifier.matrix.num_classes == len(classifier.odds) == 2
    assert build(cfg).plan().module().classifier.matrix.num_classes == 2


def test_the_table_of_shards_from_elsewhere_lies_in_the_root(files):
    """It was looked for below a folder named as the URL."""
    urls = "data.shards=https://host/{00..03}.tar"
    words = ["data.source=webdataset", urls, "data.num_samples=4", f"data.root={files}"]
    cfg = config(*words)
    assert len(next(stages(cfg)).module.classifier.matrix.weight) == 2
    needed = [r for r in build(cfg).plan().requirements if r.name.startswith("data: ")]
    assert [(r.name, r.present) for r in needed] == [("data: entities.tsv", True)]


def test_damaged_sets_are_refused(files):
    (files / "entities.tsv").write_text("id\tname\tdescription\tcount\nQ1\tlark\ta bird\t2\n")
    with pytest.raises(UserError, match="line 2: no image with entities"):
        list(file_set(csv_config(files)).numbers)
    (files / "entities.tsv").write_text("id\tname\tdescription\tcount\nQ1\tlark\ta bird\tx\n")
    with pytest.raises(UserError, match="whole numbers"):
        file_set(csv_config(files))
    (files / "i2e.jsonl").unlink()
    with pytest.raises(UserError, match="TASK=build"):
        file_set(csv_config(files))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["data.source=jsonl"], "data.files"),
        (["data.source=webdataset"], "data.shards"),
        (["method.logq_correction=true"], "sampling=frequency"),
        (["trainer.precision=16-mixed"], "bf16-mixed"),
        (["trainer.accumulate_grad_batches=2"], "accumulate_grad_batches=1"),
        (["trainer.strategy=fsdp"], "ddp"),
        (["model.open_clip=null"], "open_clip"),
        (["method.margin=-1"], "margin"),
        (["method.cls_weight=2"], "cls_weight"),
    ],
)
def test_configs_that_cannot_be_are_refused(words, told):
    with pytest.raises(UserError, match=told):
        config(*words)


def test_a_batch_names_what_it_holds(files, monkeypatch):
    """Rows of the readable images alone, their own entities and numbers, and how many are left
    out; two images of one epoch draw independently."""
    (files / "a.png").write_bytes(b"no image")
    cfg = csv_config(files, "data.max_corrupt=0.9")
    batch = training_data(cfg, file_set(cfg), TOKENIZER).train_set[[(0, 0), (2, 0), (1, 0)]]
    assert batch["ids"].tolist() == [2, 1]
    assert batch["skipped"] == 1
    assert [[y for y in row if y != NO_ENTITY] for row in batch["entities"].tolist()] == [
        [1],
        [1, 0],
    ]
    data = data_of("data.num_samples=40")
    assert len(data) == 40
    numbers = data.data.numbers
    both = [i for i in range(40) if len(numbers[i]) == 2]

    def places():
        asked = [[data[[(i, e)]]["labels"].item() for e in range(24)] for i in both]
        return [[numbers[i].index(y) for y in row] for i, row in zip(both, asked, strict=True)]

    plain = places()
    assert len({tuple(row) for row in plain}) > 10
    monkeypatch.setattr("projects.mofi.data.LABEL_STREAM", IMAGE_STREAM)
    assert places() != plain  # the entity does not follow from the crop


def test_settings_reach_the_loader_and_the_transform(files):
    """`data.flip_prob`, workers, the folder of the images and how many may be unreadable."""
    cfg = config("data.flip_prob=0.25", "data.num_workers=3")
    data = training_data(cfg, synthetic_set(cfg), TOKENIZER)
    assert data.num_workers == 3
    assert data.train_set.data.images.transform.flip_prob == 0.25
    (files / "elsewhere").mkdir()
    for name in "abc":
        (files / f"{name}.png").rename(files / f"elsewhere/{name}.png")
    words = ["data.max_corrupt=0.4"]
    with_root = file_set(csv_config(files, "data.image_root=elsewhere", *words))
    images, kept = with_root.images.load([0, 2], [np.random.default_rng(0)] * 2)
    assert (len(images), kept) == (2, [0, 1])
    assert with_root.images.counter.max_fraction == 0.4
    assert list(with_root.alt_texts) == ["of a.png", "of b.png", "of c.png"]
