"""Sets, masks, attention and batches: what the config gives them."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from projects.b_prop import data, evaluate
from projects.b_prop.data import (
    IGNORED,
    PairBatches,
    analyser,
    attention_source,
    bundled_texts,
    kept_documents,
    training_documents,
)
from projects.b_prop.evaluate import evaluation_sets, score_ranker, sorted_run
from tests.projects.b_prop.conftest import config, row_of


class Few(dict):
    """Stands in for a set with twelve queries."""

    queries = dict.fromkeys("abcdefghijkl", "text")
    corpus, cut_from = {}, None


@pytest.mark.parametrize(("bundled", "documents", "queries"), [(True, 7, 5), (False, None, 12)])
def test_limits_cut_bundled_sets_alone(monkeypatch, bundled, documents, queries):
    asked = []
    monkeypatch.setattr(evaluate, "is_bundled", lambda *_: bundled)
    monkeypatch.setattr(
        evaluate,
        "read_set",
        lambda place, root, seed, max_documents: asked.append(max_documents) or Few(),
    )
    monkeypatch.setattr(evaluate, "split_queries", lambda data, count: (count, None))
    monkeypatch.setattr(evaluate, "replace", lambda count, cut_from: count)
    monkeypatch.setattr(evaluate, "first_stage", lambda *_: None)
    cfg = config("eval.sets=[own]", "eval.max_documents=7", "eval.max_queries=5")
    cfg.eval.own_limits = []  # as if the limits were those of the file
    ((judged, _),) = evaluation_sets(cfg).values()
    assert asked == [documents]
    assert (judged if bundled else len(judged.queries)) == queries


def test_candidates_of_a_file_are_read(monkeypatch):
    asked = []
    monkeypatch.setattr(evaluate, "is_bundled", lambda *_: False)
    monkeypatch.setattr(evaluate, "read_set", lambda *_, **__: Few())
    monkeypatch.setattr(evaluate, "given_file", lambda cfg, name: name)
    monkeypatch.setattr(evaluate, "first_stage", lambda data, *given: asked.append(given[:2]))
    evaluation_sets(config("eval.sets=[own]", "eval.candidates={own: a.run}", "eval.depth=17"))
    assert asked == [(17, "a.run")]


@pytest.mark.parametrize(("own_set", "words"), [("own", True), (evaluate.SYNTHETIC, False)])
def test_rows_before_training_are_of_the_start_and_words_of_sets_with_texts(
    monkeypatch, own_set, words
):
    ranked = []
    start = SimpleNamespace(to=lambda device: "start")
    monkeypatch.setattr(evaluate, "evaluation_sets", lambda cfg: {own_set: (None, None)})
    monkeypatch.setattr(evaluate, "set_counts", lambda *_: {})
    monkeypatch.setattr(evaluate, "at_start", lambda cfg: start)
    monkeypatch.setattr(
        evaluate,
        "score_ranker",
        lambda cfg, ranker, sets, workspace, prefix="": ranked.append((ranker, prefix)) or {},
    )
    monkeypatch.setattr(evaluate, "word_quality", lambda *_: {"words": 1.0})
    module = SimpleNamespace(ranker=SimpleNamespace(device="cpu"))
    cfg = config(f"eval.sets=[{own_set}]", "eval.untrained=true", "eval.lexical=false")
    cfg.eval.pairs, cfg.eval.words = 0, 5
    assert ("words" in evaluate.evaluate(cfg, module, None)) == words
    assert ranked == [(module.ranker, ""), ("start", "untrained_")]


def test_agreement_is_of_the_ranker_with_query_likelihood(monkeypatch):
    asked = []
    monkeypatch.setattr(evaluate, "rank", lambda *_: {"q": "ranked"})
    monkeypatch.setattr(evaluate, "evaluated", lambda *_: nullcontext())
    monkeypatch.setattr(evaluate, "score_runs", lambda *_: {})
    monkeypatch.setattr(evaluate, "show_queries", lambda *_: None)
    monkeypatch.setattr(evaluate, "sorted_run", lambda run: run)
    scores = SimpleNamespace(per_query={"ndcg_at_10": {}})
    monkeypatch.setattr(evaluate, "all_scores", lambda *_: scores)
    monkeypatch.setattr(evaluate.lexical, "query_likelihood", lambda *_: {"q": "likely"})
    monkeypatch.setattr(evaluate.lexical, "agreement", lambda *runs: asked.append(runs) or 0.5)
    cfg = config("eval.lexical=true", "eval.tune.steps=0", "eval.query_counts=[]")
    ranker = SimpleNamespace(device="cpu")
    assert score_ranker(cfg, ranker, {"own": (None, None)}, None) == {"ql_tau": 0.5}
    assert asked == [({"q": "ranked"}, {"q": "likely"})]


def test_low_resource_rows_train_on_that_many_queries(monkeypatch):
    asked = []
    monkeypatch.setattr(evaluate, "rank", lambda *_: {})
    monkeypatch.setattr(evaluate, "evaluated", lambda *_: nullcontext())
    monkeypatch.setattr(
        evaluate, "cross_validated", lambda *_, num_queries, **__: asked.append(num_queries) or {}
    )
    monkeypatch.setattr(evaluate, "score_runs", lambda *_: {})
    cfg = config("eval.query_counts=[3]", "eval.tune.steps=1", "eval.lexical=false")
    score_ranker(cfg, None, {"own": (None, None)}, None, prefix="x_")
    assert asked == [None, 3]


def test_a_ranking_begins_with_the_best():
    assert list(sorted_run({"q": {"a": 0.1, "b": 0.9}})["q"]) == ["b", "a"]


@pytest.fixture
def pairs():
    """A set without its documents."""
    actual = PairBatches.__new__(PairBatches)
    actual.max_length = 16
    actual.tokenizer = SimpleNamespace(mask_token_id=99)
    return actual


def test_members_of_a_pair_have_masks_of_their_own(monkeypatch, pairs):
    asked = []
    pairs.cfg, pairs.kept = config(), [0]
    monkeypatch.setattr(data, "word_pieces", lambda *_: [None])
    monkeypatch.setattr(data, "sample_rng", lambda *args: asked.append(args[-1]))
    monkeypatch.setattr(pairs, "_member", lambda *_: ([1], [0], [IGNORED]), raising=False)
    rows = {"input_ids": torch.zeros(2, 1), "attention_mask": torch.ones(2, 1)}
    pairs.pad = lambda rows_: rows
    pairs.batch([(0, 0)], [({"text": "a"}, ((["a"], 1.0), (["b"], 0.5)))])
    assert asked[1] == asked[0] + 1


def test_words_of_the_document_are_masked_with_the_probability_and_budget_of_the_config(
    monkeypatch, pairs
):
    """One set word, then a document of three pieces, the second of which continues a word."""
    asked = {}

    def mask_words(ids, allowed, continues, rng, **options):
        asked.update(options, allowed=allowed.tolist(), continues=continues.tolist())
        return ids, ids

    class Tokenizer:
        mask_token_id = 99

        def __call__(self, text, **_):
            return {"input_ids": [5]}

        def __len__(self):
            return 100

    pairs.tokenizer = Tokenizer()
    pairs.cfg = config("method.mlm=true", "method.mask_prob=0.3", "method.max_predictions=2")
    ids = [1, 5, 2, 7, 8, 9, 2]
    monkeypatch.setattr(data, "pair_ids", lambda *_: (ids, [0, 0, 0, 1, 1, 1, 1]))
    monkeypatch.setattr(data, "mask_words", mask_words)
    document = SimpleNamespace(ids=[7, 8, 9], continues=[False, True, False])
    pairs._member(["a"], document, None)
    assert asked["allowed"] == [False] * 3 + [True] * 3 + [False]
    assert asked["continues"] == [False] * 4 + [True] + [False] * 2
    assert (asked["probability"], asked["most"]) == (0.3, 2)


def test_short_documents_are_skipped_and_long_ones_kept():
    rows = [row_of(dict.fromkeys("abcdefgh", 1), pieces=n) for n in (10, 90)]
    words = ["data.short_pieces=50", "data.short_skip_prob=1.0", "data.min_words=1"]
    assert kept_documents(rows, config(*words)).tolist() == [1]


def test_attention_is_read_from_a_copy(monkeypatch):
    monkeypatch.setattr(data, "expose_attention", lambda encoder: encoder)
    ranker = SimpleNamespace(tokenizer=None, encoder=nn.Linear(1, 1))
    _, encoder = attention_source(config("trainer.accelerator=cpu"), ranker)
    assert encoder is not ranker.encoder
    assert ranker.encoder.weight.requires_grad
    assert not encoder.weight.requires_grad


def test_documents_are_cut_to_what_the_encoder_reads(monkeypatch):
    monkeypatch.setattr(data, "Analyser", lambda tokenizer, encoder, words, limit, *_: limit)
    encoder = SimpleNamespace(config=SimpleNamespace(max_position_embeddings=20))
    cfg = config("data.max_document=40")
    assert analyser(cfg, None, encoder, 1) == 18
    assert analyser(cfg, None, None, 1) == 40


@pytest.mark.parametrize(("distribution", "known"), [("unigram", False), ("entropy", True)])
def test_prepared_documents_must_have_the_attention_of_the_config(monkeypatch, distribution, known):
    asked = []
    monkeypatch.setattr(
        data.Collection, "load", lambda path, words, most, source: asked.append(source)
    )
    monkeypatch.setattr(data, "PreparedDocuments", lambda folder: None)
    cfg = config(f"words.distribution={distribution}")
    cfg.data.source = "files"
    training_documents(cfg, None)
    assert (asked[0] is not None) == known


def test_documents_of_a_part_are_drawn_by_their_hash(monkeypatch):
    bodies = {str(i): "text" for i in range(30)}
    monkeypatch.setattr(data, "load_titles", lambda folder: ({}, bodies))
    monkeypatch.setattr(data, "set_folder", lambda *_: None)
    names = [n.split("/")[1] for n in bundled_texts(config("data.max_documents=5")) if "cisi" in n]
    assert len(names) == 5
    assert names != sorted(bodies)[:5]
    assert names != list(bodies)[:5]


def test_a_batch_counts_inputs_and_a_pair_has_two(monkeypatch):
    asked = {}
    monkeypatch.setattr(data, "training_documents", lambda *_: (None, None))
    for name in ("WordSampler", "PairBatches", "kept_documents"):
        monkeypatch.setattr(data, name, lambda *_: None)
    monkeypatch.setattr(data, "ContrastiveData", lambda *_, **options: asked.update(options))
    data.pretraining_data(config("data.batch_size=8"), None)
    assert asked["batch_size"] == 4


def test_validation_is_on_held_out_queries_and_candidates_are_those_of_the_file(monkeypatch):
    asked, made = [], {}
    monkeypatch.setattr(data, "read_set", lambda *_, **__: "all")
    monkeypatch.setattr(data, "given_file", lambda cfg, name: name)
    monkeypatch.setattr(data, "first_stage", lambda data, depth, file, *_: asked.append(file))
    monkeypatch.setattr(data, "split_queries", lambda *_: ("held out", "rest"))
    monkeypatch.setattr(data, "ranking_records", lambda part, candidates: part)
    monkeypatch.setattr(data, "RankingGroups", lambda records, *_: records)
    monkeypatch.setattr(data, "FixedGroups", lambda groups: groups)
    monkeypatch.setattr(
        data, "ContrastiveData", lambda train, val, **_: made.update(train=train, **val)
    )
    cfg = config()
    cfg.finetune.candidates, cfg.finetune.val_queries = "a.run", 2
    data.finetuning_data(cfg, SimpleNamespace(tokenize=None))
    assert made == {"train": "rest", "ranking": "held out"}
    assert asked == ["a.run"]


def test_values_stand_at_the_queries_that_have_a_relevant_document(monkeypatch):
    scores = SimpleNamespace(per_query={"map": [0.5, 0.25]})
    monkeypatch.setattr(evaluate, "run_scores", lambda data, run, ks: scores)
    rows = SimpleNamespace(qrels={"a": {"d": 0}, "b": {"d": 1}, "c": {"d": 2}})
    assert evaluate.all_scores(rows, {}).per_query == {"map": [0, 0.5, 0.25]}
    assert evaluate.KS == (10, 20, 100)
