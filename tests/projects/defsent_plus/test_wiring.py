"""Poolings, lengths, draws and wordings of dictionaries: what the config gives them."""

from types import SimpleNamespace

import pytest

from projects.defsent_plus import data
from projects.defsent_plus.data import (
    Dictionary,
    definition_encoder,
    definition_views,
    evaluation_texts,
    load_dictionary,
    single_pieces,
)
from tests.projects.defsent_plus.conftest import PLAIN, config


@pytest.fixture
def encoder(monkeypatch):
    monkeypatch.setattr(data, "without_template", lambda tokenizer, template: tokenizer)
    monkeypatch.setattr(data, "TextTower", lambda model, pooling: pooling)
    monkeypatch.setattr(data, "SentenceEncoder", lambda tower, tokenizer, **o: (tower, o))
    tower = SimpleNamespace(model=None)
    return SimpleNamespace(tower=tower, tokenizer=None, template=None, max_length=8)


@pytest.mark.parametrize(
    ("encoding", "pooling"),
    [
        ("cls", "cls_before_pooler"),
        ("mean", "avg"),
        ("max", "max"),
        ("ac", "cls_before_pooler"),
        ("amp", "avg"),
    ],
)
def test_definitions_are_pooled_as_their_entries_are(encoder, encoding, pooling):
    assert definition_encoder(config(), encoder, encoding)[0] == pooling


@pytest.mark.parametrize(("long", "length"), [("truncate", 8), ("refuse", 16)])
def test_only_cut_definitions_end_where_the_encoder_does(encoder, long, length):
    cfg = config("data.max_length=16", f"data.long={long}")
    assert definition_encoder(cfg, encoder, "mean")[1]["max_length"] == length


def test_training_definitions_have_the_pooling_of_the_training(monkeypatch):
    asked = []
    monkeypatch.setattr(data, "definition_encoder", lambda cfg, encoder, pool: asked.append(pool))
    monkeypatch.setattr(data, "DefinitionViews", lambda *_: None)
    definition_views(config("train.pool=max"), None, Dictionary(["a"], [["b"]], []))
    assert asked == ["max"]


def test_the_seed_draws_the_entries_of_a_limit(tmp_path):
    path = tmp_path / "glossary.tsv"
    path.write_text("\n".join(f"word{i}\tmeaning {i}" for i in range(40)))
    words = [*PLAIN, "data.source=file", f"data.file={path}", "data.encoding=utf-8"]
    first, second = (
        load_dictionary(config(*words, "data.limit=9", "data.held_out=0", f"seed={seed}")).entries
        for seed in (1, 2)
    )
    assert len(first) == len(second) == 9
    assert first != second


def test_lemmas_of_wordnet_become_entries_in_lower_case_with_each_definition_once(monkeypatch):
    rows = [
        {"lemmas": ["Ice_cream", "ice_cream"], "definition": "frozen dessert"},
        {"lemmas": ["work"], "definition": "effort"},
    ]
    monkeypatch.setattr(data, "read_jsonl", lambda *_: rows)
    actual = data._rows(config("data.source=wordnet"))
    assert actual == [("ice cream", ["frozen dessert"]), ("work", ["effort"])]


def test_entries_are_cut_as_words_inside_a_text_and_unknown_ones_dropped(monkeypatch):
    asked = []
    monkeypatch.setattr(
        data, "plain_ids", lambda tokenizer, texts: asked.extend(texts) or [[7], [3], [4, 5]]
    )
    assert single_pieces(SimpleNamespace(unk_token_id=3), ["a", "b", "c"]) == [7, None, None]
    assert asked == [" a", " b", " c"]


def test_all_pairs_of_a_similarity_set_are_excluded_whatever_their_case(monkeypatch):
    asked = []

    def load_sts(root, name, drop_stsb_overlap):
        asked.append(drop_stsb_overlap)
        return SimpleNamespace(first=["A thing."], second=["another"])

    monkeypatch.setattr(data, "load_sts", load_sts)
    texts = evaluation_texts(SimpleNamespace(root=None, exclude_sets=["stsb-dev"]))
    assert asked == [False]
    kept, out = data._without([("x", ["a THING!", "good"]), ("y", ["Another"])], texts)
    assert kept == [("x", ["good"])]
    assert out == {"a THING!", "Another"}
