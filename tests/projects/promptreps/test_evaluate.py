"""Weights, prepared texts, further models and words of the evaluation, without a training."""

from contextlib import nullcontext

import numpy as np
import pytest

from common.engine.workspace import NOTES, Workspace
from common.evaluation.retrieval.beir import RetrievalSet
from projects.promptreps import evaluate as evaluation
from projects.promptreps.data import AnswerBatches, WordedText, keyword_texts
from projects.promptreps.encoder import PromptRepsEncoder
from projects.promptreps.evaluate import SetRuns, idf_correlation, search_set
from projects.promptreps.lexical.hybrid import fuse
from projects.promptreps.prompt import ROLES
from tests.projects.promptreps.conftest import config, encoder_of

DENSE = {q: {"d0": 0.9, "d1": 0.4, "d2": 0.1} for q in ("q0", "q1")}
SPARSE = {q: {"d0": 1.0, "d1": 7.0, "d2": 2.0} for q in ("q0", "q1")}
RUNS = SetRuns(DENSE, SPARSE, {"sparse": [{1: 5, 2: 3, 3: 1}]})
SET = RetrievalSet(
    {"d0": "One", "d1": "Two", "d2": "Three"},
    {"q0": "First", "q1": "Second"},
    {"q0": {"d0": 1}, "q1": {"d1": 1}},
)


def test_rankings_have_the_weights_of_the_config():
    cfg = config("eval.alpha=0.3", "eval.alphas=[0.2]", "eval.ranking=hybrid")
    rankings = evaluation._rankings(cfg, RUNS)
    assert rankings["hybrid_"] == rankings[""] == fuse(DENSE, SPARSE, 0.3)
    assert rankings["alpha_0.2_"] == fuse(DENSE, SPARSE, 0.2)
    assert rankings["hybrid_"] != rankings["alpha_0.2_"]


def test_a_weight_is_chosen_among_both_sides_on_the_config_s_number_of_queries(
    monkeypatch, tmp_path
):
    asked = {}
    monkeypatch.setattr(evaluation, "search_set", lambda *_: RUNS)
    monkeypatch.setattr(
        evaluation,
        "choose_fusion",
        lambda data, candidates, count: asked.update(candidates=candidates, count=count),
    )
    cfg = config("eval.alphas=[0.0, 0.5]", "eval.lexical=false", "eval.hybrid_queries=3")
    evaluation._one_set(cfg, encoder_of(), SET, "set", Workspace(tmp_path), [])
    assert asked["candidates"] == {0.0: SPARSE, 1.0: DENSE, 0.5: fuse(DENSE, SPARSE, 0.5)}
    assert asked["count"] == 3


def test_the_configs_ranking_is_merged_with_bm25_by_a_weight_of_its_own(monkeypatch, tmp_path):
    words = {q: {"d2": 3.0} for q in SET.queries}
    asked = []
    monkeypatch.setattr(evaluation, "search_set", lambda *_: RUNS)
    monkeypatch.setattr(evaluation, "lexical_run", lambda *_, **__: words)

    def choose(data, candidates, count):
        asked.append(candidates)
        return evaluation_choose(data, candidates, count)

    evaluation_choose = evaluation.choose_fusion
    monkeypatch.setattr(evaluation, "choose_fusion", choose)
    cfg, rows = config("eval.ranking=dense", "eval.lexical=true"), []
    metrics = evaluation._one_set(cfg, encoder_of(), SET, "set", Workspace(tmp_path), rows)
    assert "with_bm25_" in rows
    assert (asked[1][0.0], asked[1][1.0]) == (words, DENSE)
    assert metrics["with_bm25_set_encoder_weight"] == 1.0  # BM25 finds nothing that is relevant
    assert metrics["with_bm25_set_ndcg_at_10"] == metrics["set_ndcg_at_10"] > 0
    assert "the encoder alone, BM25 is switched off" in (tmp_path / NOTES).read_text()


@pytest.mark.parametrize("lower", [True, False])
def test_texts_of_a_set_are_prepared_as_the_config_says(monkeypatch, lower):
    read, encode = [], PromptRepsEncoder.encode

    def watched(self, texts, *rest):
        read.extend(texts)
        return encode(self, texts, *rest)

    monkeypatch.setattr(PromptRepsEncoder, "encode", watched)
    search_set(config(f"eval.lower_case={str(lower).lower()}"), encoder_of(), SET)
    texts = [*SET.corpus.values(), *SET.queries.values()]
    assert sorted(read) == sorted(text.lower() if lower else text for text in texts)


def test_rows_of_other_prompts_and_models_are_searched_by_them(monkeypatch, tmp_path):
    own, other, searched = encoder_of(), encoder_of(), []
    monkeypatch.setattr(evaluation, "evaluated", lambda *_: nullcontext())
    monkeypatch.setattr(evaluation, "load_set", lambda *_: SET)
    monkeypatch.setattr(
        evaluation, "zero_shot_encoder", lambda cfg, name: {"elsewhere": other}[name]
    )
    monkeypatch.setattr(
        evaluation, "search_set", lambda cfg, encoder, data: searched.append(encoder) or RUNS
    )
    rows = "eval.rows={bare: {prompt: {framed: false}, kind: mean}, b: {pretrained: elsewhere}}"
    cfg = config(rows, "eval.untrained=false")
    evaluation._further(cfg, own, Workspace(tmp_path), [])
    by_row = dict(zip(cfg.eval.rows, searched, strict=True))
    assert by_row["bare"].lm is own.lm
    assert by_row["bare"].options.kind == "mean"
    assert not by_row["bare"].prompt.framed
    assert by_row["b"].lm is other.lm


def test_documents_whose_tokens_are_equally_rare_have_no_correlation():
    assert idf_correlation({"sparse": [{1: 5, 2: 3, 3: 1}]}) == 0.0
    documents = {"sparse": [{1: 9, 2: 1, 3: 2}, {2: 1, 3: 2, 4: 9}]}
    rarity, weights = np.log([2, 1, 1]), np.array([9, 1, 2])
    assert idf_correlation(documents) == pytest.approx(np.corrcoef(weights, rarity)[0, 1])


def test_keywords_are_the_words_that_tell_texts_apart_and_some_texts_are_held_out(monkeypatch):
    names = [f"{chr(97 + i // 26)}{chr(97 + i % 26)}xx" for i in range(300)]
    rows = [{"source": f"{name} is shared by all others"} for name in names]
    monkeypatch.setattr("projects.promptreps.data.read_jsonl", lambda *_: rows)
    cfg = config("instruct.source=keywords", "instruct.texts=[wikides]", "instruct.words=1")
    learnt, held_out = (keyword_texts(cfg, part) for part in (False, True))
    assert sorted(w.text for w in (*learnt, *held_out)) == sorted(row["source"] for row in rows)
    assert 0 < len(held_out) < len(learnt)
    assert all(item.words == (item.text.split()[0],) for item in learnt)


def test_answers_change_with_the_epoch_and_texts_are_cut_to_their_length():
    text, encoder = (
        WordedText("men at work in a good house", ("men", "work", "house")),
        encoder_of(),
    )
    batches = AnswerBatches([text], encoder, 0, length=3)
    examples = [batches.example(0, epoch) for epoch in range(12)]
    assert len({str(example) for example in examples}) > 2
    cut = [encoder.rows([text.text], role, 3)[0] for role in ROLES]
    assert all(prompt in cut for prompt, _ in examples)
    assert cut != [encoder.rows([text.text], role)[0] for role in ROLES]
