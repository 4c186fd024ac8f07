"""What the first command measures on scenes, and the baselines it has to beat."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from common.config import UserError
from common.data.image_text.scenes import NOUNS, OPPOSITES, Scenes, single_drawings
from common.data.text.tokenizers import ClipTokenizer
from common.engine.comparison.spec import read_comparisons
from common.engine.workspace import Workspace, read_json
from common.families.image_text.data import num_samples
from common.families.image_text.scenes import held_out_scenes, training_scenes
from projects.laclip import baselines, scenes
from projects.laclip.data import build_data, training_pairs
from projects.laclip.encoders import Encoders
from tests.projects.laclip.conftest import config

FEW = "data.num_samples=300"


@pytest.fixture(scope="module")
def cfg():
    return config("eval.split=dev", FEW, name="mini")


def oracle(cfg, *, relations=True, shift=0):
    """Encoders that know what a scene shows; a shift mixes up whose image is whose."""
    position = {relation: i for i, relation in enumerate(OPPOSITES)}

    def row(nouns, relation):
        vector = torch.zeros(len(NOUNS) + len(OPPOSITES))
        for noun in nouns:
            vector[NOUNS.index(noun)] = 1
        if relations and relation:
            vector[len(NOUNS) + position[relation]] = 0.3
        return vector

    of_image = {}
    for drawings in ("emoji", "clipart"):
        held = held_out_scenes(cfg, drawings)
        for i, scene in enumerate(held.scenes):
            shown = held.images[(i + shift) % len(held)]
            of_image[shown.numpy().tobytes()] = row(scene.nouns, scene.relation)
    images, labels = single_drawings(cfg.data.image_size)
    for image, label in zip(images, labels, strict=True):
        of_image[image.numpy().tobytes()] = row([NOUNS[label]], None)

    def embed(text):
        words = text.replace(",", " ").replace(";", " ").replace(".", " ").replace("?", " ").split()
        relation = [r for r in OPPOSITES if f" {r} " in " " + " ".join(words) + " "]
        return row([n for n in NOUNS if n in words], relation[0] if relation else None)

    return Encoders(
        lambda pixels: F.normalize(
            torch.stack([of_image[p.numpy().tobytes()] for p in pixels]), dim=1
        ),
        lambda texts: F.normalize(torch.stack([embed(t) for t in texts]), dim=1),
    )


def test_encoders_that_know_the_scenes_are_always_right(cfg, tmp_path):
    actual = scenes.scene_metrics(cfg, oracle(cfg), Workspace(tmp_path))
    for name in ("recall_at_1", "caption_recall_at_1", "clipart_recall_at_1", "zeroshot_top1"):
        assert actual[name] == 1, name
        items = read_json(tmp_path / f"items/{name}.json")
        assert sum(items) / len(items) == actual[name]
    assert actual["relation_accuracy"] == 1
    assert actual["gallery_right"] == scenes.SHOWN
    held, clipart = len(held_out_scenes(cfg)), len(held_out_scenes(cfg, "clipart"))
    chances = ("recall_at_1", 1), ("recall_at_5", 5), ("gallery_right", scenes.SHOWN)
    assert all(actual[f"{name}_chance"] == right / held for name, right in chances)
    assert actual["clipart_recall_at_1_chance"] == 1 / clipart


def test_a_bag_of_words_finds_scenes_and_no_relation(cfg):
    actual = scenes.scene_metrics(cfg, oracle(cfg, relations=False))
    assert actual["recall_at_1"] == 1
    assert actual["relation_accuracy"] == 0  # a tie is no right answer


def test_mixed_up_images_are_not_found(cfg):
    actual = scenes.scene_metrics(cfg, oracle(cfg, shift=1))
    assert actual["recall_at_1"] == actual["gallery_right"] == 0
    assert actual["zeroshot_top1"] == 1  # single drawings are not shifted


def test_the_fifth_of_a_ranking_is_found_and_the_sixth_is_not(cfg, monkeypatch):
    monkeypatch.setattr(scenes, "relevant_ranks", lambda rows, *_: torch.arange(len(rows)) + 1)
    actual = scenes.scene_metrics(cfg, oracle(cfg))
    held = len(held_out_scenes(cfg))
    assert actual["recall_at_5"] == 5 / held == 5 * actual["recall_at_1"]


def test_the_gallery_marks_the_scene_of_the_query(cfg, tmp_path):
    held, model = held_out_scenes(cfg), oracle(cfg)
    scores = model.texts(held.queries) @ model.images(held.images).T
    scenes.show_scenes(cfg, scores, Workspace(tmp_path))
    rows = read_json(tmp_path / "gallery/queries to scenes/gallery.json")
    assert len(rows) == scenes.SHOWN
    for i, row in enumerate(rows):
        assert row["query"] == {"text": held.queries[i]}
        assert [r["correct"] for r in row["results"]] == [True, False, False, False, False]


def test_baselines_know_pixels_and_words_alone(cfg, tmp_path):
    """Better than chance, worse than a model that has learnt."""
    chance = baselines.chance(cfg, Workspace(tmp_path / "chance"))
    for name in ("raw_pixels", "nearest_captions"):
        actual = getattr(baselines, name)(cfg, Workspace(tmp_path / name))
        assert 2 * chance["recall_at_1"] <= actual["recall_at_1"] < 0.25
        assert not any(metric.endswith("_chance") for metric in actual)
    untrained = baselines.untrained(cfg, Workspace(tmp_path / "untrained"))
    assert untrained["recall_at_1"] <= 4 * chance["recall_at_1"]
    assert chance["zeroshot_top1"] == 1 / len(NOUNS)


def test_losses_are_of_captions_in_the_wording_of_training(cfg, monkeypatch):
    rows = scenes.training_rows(300, len(held_out_scenes(cfg)))
    monkeypatch.setattr(scenes, "loss_gap", lambda module, *sides: sides)
    model = Encoders(lambda images: images, lambda texts: texts)
    training, held_out = scenes.caption_losses(cfg, None, model)
    trained, held = training_scenes(cfg), held_out_scenes(cfg)
    assert training[1] == [trained.texts[i][0] for i in rows]
    assert torch.equal(training[0], trained.images[rows])
    assert held_out[1] == [row[0] for row in held.texts]


def test_the_untrained_row_is_of_new_weights_and_items_are_of_the_trained(
    cfg, tmp_path, monkeypatch
):
    seen = []

    def metrics(cfg, model, space=None):
        seen.append((model, space))
        return {"recall_at_1": float(len(seen)), "recall_at_1_chance": 0.5}

    model = Encoders(lambda images: images, lambda texts: texts)
    module = SimpleNamespace(logit_scale=lambda: 3.0)
    monkeypatch.setattr(scenes, "scene_metrics", metrics)
    monkeypatch.setattr(scenes, "encoders", lambda cfg, net: model if net is module else net)
    monkeypatch.setattr(scenes.modes, "evaluated", lambda *_: nullcontext())
    monkeypatch.setattr(scenes.modes, "untrained", lambda build, seed, like: (build, seed))
    monkeypatch.setattr(scenes, "caption_losses", lambda *_: {})
    held = SimpleNamespace(queries=torch.eye(2), images=torch.ones(2, 2))
    monkeypatch.setattr(scenes, "held_out_scenes", lambda _: held)
    monkeypatch.setattr(scenes, "show_scenes", lambda *_: None)
    monkeypatch.setattr(scenes, "training_pairs", lambda _: None)
    monkeypatch.setattr(scenes, "drawn_texts", lambda _: {})
    space = Workspace(tmp_path)
    actual = scenes.evaluate_scenes(cfg, module, space, "build")
    assert seen == [(("build", cfg.seed), None), (model, space)]
    assert actual == {
        "logit_scale": 3.0,
        "untrained_recall_at_1": 1.0,
        "recall_at_1": 2.0,
        "recall_at_1_chance": 0.5,
    }


def test_nearest_captions_share_the_rarest_words(cfg, tmp_path, monkeypatch):
    """A word of all captions decides nothing; pixels are less the mean of the training scenes."""
    images = torch.zeros(4, 3, 12, 12, dtype=torch.uint8)
    for i in range(4):
        images[i, i % 3, i] = 200
    texts = [["a red cat by it it"], ["a red dog by it"], ["a red owl by it"], ["a fox"]]
    trained = Scenes([None] * 4, images, texts, [])
    monkeypatch.setattr(scenes, "training_scenes", lambda _: trained)
    assert scenes._Pixels(trained).with_word["it"] == [0, 1, 2]  # a caption counts once
    rows = {}

    def metrics(cfg, model, space):
        texts = ["by it red fox", "owl", "A", "whale"]
        rows["texts"], rows["images"] = model.texts(texts), model.images(images)
        return {}

    monkeypatch.setattr(scenes, "scene_metrics", metrics)
    scenes.nearest_captions(cfg, Workspace(tmp_path))
    pixels = images.float().flatten(1) / 255
    centred = F.normalize(pixels - pixels.mean(0), dim=1)
    torch.testing.assert_close(rows["images"], centred)
    near = rows["texts"] @ centred.T
    assert near.argmax(1).tolist()[:2] == [3, 2]
    torch.testing.assert_close(rows["texts"][2], F.normalize(centred.mean(0), dim=0))


def test_training_scenes_are_those_of_the_seed_with_the_texts_of_the_config():
    two = config(FEW, "data.texts=[original,rewrite3]", "seed=1", name="mini")
    pairs = training_pairs(two)
    held = training_scenes(two)
    assert num_samples(two.data) == len(pairs) == 300
    assert pairs.captions.texts(7) == [held.texts[7][0], held.texts[7][3]]
    other = training_scenes(config(FEW, "seed=2", name="mini"))
    assert other.scenes != held.scenes
    with pytest.raises(UserError, match="no source 'bard', they have original, rewrite1"):
        build_data(config("data.texts=[original,bard]", name="mini"), ClipTokenizer(24))


@pytest.mark.slow
def test_no_text_of_an_arm_is_cut():
    """Equal information: all_texts has the context that its caption needs."""
    spec = read_comparisons("laclip")[0]
    for arm in ("clip", "all_texts", "laclip"):
        cfg = config(*(f"{k}={v}" for k, v in spec.arms[arm].items()), FEW, name=spec.base)
        captions = training_pairs(cfg).captions
        texts = [text for i in range(len(captions)) for text in captions.texts(i)]
        length = cfg.model.open_clip["text_cfg"]["context_length"]
        sizes = (ClipTokenizer(128)([*texts, *held_out_scenes(cfg).queries]) != 0).sum(1)
        assert int(sizes.max()) <= length, arm
