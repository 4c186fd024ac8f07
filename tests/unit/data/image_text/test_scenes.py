"""Scenes of two drawings: splits, layout, texts."""

import re

import numpy as np
import pytest
import torch

from common.config import UserError
from common.data.image_text import scenes as sc
from common.data.lookup import bundled
from common.data.samplers import sample_rng
from common.data.splits import emoji_split
from common.data.tables import read_jsonl


def words(text: str) -> set[str]:
    return set(re.findall("[a-z]+", text.lower()))


def test_equal_arguments_give_equal_scenes_whatever_their_number():
    few, many = sc.make_scenes(3, seed=5), sc.make_scenes(6, seed=5)
    assert few.scenes == many.scenes[:3]
    assert few.texts == many.texts[:3]
    assert torch.equal(few.images, many.images[:3])
    assert few.scenes != sc.make_scenes(3, seed=6).scenes
    assert few.images.shape == (3, 3, 48, 48)
    assert few.images.dtype == torch.uint8


def test_nouns_that_meet_in_a_held_out_scene_never_meet_in_training():
    pairs = {
        split: [frozenset(s.nouns) for s in sc.draw_scenes(count, split, seed)]
        for split, count, seed in (("train", 4000, 1), ("dev", 150, 0), ("test", 500, 0))
    }
    for split in ("dev", "test"):
        assert len(set(pairs[split])) == len(pairs[split])  # each has its own
        assert not set(pairs[split]) & set(pairs["train"])
    assert not set(pairs["dev"]) & set(pairs["test"])
    trained = {noun for pair in pairs["train"] for noun in pair}
    assert trained == set(sc.NOUNS)
    with pytest.raises(UserError, match="pairs of nouns"):
        sc.draw_scenes(5000, "test", 0)
    with pytest.raises(UserError, match="clipart is held out"):
        sc.make_scenes(1, drawings="clipart")


def test_drawings_are_emoji_of_the_training_split_and_clip_art_is_another():
    emoji = read_jsonl(bundled("emoji-captions/captions.jsonl.gz"), ["en", "base"])
    named = {row["en"]: row["base"] for row in emoji}
    assert all(emoji_split(named[noun]) == "train" for noun in sc.NOUNS)
    titles = [row["title"] for row in read_jsonl(bundled("clipart/meta.jsonl.gz"), ["title"])]
    assert all(noun in titles[row] for noun, rows in sc.CLIPART.items() for row in rows)
    held = sc.make_scenes(2, split="test", drawings="clipart")
    assert {noun for scene in held.scenes for noun in scene.nouns} <= set(sc.CLIPART)


@pytest.mark.parametrize("relation", list(sc.OPPOSITES))
def test_objects_are_where_the_relation_says_and_inside_the_scene(relation):
    axis, sign = {"left of": (0, 1), "right of": (0, -1), "above": (1, 1), "below": (1, -1)}[
        relation
    ]
    for i in range(200):
        rng = sample_rng(0, 0, i)
        lengths = [float(v) for v in rng.uniform(0.29, 0.49, 2)]
        centres = np.array(sc._centres(relation, lengths, rng))
        half = np.array(lengths)[:, None] / 2
        assert (centres - half >= -1e-9).all()
        assert (centres + half <= 1 + 1e-9).all()
        step = (centres[1] - centres[0]) * sign
        assert step[axis] >= sum(lengths) / 2 - 1e-9  # apart along the axis of the relation
        assert abs(step[1 - axis]) < step[axis]


def test_a_scene_is_laid_out_alike_at_every_size():
    small = sc.make_scenes(4, seed=2, size=48).images.float()
    large = sc.make_scenes(4, seed=2, size=96).images.float()
    shrunk = torch.nn.functional.interpolate(large, (48, 48), mode="area")
    assert (shrunk - small).abs().mean() < 6


def test_rewrites_say_what_the_caption_says_and_no_more():
    """Both nouns (or a synonym), the size and background only where the caption has them."""
    kinds = set()
    for i, scene in enumerate(sc.draw_scenes(300, "train", 3)):
        caption, *rewrites = sc.texts_of(scene, sample_rng(3, 0, i))
        assert len(rewrites) == sc.NUM_REWRITES
        complete = scene.background in words(caption)
        kinds.add((complete, any(c.isdigit() for c in caption)))
        for text in rewrites:
            for noun, size in zip(scene.nouns, scene.sizes, strict=True):
                assert any(name in text for name in (noun, *sc.SYNONYMS[noun]))
                assert complete == bool(words(text) & set(sc.SIZE_WORDS[size]))
            assert (scene.background in words(text)) == complete
            assert not any(c.isdigit() for c in text)
            a, b = (
                min(text.find(name) for name in (noun, *sc.SYNONYMS[noun]) if name in text)
                for noun in scene.nouns
            )
            said = [
                relation
                for relation, forms in sc.RELATION_WORDS.items()
                if any(f" {form} " in f" {text} " for form in forms)
            ]
            pronoun = re.search(r"\bit\b", text) is not None
            inverted = b < a and not pronoun  # "b is right of a" for "a left of b"
            assert said == [sc.OPPOSITES[scene.relation] if inverted else scene.relation]
    assert kinds == {(False, False), (True, False), (True, True)}


def test_queries_are_in_wordings_that_no_training_text_has():
    scenes = sc.draw_scenes(1000, "train", 4)
    texts = [sc.texts_of(scene, sample_rng(4, 0, i)) for i, scene in enumerate(scenes)]
    frames = {re.sub(r"{\w+}", "", form).strip() for forms in sc.REWRITES for form in forms}
    vocabulary = set().union(*(words(caption) for caption, *_ in texts))
    for query in sc.QUERIES:
        opening = " ".join(query.split()[:2])
        assert not any(text.startswith(opening) for row in texts for text in row)
        assert re.sub(r"{\w+}", "", query).strip() not in frames
    for i, scene in enumerate(scenes):
        content = {*scene.nouns, *scene.sizes, scene.background, *scene.relation.split()}
        assert content <= words(sc.query_of(scene, i))
        assert content <= vocabulary  # every arm has read the words that matter
