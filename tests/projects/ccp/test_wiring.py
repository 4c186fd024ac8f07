"""Neighbours, bitext, calibration and banks: what the config says reaches them."""

from types import SimpleNamespace

import pytest
import torch

from projects.ccp import data
from projects.ccp import evaluate as evaluation
from projects.ccp.bitext import BitextHits
from projects.ccp.data import calibration_sentences, dpr_record, pretraining_data, tuning_data
from projects.ccp.evaluate import bitext, bitext_pairs, head_metrics, neighbours
from projects.ccp.module import CCP
from projects.ccp.towers import recipe_of
from tests.projects.ccp.conftest import PRETRAIN, config, module_of

DOCUMENTS = [[f"s{d}{i}" for i in range(4)] for d in range(2)]


def test_neighbours_are_within_the_window_and_no_sentence_is_its_own(monkeypatch):
    """Eight sentences on a line: the nearest two of each are those beside it."""
    asked = {}
    monkeypatch.setattr(evaluation, "heldout_documents", lambda cfg: DOCUMENTS)
    monkeypatch.setattr(
        evaluation,
        "calibration_sentences",
        lambda cfg, language, without: asked.update(without=without) or ["x", "y"],
    )
    monkeypatch.setattr(
        evaluation, "encode_language", lambda t, texts, *_: torch.eye(8)[: len(texts)]
    )

    def search(rows, collection, k, *, metric, exclude):
        asked.update(exclude=exclude.tolist(), k=k)
        return SimpleNamespace(indices=(exclude[:, None] + 2) % 8)

    monkeypatch.setattr(evaluation, "search", search)
    fits = {"hits": lambda fitted: lambda vectors: vectors}
    shares = [
        neighbours(
            config(f"eval.neighbour_window={w}", "eval.neighbour_queries=8"), None, None, fits
        )["hits"]
        for w in (1, 2)
    ]
    assert asked["exclude"] == list(range(8))
    assert asked["without"] == [s for document in DOCUMENTS for s in document]
    assert shares == [0.0, 0.5]  # two places on, of four sentences a document


def test_each_side_is_calibrated_by_text_of_its_language_with_the_steps_of_the_config(monkeypatch):
    asked = {}
    monkeypatch.setattr(evaluation, "bitext_pairs", lambda cfg: {"en-fr": (["a"], ["b"])})
    monkeypatch.setattr(
        evaluation, "calibration_sentences", lambda cfg, language, without: [language] * 3
    )
    monkeypatch.setattr(
        evaluation,
        "encode_language",
        lambda towers, texts, language, options: torch.full(
            (len(texts), 2), float(language == "fr")
        ),
    )
    raw = BitextHits(torch.tensor([True]), torch.tensor([False]))
    scaled = BitextHits(torch.tensor([True]), torch.tensor([True]))

    def calibrated(x, y, first, second, rotation, *, seed):
        asked.update(first=first[0, 0].item(), second=second[0, 0].item(), steps=rotation.steps)
        return {"raw": raw, "scaled": scaled}

    monkeypatch.setattr(evaluation, "calibrated_hits", calibrated)
    metrics = bitext(config("eval.rotation_steps=7"), None, None)
    assert asked == {"first": 0.0, "second": 1.0, "steps": 7}
    assert metrics["bitext_en-fr_gain"] == 0.5


def test_a_sentence_is_asked_for_once_in_the_simulated_language(monkeypatch):
    monkeypatch.setattr(evaluation, "heldout_documents", lambda cfg: [["a", "b"], ["a", "c"]])
    ((first, second),) = bitext_pairs(config("eval.pseudo_bitext=9")).values()
    assert first == second == ["a", "b", "c"]


