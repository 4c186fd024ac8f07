"""Wiring of the small task, baselines, own queries, training data, stages and tasks."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from common.config import UserError
from projects.rtd import baselines, export, generate, key_phrases, oti, own_queries, stages, tasks
from projects.rtd import data as data_module
from projects.rtd import drawings as drawings_module
from projects.rtd import evaluate as evaluation
from projects.rtd.data import HiddenCaptions, Images, Inverted, TripletBatches, synthetic_set
from projects.rtd.drawings import (
    CONDITIONS,
    Drawing,
    Query,
    changes,
    family_triplets,
    part_of,
    training_captions,
    unseen,
)
from projects.rtd.evaluate import (
    Task,
    composed,
    composed_gallery,
    encode_task,
    judge_of,
    leave_behind,
    name_recall,
    ranks_of,
    reference_first,
    save_items,
    synthetic_task,
    task_metrics,
    task_of,
)
from projects.rtd.hosts import HOSTS
from projects.rtd.inference import ComposedSearch, Found
from projects.rtd.inversion import GeluPhi, ReluPhi
from projects.rtd.key_phrases import LemmaTagger, key_phrase_spans
from projects.rtd.oti import Phrases
from projects.rtd.pictures import padded
from projects.rtd.table import before_after, headlines
from projects.rtd.triplets import COLUMNS, Triplet
from tests.projects.rtd.conftest import batch_of, config, module_of


def small_task(queries, count, gallery=None, names=None):
    """Black pictures with names of one letter."""
    images = torch.zeros(count, 3, 4, 4, dtype=torch.uint8)
    names = names or list("abcdefghijkl"[:count])
    return Task(images, names, queries, list(range(count)) if gallery is None else gallery)


class Notes:
    """In place of a workspace: what is saved, by name."""

    def __init__(self):
        self.saved = {}

    def items(self, name, values):
        self.saved[name] = list(values)

    def mean_items(self, name, of):
        self.saved[name] = list(of)

    def gallery(self, name, rows):
        self.saved[name] = rows

    def say(self, text):
        self.saved.setdefault("said", []).append(text)


# -- the small task ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "split", "asked", "gallery"),
    [
        ((), None, "test", [1]),
        (("eval.split=dev",), None, "dev", [1]),
        ((), "dev", "dev", [1]),
        ((), "train", "train", [0, 1, 2]),
        (("eval.split=train",), None, "train", [0, 1, 2]),
    ],
)
def test_drawings_are_asked_of_a_part_and_searched_among_the_held_out(
    monkeypatch, words, split, asked, gallery
):
    """Training queries have their answers among all drawings."""
    drawings = [SimpleNamespace(name=name) for name in "abc"]
    stands = {
        "read_drawings": lambda root: drawings,
        "decode": lambda drawings, size, root: torch.zeros(3, 3, size, size),
        "queries": lambda drawings, part: [part],
        "unseen": lambda drawings: [1],
    }
    for name, value in stands.items():
        monkeypatch.setattr(evaluation, name, value)
    task = task_of(config("data.source=drawings", "data.tagger=lemmas", *words), split)
    assert (task.queries, task.gallery) == ([asked], gallery)


def test_synthetic_queries_go_from_the_first_picture_of_a_class_to_that_of_the_next():
    pairs, task = synthetic_set(config()), synthetic_task(config())
    labels = pairs.labels.tolist()
    classes = sorted({*labels})
    first = [labels.index(label) for label in classes]
    assert [q.reference for q in task.queries] == first
    assert [q.target for q in task.queries] == [*first[1:], first[0]]
    asked = [f"shows a {pairs.class_names[labels[q.target]]}" for q in task.queries]
    assert [q.condition for q in task.queries] == asked
    assert task.names == [pairs.class_names[label] for label in labels]


def test_pictures_are_embedded_in_the_order_of_the_task(monkeypatch):
    as_is = SimpleNamespace(batch=lambda images: images)
    monkeypatch.setattr(evaluation, "tower_transform", lambda encoder: as_is)
    encoder = SimpleNamespace(encode_image=lambda images: images[:, :1, 0, 0])
    task = small_task([], 5)
    task = task._replace(images=torch.arange(5.0)[:, None, None, None].expand(5, 3, 4, 4))
    composer = SimpleNamespace(encoder=encoder, device="cpu")
    images = encode_task(config("eval.batch_size=2"), composer, task)
    assert images.flatten().tolist() == [0, 1, 2, 3, 4]


def test_places_are_those_in_the_gallery():
    """Ranks, chance and the marked answer where few pictures are searched, in another order."""
    images = F.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.2], [0.0, 1.0], [0.4, 1.0]]), dim=1)
    task = small_task([Query(0, "x", 2, "tone", "f")], 4, gallery=[3, 2, 0])
    query = images[2:3]
    assert ranks_of(task, query, images, task.gallery).tolist() == [1]
    assert ranks_of(task, images[3:], images, task.gallery).tolist() == [2]
    (row,) = composed_gallery(task, query, images)
    assert [(r["name"], r["correct"]) for r in row["results"][1:3]] == [("c", True), ("d", False)]


def test_training_is_watched_by_answers_at_rank_one(monkeypatch):
    task = small_task([Query(0, "x", 1, "tone", "f")] * 3, 3)
    stands = {
        "task_of": lambda cfg, split: task,
        "encode_task": lambda *_: torch.eye(3),
        "composed": lambda *_: None,
        "ranks_of": lambda *_: torch.tensor([1, 2, 1]),
    }
    for name, value in stands.items():
        monkeypatch.setattr(evaluation, name, value)
    _, judge = judge_of(config("eval.validate=true"))
    assert judge(None).tolist() == [True, False, True]


def test_training_is_watched_on_development_queries(monkeypatch):
    asked = []
    task = small_task([Query(0, "is b", 1, "tone", "f")] * 3, 2)
    monkeypatch.setattr(evaluation, "task_of", lambda cfg, split: asked.append(split) or task)
    count, _ = judge_of(config("eval.validate=true"))
    assert (asked, count) == (["dev"], 3)


@pytest.mark.parametrize("anchor", [False, True])
def test_figures_of_a_tower_are_of_the_gallery_and_of_all_pictures(monkeypatch, anchor):
    """Picture 3 is nearer than the answer, and no picture that is searched."""
    images = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.8, -0.6], [0.0, 1.0]])
    task = small_task([Query(0, "is b", 1, "tone", "f")], 4, gallery=[0, 1, 2])
    towers = []
    monkeypatch.setattr(
        evaluation, "composed", lambda *_, anchor: towers.append(anchor) or images[3:]
    )
    monkeypatch.setattr(evaluation, "name_recall", lambda *_, anchor=False: float(anchor))
    metrics = task_metrics(config(), None, task, images, anchor=anchor)
    assert (metrics["recall_at_1"], metrics["recall_at_1_full"]) == (1, 0)
    assert towers == [anchor]
    assert metrics["name_recall_at_10"] == float(anchor)


@pytest.mark.parametrize("anchor", [False, True])
def test_queries_are_composed_by_the_tower_that_is_asked_for(anchor):
    """Batches keep the order: each reference with its own sentence."""

    def compose(references, texts, *, anchor=False):
        return references * (10 if anchor else 1) + torch.tensor([[float(t)] for t in texts])

    images = torch.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, 6.0]])
    task = small_task([Query(i, str(i), 0, "tone", "f") for i in (2, 0, 1)], 3)
    composer = SimpleNamespace(compose=compose)
    actual = composed(config("eval.batch_size=2"), composer, task, images, anchor=anchor)
    order, factor = [2, 0, 1], 10 if anchor else 1
    expected = images[order] * factor + torch.tensor([[2.0], [0.0], [1.0]])
    torch.testing.assert_close(actual, F.normalize(expected, dim=1))


def test_a_name_is_found_among_ten_pictures_or_at_a_picture_of_the_same_name():
    """Ranks by hand: 10 is a hit, 11 is none; "c" is the name of pictures 2 and 3."""
    images = torch.eye(12)
    texts = torch.eye(12)
    texts[0] = torch.arange(12.0).roll(-2)  # own picture: tenth
    texts[1] = torch.arange(12.0)  # own picture: eleventh
    texts[2] = torch.eye(12)[3]
    encode = {"query": lambda ids: texts[ids], "anchor": lambda ids: images[ids]}
    composer = SimpleNamespace(tokens=lambda names: torch.arange(len(names)), **encode)
    task = small_task([], 12, names=list("abccdefghijk"))
    assert name_recall(composer, task, images) == pytest.approx(11 / 12)
    assert name_recall(composer, task, images, anchor=True) == 1


def test_a_reference_that_is_not_searched_is_never_the_best_hit():
    images = torch.eye(3)
    queries = [Query(0, "x", 1, "tone", "f"), Query(1, "x", 2, "tone", "f")]
    task = small_task(queries, 3, gallery=[1, 2])
    assert reference_first(task, images[[1, 1]], images) == 0.5


def test_items_and_galleries_are_those_of_each_tower(monkeypatch):
    ranked, notes = [], Notes()
    task = small_task([Query(0, "is b", 1, "tone", "f")], 3, gallery=[0, 1])
    stands = {
        "composed": lambda *_, anchor=False: "anchor" if anchor else "student",
        "ranks_of": lambda task, query, images, gallery: ranked.append((query, gallery)),
        "save_items": lambda *_: None,
        "composed_gallery": lambda task, query, images: query,
    }
    for name, value in stands.items():
        monkeypatch.setattr(evaluation, name, value)
    composer = SimpleNamespace(has_anchor=True)
    leave_behind(config(), composer, task, None, notes)
    assert ranked == [("student", [0, 1])]
    assert notes.saved == {
        "composed queries": "student",
        "composed queries before RTD": "anchor",
    }


def test_colour_has_items_and_no_part_in_the_mean():
    queries = [Query(0, "x", 1, kind, "f") for kind in ("colour", "gender", "tone")]
    notes = Notes()
    save_items(small_task(queries, 2), torch.tensor([1, 1, 2]), notes)
    assert notes.saved == {
        "colour_recall_at_1": [1.0],
        "gender_recall_at_1": [1.0],
        "tone_recall_at_1": [0.0],
        "recall_at_1": ["gender_recall_at_1", "tone_recall_at_1"],
    }


def test_the_gallery_shows_queries_from_the_whole_set():
    queries = [Query(0, str(i), 1, "tone", "f") for i in range(24)]
    rows = composed_gallery(small_task(queries, 8), torch.eye(8).repeat(3, 1), torch.eye(8))
    shown = [row["results"][0]["item"].removeprefix("a photo of $ that ") for row in rows]
    assert shown == ["0", "3", "6", "9", "12", "15", "18", "21"]


def test_means_are_over_all_parts_of_a_set():
    """Before and after; a set that lacks a part has no mean."""
    parts = ("focus_attribute", "change_attribute", "focus_object", "change_object")
    after = {f"genecis_{part}_recall_at_1": float(i) for i, part in enumerate(parts)}
    before = {f"before_{name}": value / 2 for name, value in after.items()}
    means = evaluation.means_of(after | before)
    assert means == {"genecis_recall_at_1": 1.5, "before_genecis_recall_at_1": 0.75}
    assert evaluation.means_of({name: after[name] for name in list(after)[:3]}) == {}
    fashion = {
        f"{prefix}fashioniq_{part}_recall_at_{k}": value
        for part in ("dress", "shirt", "toptee")
        for k in (10, 50)
        for prefix, value in (("", k / 100), ("before_", k / 200))
    }
    means = evaluation.means_of(fashion)
    assert means["fashioniq_mean"] == pytest.approx(0.3)
    assert means["before_fashioniq_mean"] == pytest.approx(0.15)


# -- baselines -----------------------------------------------------------------------------------


@pytest.fixture
def stage(monkeypatch):
    """Baselines on three pictures of two dimensions; sentences are vectors by name."""
    images = torch.tensor([[3.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    vectors = {"turn": [0.0, 5.0], "a": [1.0, 0.0], "b": [0.0, 1.0], "c": [1.0, 1.0]}
    task = small_task([Query(0, "turn", 1, "tone", "f")], 3)
    seen = SimpleNamespace(splits=[], ranked=[], seeds=[], modes=[], images=images)

    def composer_of(cfg):
        composer = torch.nn.Linear(1, 1)
        composer.tokens = lambda texts: texts
        composer.anchor = lambda texts: torch.tensor([vectors[text] for text in texts])
        seen.seeds.append(torch.initial_seed())
        return composer

    def encode_task(cfg, composer, task):
        seen.modes.append(composer.training)
        return images

    def ranks_of(task, query, images, gallery):
        seen.ranked.append(query)
        return torch.tensor([1])

    stands = {
        "composer_of": composer_of,
        "task_of": lambda cfg, split=None: seen.splits.append(split) or task,
        "encode_task": encode_task,
        "ranks_of": ranks_of,
        "save_items": lambda *_: None,
    }
    for name, value in stands.items():
        monkeypatch.setattr(baselines, name, value)
    return seen


@pytest.mark.parametrize(
    ("name", "query"),
    [
        ("image_only", [1.0, 0.0]),
        ("text_only", [0.0, 1.0]),
        ("caption_oracle", [0.0, 1.0]),
    ],
)
def test_baselines_ask_with_reference_sentence_or_answer(stage, name, query):
    getattr(baselines, name)(config("seed=5"), None)
    torch.testing.assert_close(stage.ranked[0], torch.tensor([query]))
    assert (stage.splits, stage.seeds, stage.modes) == ([None], [5], [False])


def test_the_sum_takes_the_lambda_that_was_best_on_training_queries(stage, monkeypatch):
    """Unit image plus lambda times unit sentence; of equally good ones the first."""
    recalls = iter([0.1, 0.2, 0.9, 0.9, 0.3, 0.0, 0.0, 0.5])
    monkeypatch.setattr(baselines, "recall_figures", lambda *_: {"recall_at_1": next(recalls)})
    metrics = baselines.image_plus_text(config(), None)
    assert metrics == {"recall_at_1": 0.5, "lambda": 0.5}
    assert stage.splits == ["train", None]
    expected = F.normalize(torch.tensor([[1.0, 0.5]]), dim=1)
    torch.testing.assert_close(stage.ranked[-1], expected)


def test_pixels_are_compared_without_the_mean_picture(stage, monkeypatch):
    pictures = torch.zeros(3, 3, 16, 16, dtype=torch.uint8)
    pictures[1:] = 90
    task = small_task([Query(0, "turn", 1, "tone", "f")], 3)._replace(images=pictures)
    monkeypatch.setattr(baselines, "task_of", lambda cfg: task)
    baselines.raw_pixels(config(), None)
    assert (stage.ranked[0] < 0).all()  # darker than the mean


def test_the_untrained_phi_is_that_of_the_seed_and_chance_of_the_gallery(stage, monkeypatch):
    monkeypatch.setattr(baselines, "task_metrics", lambda cfg, composer, *_: composer.training)
    assert baselines.untrained(config("seed=5"), None) is False
    assert stage.seeds == [5]
    task = small_task([], 5, gallery=[0, 1, 2])
    monkeypatch.setattr(baselines, "task_of", lambda cfg: task)
    assert baselines.chance(config(), None)["recall_at_1"] == 1 / 2


# -- a user's queries ----------------------------------------------------------------------------


def test_own_queries_by_hand(monkeypatch, tmp_path):
    """Pictures 0 to 2; the composed query of each row, what image and sentence alone find."""
    task = small_task([Query(0, "x", 1, "own", "0"), Query(1, "y", 2, "own", "1")], 3)
    images = torch.tensor([[1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [0.0, 0.6, 0.8]])
    module = torch.nn.Linear(1, 1)
    towers = {"anchor": lambda ids: images[[1, 0]], "query": lambda ids: images[[2, 0]]}
    module.composer = SimpleNamespace(has_anchor=True, tokens=lambda texts: None, **towers)
    stands = {
        "read_task": lambda cfg, path, say: (task, 4),
        "encode_task": lambda *_: images,
        "composed": lambda *_, anchor=False: images[[2, 0]] if anchor else images[[2, 2]],
        "composed_gallery": lambda task, query, images: query.tolist(),
    }
    for name, value in stands.items():
        monkeypatch.setattr(own_queries, name, value)
    notes = Notes()
    metrics = own_queries.judge_queries(config(), module, notes, tmp_path)
    assert [metrics[f"num_{name}"] for name in ("queries", "images", "skipped")] == [2, 3, 4]
    assert (metrics["recall_at_1"], metrics["mrr"]) == (0.5, 0.75)
    assert notes.saved["recall_at_1"] == [0.0, 1.0]
    assert metrics["untrained_recall_at_1"] == 0
    assert metrics["text_only_recall_at_1"] == 0.5  # the sentence in CLIP's own tower
    assert (metrics["image_only_recall_at_1"], metrics["image_only_mrr"]) == (0.5, 0.75)
    assert (metrics["recall_at_1_chance"], metrics["recall_at_5_chance"]) == (0.5, 1)


def test_image_and_sentence_count_alike_in_their_sum(monkeypatch, tmp_path):
    """Lengths of raw embeddings have no part in it: the sum is nearest to picture 1."""
    images = torch.tensor([[50.0, 0.0, 0.0], [1.0, 1.0, 0.0], [1.0, 0.2, 0.0]])
    task = small_task([Query(0, "x", 1, "own", "0")], 3)
    module = torch.nn.Linear(1, 1)
    module.composer = SimpleNamespace(
        has_anchor=False,
        tokens=lambda texts: None,
        query=lambda ids: torch.tensor([[0.0, 3.0, 0.0]]),
    )
    stands = {
        "read_task": lambda cfg, path, say: (task, 0),
        "encode_task": lambda *_: images,
        "composed": lambda *_: images[:1],
        "composed_gallery": lambda *_: [],
    }
    for name, value in stands.items():
        monkeypatch.setattr(own_queries, name, value)
    metrics = own_queries.judge_queries(config(), module, Notes(), tmp_path)
    assert metrics["image_plus_text_recall_at_1"] == 1
    assert "untrained_recall_at_1" not in metrics


def test_pictures_of_a_user_keep_their_sides(tmp_path):
    """The middle of a wide picture: black, white, black in thirds."""
    wide = Image.new("RGB", (96, 32))
    wide.paste((255, 255, 255), (32, 0, 64, 32))
    wide.save(tmp_path / "a.png")
    pixels = own_queries._square(tmp_path / "a.png", 16)
    assert pixels.shape == (3, 16, 16)
    assert pixels[:, :, 2:14].min() == 255


def test_few_pictures_of_a_user_are_judged(tmp_path):
    """Two pictures, fewer than the gallery shows; a reference is never its own answer."""
    for name in "ab":
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    pairs = [("a.png", "b.png"), ("a.png", "a.png")]
    rows = [{"reference": a, "text": "is red", "target": b} for a, b in pairs]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    notes = Notes()
    metrics = own_queries.judge_queries(config(), module_of(), notes, tmp_path / "q.jsonl")
    assert (metrics["num_queries"], metrics["num_skipped"]) == (1, 1)
    assert metrics["recall_at_1"] == metrics["recall_at_1_chance"] == 1
    (row,) = notes.saved["composed queries"]
    assert [result["name"] for result in row["results"]] == ["condition", "b"]
    (tmp_path / "q.jsonl").write_text(json.dumps(rows[1]) + "\n")
    with pytest.raises(UserError, match="another target"):
        own_queries.read_task(config(), tmp_path / "q.jsonl", notes.say)


def test_rows_of_a_user_that_lack_a_value_are_counted(tmp_path):
    for name in "ab":
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    rows = [{"reference": "a.png", "text": text, "target": "b.png"} for text in ("is red", " ")]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task, skipped = own_queries.read_task(config(), tmp_path / "q.jsonl", Notes().say)
    assert (task.names, task.gallery, skipped) == (["a", "b"], [0, 1], 1)
    assert task.queries == [Query(0, "is red", 1, "own", "0")]


# -- training data -------------------------------------------------------------------------------


def lengths(texts):
    """In place of ids: the number of characters."""
    return torch.tensor([len(text) for text in texts])


def test_triplets_and_noise_are_drawn_by_seed_and_epoch():
    def draw(index, rng):
        return Triplet("r", "c", "t" * int(rng.integers(1, 10**6)))

    def batch(seed, epoch):
        data = TripletBatches(4, draw, lengths, config().rtd, 8, seed)
        return data[[(0, epoch), (2, epoch)]]

    first, again, epoch, seed = (batch(*place) for place in ((0, 0), (0, 0), (0, 1), (1, 0)))
    for name in ("target", "noise"):
        assert torch.equal(first[name], again[name])
        assert not torch.equal(first[name], epoch[name])
        assert not torch.equal(first[name], seed[name])
    assert first["ids"].tolist() == [0, 2]


def test_noise_of_captions_is_drawn_by_seed_and_epoch():
    def noise(seed, epoch):
        tagger = LemmaTagger(["dog"])
        return HiddenCaptions(["a dog"], tagger, lengths, 8, seed)[[(0, epoch)]]["noise"]

    first = noise(0, 0)
    assert torch.equal(first, noise(0, 0))
    assert not torch.equal(first, noise(0, 1))
    assert not torch.equal(first, noise(1, 0))


def test_phrases_are_of_all_near_concepts_and_drawn_by_seed_and_epoch():
    phrases = Phrases(
        ["cat", "a dog", "the house"], {c: [c] for c in ("cat", "a dog", "the house")}
    )
    near = torch.tensor([[0, 2]])

    def drawn(seed):
        data = Inverted(torch.zeros(1, 2), torch.zeros(1, 2), near, phrases, lengths, seed)
        return [int(data[[(0, epoch)]]["phrase"]) for epoch in range(20)]

    assert {*drawn(0)} == {len("cat"), len("the house")}
    assert drawn(0) == drawn(0) != drawn(1)


def test_a_written_phrase_holds_its_concept_which_is_hidden_once():
    phrases = Phrases(["cat"], {"cat": ["a dog on a mat", "a cat and a cat"]})
    drawn = {phrases.draw(0, np.random.default_rng(seed)) for seed in range(8)}
    assert drawn == {("a cat and a cat", "a $ and a cat")}


def test_images_that_cannot_be_read_have_no_id():
    def load(rows, rngs):
        kept = [i for i, row in enumerate(rows) if row != 7]
        return torch.zeros(len(kept), 3, 4, 4), kept

    data = Images(SimpleNamespace(load=load), 9, 0)
    assert data[[(7, 0), (3, 0), (5, 0)]]["ids"].tolist() == [3, 5]
    assert data[[(3, 0), (5, 0)]]["ids"].tolist() == [3, 5]


@pytest.mark.parametrize("source", ["drawings", "files"])
def test_captions_are_cleaned_and_blank_lines_are_none(monkeypatch, tmp_path, source):
    """Of synthetic captions the names of their classes are the key words."""
    data_module.captions_of.cache_clear()
    lines = ["A <PERSON> pays $5", "", "A dog"]
    monkeypatch.setattr(data_module, "training_captions", lambda root: lines[::2])
    (tmp_path / "c.txt").write_text("\n".join(lines))
    words = [f"data.source={source}", "data.tagger=lemmas", f"data.root={tmp_path}"]
    words += ["data.triplets=t.json", "data.captions=c.txt"] if source == "files" else []
    assert data_module.train_captions(config(*words)) == ("a person pays 5", "a dog")
    data_module.captions_of.cache_clear()
    tagger = data_module.tagger_of(config())
    name = synthetic_set(config()).class_names[0]
    assert tagger([f"see {name} or dog"]) == [[(4, 4 + len(name))]]


def test_concepts_of_a_file_are_its_lines_with_a_word(tmp_path):
    (tmp_path / "v.txt").write_text("cat\n\nred box\n")
    words = [f"data.root={tmp_path}", "phi.searle.vocabulary=v.txt", "phi.host=searle"]
    assert data_module.concepts_of(config(*words)) == ["cat", "red box"]


def test_triplets_of_drawings_are_cleaned(monkeypatch):
    rows = [("Red Circle", "turns Blue", "Blue Circle")]
    monkeypatch.setattr(data_module, "read_drawings", lambda root: [])
    monkeypatch.setattr(data_module, "family_triplets", lambda drawings: rows)
    monkeypatch.setattr(data_module, "captions_of", lambda *_: ("a dog", "a cat"))
    words = ["data.source=drawings", "data.tagger=lemmas", "data.family_share=1.0"]
    size, draw = data_module.triplet_source(config(*words))
    assert size == 2
    assert draw(0, np.random.default_rng(0)) == ("red circle", "turns blue", "blue circle")
    assert data_module.triplet_source(config(*words, "data.num_samples=7"))[0] == 7


def test_embeddings_of_all_images_are_made_in_batches():
    def load(rows, rngs):
        return torch.tensor(rows).float()[:, None], rows

    encoder = SimpleNamespace(encode_image=lambda images: images)
    composer = SimpleNamespace(encoder=encoder, device="cpu")
    source = SimpleNamespace(load=load)
    images = data_module.image_embeddings(composer, source, 5, 2)
    assert images.flatten().tolist() == [0, 1, 2, 3, 4]


def test_hosts_see_no_picture_of_a_held_out_family(monkeypatch):
    drawings = ["a", "held", "b"]
    stands = {
        "read_drawings": lambda root: drawings,
        "unseen": lambda drawings: [1],
        "decode": lambda kept, size, root: kept,
        "tower_transform": lambda encoder: None,
    }
    for name, value in stands.items():
        monkeypatch.setattr(data_module, name, value)
    monkeypatch.setattr(data_module.im, "CachedImages", lambda images, transform: images)
    cfg = config("data.source=drawings", "data.tagger=lemmas")
    assert data_module.host_images(cfg, None) == (["a", "b"], 2)


def test_triplets_of_a_file_are_an_epoch_in_their_order(tmp_path):
    """`data.num_samples` is for triplets that are made while training."""
    rows = [dict(zip(COLUMNS, (f"r {i}", f"c {i}", f"t {i}"), strict=True)) for i in range(3)]
    (tmp_path / "t.json").write_text(json.dumps(rows))
    words = ["data.source=files", f"data.root={tmp_path}", "data.triplets=t.json"]
    cfg = config(*words, "data.num_samples=2", "phi.weights=x.pt")
    size, draw = data_module.triplet_source(cfg)
    assert [draw(i, None).reference for i in range(size)] == ["r 0", "r 1", "r 2"]


def test_a_caption_without_a_key_phrase_gives_its_place_to_another():
    draw = data_module.rules(["it runs", "a dog"], ["a cat"], LemmaTagger(["dog", "cat"]))
    assert draw(0, np.random.default_rng(0)).target == "a cat"
    with pytest.raises(UserError, match="no rule-based triplet"):
        data_module.rules(["it runs"], ["a cat"], LemmaTagger(["cat"]))(0, np.random.default_rng(0))


# -- stages --------------------------------------------------------------------------------------


def test_the_stage_of_the_host_has_steps_average_and_no_validation_of_its_own():
    words = ["phi.steps=5", "phi.ema_decay=0.9", "eval.validate=true"]
    host, rtd = stages.stages(config(*words, "trainer.val_every_n_steps=2"))
    assert host.trainer == {
        "max_steps": 5,
        "max_epochs": None,
        "val_every_n_steps": None,
        "ema_decay": 0.9,
    }
    assert (host.monitor, rtd.monitor) == (None, "val/recall_at_1")
    (alone,) = stages.stages(config("rtd.enabled=false"))
    assert alone.name == "host"


def test_seconds_of_the_host_and_the_seed_reach_the_stage_of_the_triplets():
    running = stages.stages(config("seed=3"))
    host = next(running)
    host.module.seconds["phi"] = 7.0
    rtd = next(running)
    assert rtd.module.seconds == {"phi": 7.0}
    assert rtd.data.train_set.seed == 3
    assert rtd.monitor is None


@pytest.mark.parametrize(
    ("word", "other"),
    [
        ("seed=1", True),
        ("phi.steps=9", True),
        ("data.images=x", True),
        ("data.captions=x", True),
        ("rtd.l2_normalize=true", True),
        ("rtd.special=an image of $", True),
        ("rtd.tau=0.5", False),
        ("data.batch_size=16", False),
    ],
)
def test_a_kept_phi_is_that_of_all_that_its_host_depends_on(word, other):
    assert (stages.kept_phi(config(word)) != stages.kept_phi(config())) == other


@pytest.mark.parametrize("host", HOSTS)
def test_data_of_a_host_have_its_batch_and_the_seed(monkeypatch, tmp_path, host):
    (tmp_path / "p.json").write_text(json.dumps({"cat": ["a cat on a mat"]}))
    asked = []
    monkeypatch.setattr(stages, "inverted", lambda cfg, host, phrases, *_: asked.append(phrases))
    words = [f"phi.host={host}", "phi.batch_size=5", "data.batch_size=16", "seed=3"]
    cfg = config(*words, f"phi.searle.phrases={tmp_path}/p.json")
    data = stages.host_data(cfg, HOSTS[host](cfg, stages.composer_of(cfg)))
    assert (data.batch_size, data.seed) == (5, 3)
    if host == "searle":
        data.setup("fit")
        assert asked[0].written == {"cat": ["a cat on a mat"]}
    else:
        assert data.train_set.seed == 3


def test_shards_are_read_by_the_host_s_batch_and_the_seed(monkeypatch):
    asked = {}
    stands = {
        "expand_shards": lambda pattern, root: [pattern],
        "ShardStream": lambda shards, samples, **options: asked.update(options, own=samples.seed),
        "tower_transform": lambda encoder: None,
    }
    for name, value in stands.items():
        monkeypatch.setattr(data_module, name, value)
    words = ["data.source=files", "data.triplets=t.json", "phi.host=pic2word"]
    words += ["data.images=x.tar", "phi.batch_size=5", "data.batch_size=16", "seed=3"]
    data_module.streamed_images(config(*words), None)
    assert (asked["batch_size"], asked["seed"], asked["own"]) == (5, 3, 3)


def test_triplets_are_loaded_by_batch_and_seed_of_the_config():
    module = module_of()
    data, _, monitor = stages.rtd_data(config("seed=3", "data.batch_size=16"), module)
    assert (data.batch_size, data.seed, data.train_set.seed, monitor) == (16, 3, 3, None)


def test_a_kept_phi_is_loaded_with_the_time_that_it_took(tmp_path):
    """In place of fitting; the first run leaves both files."""
    cfg = config("phi.keep=true", f"runs_dir={tmp_path}")
    running = stages.stages(cfg)
    first = next(running)
    assert first.weights is None
    first.module.seconds["phi"] = 7.0
    next(running)
    again = stages.stages(cfg)
    second = next(again)
    assert second.weights == stages.kept_phi(cfg)
    assert second.weights.is_file()
    assert next(again).module.seconds == {"phi": 7.0}
    other = replace(cfg, trainer=replace(cfg.trainer, precision="bf16-mixed"))
    assert stages.kept_phi(other) != second.weights


def test_the_plan_needs_neither_weights_of_phi_nor_triplets(tmp_path):
    words = ["data.source=files", f"data.root={tmp_path}", "data.triplets=t.json"]
    cfg = config(*words, "phi.weights=nowhere.pt", "data.num_samples=9")
    plan = stages.plan(cfg)
    assert plan.num_samples == 9
    assert plan.module().composer.phi is not None


def test_inversion_has_the_concepts_and_the_seed_of_the_config(monkeypatch):
    asked = {}
    monkeypatch.setattr(
        stages, "image_embeddings", lambda *args: asked.update(batch=args[3]) or torch.zeros(2, 32)
    )
    monkeypatch.setattr(
        stages,
        "nearest_concepts",
        lambda composer, images, phrases, count: asked.update(count=count) or torch.zeros(2, 1),
    )

    def invert(composer, images, near, phrases, options, seed):
        asked.update(seed=seed, gradient=torch.is_grad_enabled())
        return torch.zeros(2, 32)

    monkeypatch.setattr(stages, "invert", invert)
    words = ["phi.host=searle", "phi.searle.concepts=4", "phi.searle.batch_size=6", "seed=3"]
    cfg = config(*words)
    host = HOSTS["searle"](cfg, stages.composer_of(cfg))
    data = stages.inverted(cfg, host, Phrases(["cat"]), None, 2)
    assert {*host.seconds} == {"phi"}
    assert asked == {"batch": 6, "count": 4, "seed": 3, "gradient": True}
    assert data.seed == 3


@pytest.mark.parametrize("host", HOSTS)
def test_the_optimiser_of_a_host_has_phi_alone(host):
    cfg = config(f"phi.host={host}")
    module = HOSTS[host](cfg, stages.composer_of(cfg))
    (group,) = module.parameter_groups()
    assert {id(p) for p in group["params"]} == {id(p) for p in module.composer.phi.parameters()}


@pytest.mark.parametrize(
    ("host", "kind"), [("lincir", GeluPhi), ("searle", GeluPhi), ("pic2word", ReluPhi)]
)
def test_phi_is_that_of_its_host_with_the_sizes_of_the_config(host, kind):
    cfg = config(f"phi.host={host}", "phi.hidden_dim=20", "phi.dropout=0.3")
    phi = stages.composer_of(cfg).phi
    assert isinstance(phi, kind)
    widths = {m.out_features for m in phi.layers.modules() if isinstance(m, torch.nn.Linear)}
    assert 20 in widths
    dropouts = {m.p for m in phi.modules() if isinstance(m, torch.nn.Dropout)}
    assert dropouts == {0.3}


def test_blocks_of_the_text_tower_that_learns_are_recomputed():
    composer = stages.composer_of(config("model.activation_checkpointing=true"))
    towers = composer.student.transformer, composer.encoder.model.transformer
    assert [tower.grad_checkpointing for tower in towers] == [True, False]


def test_another_sentence_may_be_composed():
    composer = module_of().composer.eval()
    images, template = torch.randn(1, 32), "an image of $ but {}"
    ids = composer.tokens(["an image of $ but red"])
    expected = composer.query(ids, composer.pseudo_words(images))
    torch.testing.assert_close(composer.compose(images, ["red"], template=template), expected)


def test_weights_of_searle_and_the_sentence_of_pic2word_are_those_of_the_config():
    words = ["phi.searle.distil_weight=3", "phi.searle.regular_weight=0.5", "phi.dropout=0"]
    cfg = config("phi.host=searle", *words)
    host = HOSTS["searle"](cfg, stages.composer_of(cfg))
    rows = torch.randn(2, 32), torch.randn(2, 32)
    near = torch.zeros(2, 1).long()
    data = Inverted(*rows, near, Phrases(["cat"]), host.composer.tokens, 0)
    terms = host.losses(data[[(0, 0), (1, 0)]])
    torch.testing.assert_close(terms["loss"], 3 * terms["distil"] + 0.5 * terms["regular"])
    cfg = config("phi.host=pic2word", "rtd.special=an image of $")
    assert HOSTS["pic2word"](cfg, stages.composer_of(cfg)).sentence == "an image of $"


def test_the_time_of_a_fit_is_added_to_what_its_data_took():
    module = module_of()
    module.seconds["student"] = 5.0
    module.on_train_start()
    module.on_train_end()
    assert 5 < module.seconds["student"] < 6


def test_images_of_every_block_have_their_own_start_and_concepts(monkeypatch):
    """Blocks of one image: equal images do not get equal tokens."""
    words = ["phi.host=searle", "phi.searle.steps=1", "phi.searle.batch_size=1"]
    cfg, asked = config(*words, "phi.searle.lr=1e-30"), []
    composer = stages.composer_of(cfg)
    composer.freeze(phi=False, student=False)
    sentences = []
    tokens_of = composer.tokens
    monkeypatch.setattr(
        composer, "tokens", lambda texts: sentences.append(texts[0]) or tokens_of(texts)
    )
    phrases = Phrases(["cat", "dog"])
    draw = phrases.draw
    monkeypatch.setattr(phrases, "draw", lambda place, rng: asked.append(place) or draw(place, rng))
    near = torch.tensor([[1], [0]])
    tokens = oti.invert(composer, torch.ones(2, 32), near, phrases, cfg.phi.searle, 0)
    assert asked == [1, 0]
    assert not torch.equal(tokens[0], tokens[1])
    many = replace(cfg.phi.searle, steps=20)
    oti.invert(composer, torch.ones(1, 32), near[:1], phrases, many, 0)
    assert {*sentences} >= {text.format("$") for text in oti.TEMPLATES}


@pytest.mark.parametrize(("refined", "factor"), [(True, 2), (False, 1)])
def test_the_plan_counts_the_queries_of_a_refined_batch(refined, factor):
    plan, seen = stages.plan(config(f"rtd.refined_batch={str(refined).lower()}")), []
    module = plan.module()
    module.composer.student.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    plan.forward(module, 3)
    assert seen == [3 * factor]


@pytest.mark.parametrize(
    ("words", "tags"),
    [
        (["phi.host=lincir", "data.captions=c.txt"], True),
        (["phi.host=lincir", "phi.weights=x.pt"], False),
        (["phi.host=searle", "data.images=p"], True),
        (["phi.host=searle", "data.images=p", "phi.searle.vocabulary=v.txt"], False),
        (["phi.host=searle", "phi.weights=x.pt"], False),
        (["phi.host=pic2word", "data.images=p"], False),
    ],
)
def test_a_tagger_is_asked_for_where_captions_are_tagged(words, tags):
    cfg = config("data.source=files", "data.triplets=t.json", "data.tagger=nowhere", *words)
    assert ("data.tagger" in {need.name for need in stages.requirements(cfg)}) == tags


@pytest.mark.parametrize("frozen", [True, False])
def test_both_sides_learn_where_the_target_is_not_frozen(monkeypatch, frozen):
    """References too, which are targets of the refined batch."""
    module, seen = module_of(f"rtd.frozen_target={str(frozen).lower()}"), []
    forward = module.objective.forward

    def watched(target, reference, composed, special):
        seen.extend([target, reference, composed, special])
        return forward(target, reference, composed, special)

    monkeypatch.setattr(module.objective, "forward", watched)
    module.losses(batch_of(module))
    assert [x.requires_grad for x in seen] == [not frozen, not frozen, True, True]


def test_the_watched_share_is_that_of_the_batch_s_own_queries(monkeypatch):
    module, logged = module_of(), []
    module.judge = lambda composer: torch.tensor([True, False, True, True])
    monkeypatch.setattr(module, "log", lambda name, value, **_: logged.append((name, float(value))))
    module.on_validation_epoch_start()
    for batch in (torch.tensor([0, 1]), torch.tensor([2, 3])):
        module.validation_step(batch, 0)
    assert logged == [("val/recall_at_1", 0.5), ("val/recall_at_1", 1.0)]


# -- tasks ---------------------------------------------------------------------------------------


def test_rules_draw_by_seed_and_by_caption():
    words = ["data.source=drawings", "data.tagger=lemmas"]
    captions = ["a red dog under the tree", "a cat in a house"] + ["a red dog under the tree"] * 4

    def drawn(seed):
        return tasks.by_rules(config(*words, f"seed={seed}"), captions)

    assert drawn(0) == drawn(0) != drawn(1)
    assert len({drawn(0)[i] for i in (0, 2, 3, 4, 5)}) > 1


def test_rules_take_the_key_words_of_a_file_and_any_place(tmp_path):
    (tmp_path / "k.txt").write_text("a blue box\n \na green box\n")
    words = ["data.source=drawings", "data.tagger=lemmas"]
    cfg = config(*words, f"triplets.keywords={tmp_path}/k.txt")
    triplets = tasks.by_rules(cfg, ["a dog under the tree"] * 40)
    assert {t.target for t in triplets} == {
        text.format(new)
        for text in ("{} under the tree", "a dog under {}")
        for new in ("a blue box", "a green box")
    }


def test_an_edit_keeps_a_share_of_the_old_words():
    answer = " add colours\nEdited: a car in blue, green, white and black"
    assert generate.parse(answer, "a red car", 0.6) is not None  # two of three
    assert generate.parse(answer, "a red car", 0.7) is None


def test_sampling_is_that_of_the_config():
    cfg = config("triplets.temperature=0.3", "phrases.temperature=0.4")
    editor, writer = generate.editor_policy(cfg.triplets), generate.writer_policy(cfg.phrases)
    assert (editor.temperature, editor.no_repeat_ngram) == (0.3, 0)
    assert (writer.temperature, writer.no_repeat_ngram) == (0.4, 2)


def test_answers_end_where_their_format_ends(monkeypatch):
    stops = []
    monkeypatch.setattr(
        "common.decoding.generators.text_generator", lambda *_, stop, **__: stops.append(stop)
    )
    cfg = config()
    generate.build_editor(cfg.triplets, cfg.generator)
    generate.build_writer(cfg.phrases, cfg.generator)
    assert stops == ["#", "\n"]


def test_key_words_are_nouns_and_adjectives_of_the_list(monkeypatch):
    """Plurals too; a function word is none although a noun is spelt like it."""
    rows = [{"pos": pos, "lemmas": [f"{pos.upper()}word"]} for pos in "nasrv"]
    monkeypatch.setattr(key_phrases, "bundled", lambda *_: None)
    monkeypatch.setattr(key_phrases, "read_jsonl", lambda *_: rows)
    assert key_phrases.wordnet_tagger.__wrapped__().lemmas == {"nword", "aword", "sword"}
    tagger = LemmaTagger(["dog", "will"])
    assert tagger(["dogs will run"]) == [[(0, 4)]]
    assert key_phrase_spans(["dog, dog"], tagger) == [[(0, 3), (5, 8)]]  # a comma parts them
    assert key_phrase_spans(["dog   dog"], tagger) == [[(0, 9)]]


def test_hits_are_written_under_the_names_that_are_printed(monkeypatch, tmp_path):
    for name in ("a.png", "b.png", "c.PNG"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    model = SimpleNamespace(
        compose=lambda *_: None,
        index=lambda paths, batch: torch.zeros(len(paths), 2),
        search=lambda asked, index, top, exclude: [Found(2, 0.5), Found(1, 0.25)],
    )
    monkeypatch.setattr(tasks, "ComposedSearch", lambda folder: model)
    monkeypatch.setattr(tasks, "draw", lambda *_: None)
    notes, output = Notes(), tmp_path / "hits.jsonl"
    notes.progress, notes.figure = (lambda parts, *_: parts), (lambda *_: "figure")
    words = ["search.run=x", f"search.gallery={tmp_path}", f"search.reference={tmp_path}/a.png"]
    tasks.search(config(*words, "search.text=is red", f"search.hits={output}"), notes)
    assert notes.saved["said"][:2] == ["c.PNG 0.500", "b.png 0.250"]
    assert json.loads(output.read_text()) == {
        "query": "a.png: is red",
        "hits": [{"id": "c.PNG", "score": 0.5}, {"id": "b.png", "score": 0.25}],
    }


def test_pictures_are_embedded_in_batches_in_their_order():
    search = object.__new__(ComposedSearch)
    encoder = SimpleNamespace(encode_image=lambda pixels: pixels)
    search.composer = SimpleNamespace(encoder=encoder)
    search.preprocess = lambda picture: torch.tensor(picture.getpixel((0, 0))).float()
    pictures = [Image.new("RGB", (2, 2), colour) for colour in ("red", "lime", "blue")]
    torch.testing.assert_close(search.index(pictures, batch_size=2), torch.eye(3))


def test_an_export_composes_with_the_sentence_that_it_was_trained_with(tmp_path):
    words = ["rtd.template=an image of $ but {}"]
    export.export(config(*words), module_of(*words), tmp_path)
    assert export.load_composer(tmp_path).template == "an image of $ but {}"


def test_the_table_has_what_was_measured_both_times():
    """An export has no figures from before."""
    measured = {"recall_at_1": 0.5, "circo_map_at_5": 0.3, "before_recall_at_1": 0.2}
    assert headlines(measured) == ["recall_at_1"]


def test_the_table_shows_what_is_gained(tmp_path):
    sections = {
        "phi": {"host": "lincir", "steps": 1, "weights": None},
        "model": {"pretrained": "random", "open_clip": "tiny"},
        "trainer": {"max_steps": 2},
        "rtd": {"enabled": True},
    }
    (tmp_path / "config.yaml").write_text(json.dumps(sections))
    metrics = {"recall_at_1": 0.5, "before_recall_at_1": 0.2}
    metrics |= {"cost_host_parameters": 3, "cost_rtd_parameters": 4}
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    assert "| lincir | tiny | recall_at_1 | 0.2000 | 0.5000 | +0.3000 |" in before_after([tmp_path])


def test_a_refused_answer_is_sampled_again(monkeypatch):
    asked = []

    def generator(*_, **__):
        return lambda prompts, rngs, limit: asked.extend(rngs) or ["?"] * len(prompts)

    monkeypatch.setattr("common.decoding.generators.text_generator", generator)
    cfg = config("triplets.retries=2")
    edit = generate.build_editor(cfg.triplets, cfg.generator)
    seed = SimpleNamespace(rng=lambda *numbers: numbers)
    assert edit(["a dog"], [seed]) == [None]
    assert len({*asked}) == 3


@pytest.mark.parametrize(
    ("size", "expected"), [((100, 40), (100, 80)), ((40, 100), (80, 100)), ((100, 90), (100, 90))]
)
def test_pictures_are_padded_to_the_ratio(size, expected):
    assert padded(Image.new("RGB", size), 1.25).size == expected


# -- drawings ------------------------------------------------------------------------------------


def drawing(name, family, *, tone=None, gender=()):
    return Drawing("emoji", 0, name, family, tone, gender, ())


def family_names():
    """A held-out family and one for training."""
    names = [f"family {i}" for i in range(100)]
    return [next(n for n in names if (part_of(n) == "train") == train) for train in (False, True)]


def test_answers_are_unique_and_one_gender_becomes_one_other():
    genders = [("man",), ("woman",), ("woman",), ("man", "woman")]
    members = [drawing(f"d{i}", "x", gender=gender) for i, gender in enumerate(genders)]
    assert list(changes(members)) == [("gender", 1, 0, "man"), ("gender", 2, 0, "man")]


def test_a_drawing_without_relatives_is_not_held_out():
    held, kept = family_names()
    assert unseen([drawing("a", held), drawing("b", kept), drawing("c", kept)]) == []
    pair = [drawing("a", kept), drawing("b", held), drawing("c", held)]
    assert unseen(pair) == [1, 2]


def test_triplets_and_captions_are_of_training_families(monkeypatch):
    held, kept = family_names()
    drawings = [
        drawing(f"{family}{tone or ''}", family, tone=tone)
        for family in (held, kept)
        for tone in (None, "dark")
    ]
    rows = family_triplets(drawings)
    assert {(row.reference, row.target) for row in rows} == {(kept, f"{kept}dark")}
    assert [row.condition for row in rows] == [
        wording.format("dark") for wording in CONDITIONS["tone"]
    ]
    monkeypatch.setattr(drawings_module, "read_drawings", lambda root: drawings)
    monkeypatch.setattr(drawings_module, "bundled", lambda *_: Path())
    monkeypatch.setattr(drawings_module, "CaptionFiles", lambda *_, **__: [])
    assert training_captions() == [f"{kept}dark"]
