"""What the judges read, how draws are averaged, and where lines and passages come from."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from common.data.row_map.chunks import RowSeed
from projects.contrastive_search import data, evaluate
from projects.contrastive_search.data import Lines, Passage, training_lines
from projects.contrastive_search.evaluate import (
    build_scorers,
    human_rows,
    lm_scorer,
    mauve,
    measure,
    model_metrics,
    nearest_cosine,
    trigram_scorer,
)
from tests.projects.contrastive_search.conftest import config

CHAPTER = SimpleNamespace(book="b", name="c", paragraphs=["one two", "three"])


class PartAsked(Exception):
    """Names the part of the books."""


def language_model(**parts):
    """Stands in for a language model whose tokens are numbers."""
    decode = lambda ids, **_: " ".join(map(str, ids))  # noqa: E731
    tokenizer = SimpleNamespace(decode=decode)
    finished = lambda prefix, ids: SimpleNamespace(text=decode(ids))  # noqa: E731
    return SimpleNamespace(tokenizer=tokenizer, finished=finished, ends=(0,), device="cpu", **parts)


def test_each_prefix_has_a_seed_of_its_own_and_the_draws_of_the_config(monkeypatch):
    asked = {}
    monkeypatch.setattr(
        evaluate, "decode_side_by_side", lambda *_, **options: asked.update(options)
    )
    workspace = SimpleNamespace(progress=None)
    evaluate.decode(config("eval.draws=3", "seed=5"), None, [[1], [2]], {}, workspace)
    assert asked["seeds"] == [RowSeed(5, 0), RowSeed(5, 1)]
    assert asked["draws"] == 3


def test_the_trigram_model_reads_training_chapters(monkeypatch):
    def load_books(root, part):
        raise PartAsked(part)

    monkeypatch.setattr(evaluate, "load_books", load_books)
    with pytest.raises(PartAsked, match="train"):
        build_scorers(config("eval.scorers=[trigram]", "eval.source=books"), None)


def test_an_end_of_text_is_no_token_of_a_continuation():
    read = []
    model = SimpleNamespace(mean_log_probability=lambda prefix, ids: read.append(ids) or 0.0)
    trigram_scorer(model, 0)([Passage("a", [1], [])], [[2, 3, 0]], ["x"])
    assert read == [[2, 3]]


def test_a_continuation_without_text_has_no_coherence():
    judge = SimpleNamespace(log_likelihood=lambda *_, joint: torch.tensor([-1.0, -9.0]))
    passages = [Passage("a", [1], []), Passage("a", [2], [])]
    actual = lm_scorer(language_model(), judge)(passages, [[3], []], ["3", " "])
    assert actual[0] == -1
    assert np.isnan(actual[1])


def test_metrics_are_means_over_draws_and_coherence_is_that_of_the_first_scorer(monkeypatch):
    """The second continuation has no coherence in the second draw."""
    official = []

    def diversity(texts, official_ngram_count):
        official.append(official_ngram_count)
        return len(set(texts)) / 10

    monkeypatch.setattr(evaluate, "diversity", diversity)
    monkeypatch.setattr(evaluate, "repeated_ngrams", lambda *_, **__: 0.0)
    monkeypatch.setattr(evaluate, "nearest_cosine", lambda *_: 0.0)
    values = iter([[-1.0, -3.0], [-2.0, math.nan]])
    scorers = {
        "first": lambda *_: np.array(next(values)),
        "second": lambda *_: np.array([-7.0, -7.0]),
    }
    passages = [Passage("a", [1], []), Passage("b", [2], [])]
    cfg = config("eval.official_ngram_count=true", "eval.mauve=false")
    draws = [[[3], [4]], [[5], [5]]]
    actual = measure(cfg, language_model(), passages, draws, scorers)
    assert set(official) == {True}
    assert actual.metrics["diversity"] == pytest.approx(15)
    assert actual.metrics["diversity_std"] == pytest.approx(10 / math.sqrt(2))
    assert actual.metrics["coherence"] == actual.metrics["coherence_first"] == -2
    assert actual.items["coherence"] == [-1.5, -2.5]


def test_shuffled_words_of_the_author_are_no_longer_than_a_continuation(monkeypatch):
    seen = []
    monkeypatch.setattr(
        evaluate, "measure", lambda cfg, lm, texts, draws, scorers: seen.append(draws)
    )
    lm = language_model(token_ids=lambda text: [*range(9)])
    human_rows(config("eval.new_tokens=4"), lm, [Passage("a", [1], [2, 3])], {})
    assert seen == [[[[2, 3]]], [[[0, 1, 2, 3]]]]


def test_mauve_leaves_out_the_end_and_looks_through_the_judge_of_the_config(monkeypatch):
    read = []

    def features(texts):
        read.append(texts)
        return torch.zeros(1)

    judge = SimpleNamespace(features=features)
    monkeypatch.setattr(evaluate, "language_model", lambda cfg, name: judge)
    monkeypatch.setattr(evaluate.measures, "mauve", lambda *_: 1.0)
    cfg = config("eval.mauve_features=gpt2-large")
    mauve(cfg, language_model(), [Passage("a", [1], [2, 3, 4])], [[5, 6, 0]])
    assert read == [["2 3"], ["5 6"]]


def test_the_nearest_cosine_is_that_of_new_tokens_with_tokens_before():
    """By hand: 0 for the first text's new token, 0.6 for the second's."""
    states = [
        torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]),
        torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.6, 0.8]]]),
    ]
    lm = language_model(states=lambda rows: [(s, torch.ones(s.shape[:2])) for s in states])
    passages = [Passage("a", [1], []), Passage("a", [1, 2], [])]
    assert nearest_cosine(lm, passages, [[3], [3]]) == pytest.approx(0.3)


def test_isotropy_is_of_whole_passages_and_perplexity_of_references(monkeypatch):
    read = []
    monkeypatch.setattr(evaluate, "isotropy", lambda lm, rows: read.append(rows) or 0.5)
    lm = language_model(log_likelihood=lambda *_, joint: torch.tensor([-1.0, -3.0]))
    passages = [Passage("a", [1], [2]), Passage("a", [3], [4])]
    metrics = model_metrics(lm, passages)
    assert read == [[[1, 2], [3, 4]]]
    assert metrics["perplexity"] == pytest.approx(math.exp(2))


def test_lines_are_cut_and_those_of_one_token_left_out():
    asked = {}

    class Tokenizer:
        pad_token_id, eos_token_id = 0, 1

        def __call__(self, lines, **options):
            asked.update(options)
            return {"input_ids": [[2, 3], [4], [5, 6, 7]]}

    lines = Lines(["", "", ""], Tokenizer(), 3, 0)
    assert lines.rows == [[2, 3], [5, 6, 7]]
    assert (asked["truncation"], asked["max_length"]) == (True, 3)
    with pytest.raises(ValueError, match="larger sample"):  # without replacement
        lines[[(0, 0), (1, 0), (2, 0)]]


@pytest.mark.parametrize("part", ["train", "dev"])
def test_validation_reads_other_chapters_and_other_made_up_lines(monkeypatch, part):
    monkeypatch.setattr(
        data, "load_books", lambda root, part: [SimpleNamespace(paragraphs=[part])] * 2
    )
    assert training_lines(config("data.source=books", "data.limit=1"), part) == [part]
    monkeypatch.setattr(data, "synthetic_sentences", lambda count, seed: [seed])
    assert training_lines(config("seed=3"), part) == [3 + (part == "dev")]


def test_passages_are_of_the_part_of_the_config_with_special_tokens(monkeypatch):
    parts, specials = [], []
    monkeypatch.setattr(data, "load_books", lambda root, part: parts.append(part) or [CHAPTER])
    monkeypatch.setattr(data, "CHARACTERS", 1)

    def token_ids(text, special):
        specials.append(special)
        return [9, 1, 2, 3, 4]

    words = ["eval.source=books", "eval.part=dev", "eval.per_chapter=1", "eval.num_prefixes=1"]
    cfg = config(*words, "eval.prefix_tokens=2", "eval.new_tokens=2")
    actual = data.passages(cfg, SimpleNamespace(token_ids=token_ids))
    assert actual == [Passage("b/c", [9, 1], [2, 3])]
    assert (parts, specials) == (["dev"], [True])


@pytest.mark.parametrize(("tokens", "kept"), [(3, False), (4, True)])
def test_only_texts_with_a_whole_reference_are_continued(tokens, kept):
    lm = SimpleNamespace(token_ids=lambda text, special: [*range(tokens)])
    cfg = config("eval.prefix_tokens=2", "eval.new_tokens=2")
    assert (data._cut(cfg, lm, "a", "") is not None) == kept