def test_the_head_sees_states_and_the_encoder_is_left_as_it_was(monkeypatch):
    seen = []
    module = module_of()
    module.encoder.passage.normalize = True
    monkeypatch.setattr(evaluation, "heldout_documents", lambda cfg: DOCUMENTS)

    def encode(towers, texts, *_):
        seen.append(towers.passage.normalize)
        return torch.randn(len(texts), 32)

    monkeypatch.setattr(evaluation, "encode_language", encode)
    monkeypatch.setattr(evaluation, "leakage", lambda head, center, context, size: {})
    head_metrics(config(*PRETRAIN), module)
    assert seen == [False, False]
    assert module.encoder.passage.normalize


def test_calibration_leaves_out_what_is_scored_however_it_is_written(monkeypatch):
    documents = {"en": [["Same text", "another one", "a third"]]}
    monkeypatch.setattr(data, "training_documents", lambda cfg: documents)
    cfg = config("eval.lower_case=true")
    assert sorted(calibration_sentences(cfg, "en", ["same TEXT"])) == ["a third", "another one"]


@pytest.mark.parametrize("part", ["dev", "test"])
def test_held_out_books_are_those_of_the_part(monkeypatch, part):
    asked = []
    monkeypatch.setattr(data, "load_books", lambda root, part: asked.append(part) or [])
    data.heldout_documents(config("data.source=bundled", f"eval.part={part}"))
    assert asked == [part]


def test_masks_and_languages_are_drawn_as_the_config_says(monkeypatch):
    asked = {}
    mixture = data.language_mixture
    monkeypatch.setattr(
        data,
        "language_mixture",
        lambda sizes, exponent, *rest: (
            asked.update(exponent=exponent) or mixture(sizes, exponent, *rest)
        ),
    )
    masking = data.Masking
    monkeypatch.setattr(
        data,
        "Masking",
        lambda every, share, *rest: (
            asked.update(every=every, share=share) or masking(every, share, *rest)
        ),
    )
    words = ["method.mlm_every=5", "method.mlm_probability=0.3", "data.sampling_exponent=0.2"]
    cfg = config(*PRETRAIN, *words)
    pretraining_data(cfg, recipe_of(cfg).build())
    assert asked == {"exponent": 0.2, "every": 5, "share": 0.3}


def test_made_up_documents_of_two_languages_are_different_ones():
    parts = data.training_documents(config())
    first, second = ({s for d in documents for s in d} for documents in parts.values())
    assert first
    assert not first & second


def test_questions_are_read_as_released_and_validated_in_their_own_batches(monkeypatch):
    record = data.PassageRecord("who is it?", ("a", "b"))
    read = dpr_record(record)
    assert (read.question, len(read.positives)) == ("who is it", 1)
    monkeypatch.setattr(data, "finetuning_data", lambda *_: SimpleNamespace())
    monkeypatch.setattr(data, "questions", lambda cfg, file: [])
    monkeypatch.setattr(data, "passage_batches", lambda *_: [])
    finetune = SimpleNamespace(file="a", dev_file="b", dev_batch_size=3)
    cfg = SimpleNamespace(finetune=finetune, seed=0)
    assert tuning_data(cfg, SimpleNamespace(passage=None)).eval_batch_size == 3


def test_negatives_of_a_bank_for_all_languages_have_any_language(monkeypatch):
    asked = []
    for word in ("true", "false"):
        module = module_of(f"method.language_bank={word}")
        monkeypatch.setattr(
            module.bank, "valid", lambda **labels: asked.append("language" in labels)
        )
        module.negatives(0)
    half = len(asked) // 2
    assert asked == [True] * half + [False] * half


def test_weights_and_starts_of_the_config_reach_the_module(monkeypatch):
    made = {}
    head, bank = CCP.__init__.__globals__["PairHead"], CCP.__init__.__globals__["SharedBank"]
    monkeypatch.setattr(
        "projects.ccp.module.PairHead", lambda w, **rest: made.update(rest) or head(w, **rest)
    )
    monkeypatch.setattr(
        "projects.ccp.module.SharedBank",
        lambda *args, **rest: made.update(rest) or bank(*args, **rest),
    )
    module_of("method.norm_momentum=0.3", "method.bank_initial=random")
    assert (made["momentum"], made["initial"]) == (0.3, "random")
