"""Pairs, languages, files, calibration text, answers: checklist items 8, 10, 11, 12, 16, 17."""

import copy
import json
import pickle

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from common.config import UserError
from projects.ccp import neighbours
from projects.ccp.answers import answer_within_tokens
from projects.ccp.bitext import calibrated_hits
from projects.ccp.calibration import (
    fit_shift,
    fit_shift_and_scale,
    load_calibration,
    save_calibration,
)
from projects.ccp.config import SIMULATED
from projects.ccp.data import (
    ENGLISH,
    calibration_sentences,
    encode_language,
    heldout_documents,
    pretraining_data,
    training_documents,
    tuning_data,
    validation_documents,
)
from projects.ccp.evaluate import bitext_pairs
from projects.ccp.neighbours import (
    DocumentFile,
    draw_context,
    language_mixture,
    one_language,
)
from projects.ccp.rotation import (
    AdversarialOptions,
    adversarial_rotation,
    refine_rotation,
)
from projects.ccp.sentences import split_any
from projects.ccp.towers import PermutedTokenizer, language_view, recipe_of
from tests.projects.ccp.conftest import PRETRAIN, config, training_set


@pytest.mark.parametrize("window", [1, 2, 3, 4, 5])
def test_item_8_the_context_is_another_sentence_within_the_window(window):
    """Checklist 8: never the centre, never beyond w or the document; uniform over what is left."""
    rng = np.random.default_rng(0)
    for length in (2, 4, 12):
        for center in range(length):
            drawn = [draw_context(rng, center, length, window) for _ in range(300)]
            right = {*range(max(0, center - window), min(length, center + window + 1))} - {center}
            assert set(drawn) == right
            counts = np.bincount(drawn)[sorted(right)]
            assert counts.min() > 0.5 * 300 / len(right)


def test_item_8_pairs_of_the_training_stay_in_their_document():
    """Checklist 8: of 400 accesses; the same key gives the same pair, another epoch another."""
    data = training_set("data.window=2")
    documents = training_documents(config())
    drawn = {(place, epoch): data.pair(place, epoch) for place in range(16) for epoch in range(25)}
    for language, center, context in drawn.values():
        name = data.languages[language].name
        home = [d for d in documents[name] if center in d and context in d]
        assert home
        assert 0 < abs(home[0].index(center) - home[0].index(context)) <= 2
    assert data.pair(3, 7) == drawn[3, 7]
    assert len({pair[1:] for pair in drawn.values()}) > 100


def test_item_10_a_batch_holds_one_language_and_the_collator_refuses_others():
    """Checklist 10: on all ranks together; languages by the smoothed share of their size."""
    data = training_set()
    seen = set()
    for epoch in range(4):
        for start in (0, 8):
            batch = data[[(start + i, epoch) for i in range(8)]]
            assert len(batch["language"].unique()) == 1
            seen.add(int(batch["language"][0]))
    assert seen == {0, 1}
    other = next(i for i in range(16) if data.pair(i, 0)[0] != data.pair(0, 0)[0])
    with pytest.raises(UserError, match="of one language"):
        data[[(0, 0), (other, 0)]]
    assert one_language([3, 3]) == 3
    mixture = language_mixture([100, 100_000], 0.3, 0, 10)
    share = mixture.samples[0] / len(mixture)
    assert share == pytest.approx(100**0.3 / (100**0.3 + 100_000**0.3), abs=1e-3)


def test_the_simulated_language_shares_no_piece():
    """Special pieces stay; all others move, one to one; the same sentences stay isomorphic."""
    torch.manual_seed(0)
    encoder = recipe_of(config()).build().passage
    texts = ["the people of the world, 1984!", "the world of the people"]
    plain, moved = (
        language_view(encoder, n).tokenize(texts)["input_ids"] for n in (ENGLISH, SIMULATED)
    )
    special = torch.isin(plain, torch.tensor(encoder.tokenizer.all_special_ids))
    assert torch.equal(plain[special], moved[special])
    size = len(encoder.tokenizer)
    assert (moved[~special] >= size).all()
    pairs = {*zip(plain[~special].tolist(), moved[~special].tolist(), strict=True)}
    assert len({a for a, _ in pairs}) == len({b for _, b in pairs}) == len(pairs)
    assert encoder.tower.model.get_input_embeddings().num_embeddings == 2 * size


def test_item_12_calibration_text_is_of_the_training_side():
    """Checklist 12: no sentence of the test pairs, also where a training file holds some of
    them."""
    cfg = config()
    (sides,) = bitext_pairs(cfg).values()
    for language in (ENGLISH, SIMULATED):
        actual = calibration_sentences(cfg, language, sides[0])
        assert len(actual) == 40
        assert not {*actual} & {*sides[0]}
        assert {*actual} <= {s for d in training_documents(cfg)[language] for s in d}
    kept = training_documents(cfg)[ENGLISH][0][:3]
    assert not {*calibration_sentences(cfg, ENGLISH, kept)} & {*kept}
    held = {s for d in heldout_documents(cfg) for s in d}
    assert not held & {s for own in training_documents(cfg).values() for d in own for s in d}
    with pytest.raises(UserError, match="eval.monolingual.xx"):
        calibration_sentences(cfg, "xx", [])
    every = [s for d in training_documents(cfg)[ENGLISH] for s in d]
    with pytest.raises(UserError, match="two or more sentences that are not scored, got 1"):
        calibration_sentences(cfg, ENGLISH, every[1:])


def test_texts_are_prepared_in_every_part_of_the_evaluation_as_in_a_search():
    """The switches acted on the family's sets alone; what equals a scored sentence once prepared is
    left out.
    """
    torch.manual_seed(0)
    plain, cfg = config(), config("eval.normalize_text=true", "eval.lower_case=true")
    towers = recipe_of(cfg).build().eval()
    texts = ["The\u2026 People\u00a0of", "the... people of"]
    actual = encode_language(towers, texts, ENGLISH, cfg.eval)
    assert torch.equal(actual, recipe_of(cfg).documents(towers, texts))
    assert torch.equal(actual[0], actual[1])
    assert not torch.allclose(*encode_language(towers, texts, ENGLISH, plain.eval))
    kept = training_documents(cfg)[ENGLISH][0][:3]
    loud = [s.upper() for s in kept]
    assert not {*calibration_sentences(cfg, ENGLISH, loud)} & {*kept}


def test_bundled_documents_are_disjoint_and_as_many_as_the_card_says():
    """Training chapters of one language, of the other, and the held-out ones; runs of eight
    sentences.
    """
    cfg = config(name="mini")
    trained, held = training_documents(cfg), validation_documents(cfg)
    own = {n: {s for d in docs for s in d} for n, docs in trained.items()}
    assert len(own[ENGLISH] & own[SIMULATED]) < 60  # "Yes, sir, I do." stands in several chapters
    assert sum(len(d) for docs in trained.values() for d in docs) > 25_000
    assert {len(d) for docs in trained.values() for d in docs} <= {*range(2, 10)}
    assert sum(len(d) for d in held[SIMULATED]) == 7016
    assert max(len(d) for d in held[SIMULATED]) == 9


def test_item_11_calibration_and_rotation():
    """Checklist 11: each language alone gets zero mean and unit variance; W^T W = I."""
    torch.manual_seed(0)
    x = torch.randn(500, 6) * torch.arange(1.0, 7) + 3
    done = fit_shift_and_scale(x)(x)
    torch.testing.assert_close(done.mean(0), torch.zeros(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(done.std(0, correction=0), torch.ones(6))
    assert fit_shift(x)(x).mean(0).abs().max() < 1e-5
    assert torch.isfinite(fit_shift_and_scale(torch.ones(3, 2))(torch.ones(1, 2))).all()
    options = AdversarialOptions(steps=30, hidden=16, refinements=1)
    turn = adversarial_rotation(x, x.flip(1), options)
    torch.testing.assert_close(turn.T @ turn, torch.eye(6).double(), atol=1e-3, rtol=0)
    right = torch.linalg.qr(torch.randn(6, 6).double())[0]
    z = F.normalize(torch.randn(300, 6).double(), dim=1)
    near = torch.linalg.qr(right + 0.1 * torch.randn(6, 6))[0]
    near = near * torch.sign((near * right).sum(0))
    assert (near - right).abs().max() > 0.02
    torch.testing.assert_close(refine_rotation(z, z @ right.T, near), right, atol=1e-6, rtol=0)


def test_item_16_accuracy_of_both_directions_after_each_step():
    """Checklist 16: a shifted and stretched copy is found only after shift, then scale."""
    torch.manual_seed(0)
    x = torch.randn(200, 8).double()
    text = torch.randn(800, 8).double()
    stretch, shift = torch.logspace(0, 1.3, 8).double(), 30.0
    hits = calibrated_hits(x, x * stretch + shift, text, text.flip(0) * stretch + shift)
    scores = {stage: own.accuracy for stage, own in hits.items()}
    assert scores["raw"] < 0.2 < scores["shifted"] < 0.9 < scores["scaled"]
    assert hits["raw"].forward.shape == hits["raw"].backward.shape == (200,)
    assert not torch.equal(hits["shifted"].forward, hits["shifted"].backward)
    turned = calibrated_hits(x, x, text, text, AdversarialOptions(steps=2, hidden=8))
    assert list(turned) == ["raw", "shifted", "scaled", "rotated"]


def test_calibration_files_are_read_as_written(tmp_path):
    """Per language; another file is refused with a sentence."""
    x = torch.randn(9, 3)
    save_calibration(tmp_path / "c.safetensors", {"de": fit_shift_and_scale(x)})
    again = load_calibration(tmp_path / "c.safetensors")["de"]
    assert torch.equal(again(x), fit_shift_and_scale(x)(x))
    (tmp_path / "d.safetensors").write_text("no")
    for name in ("d", "e"):
        with pytest.raises(UserError, match="calibration file"):
            load_calibration(tmp_path / f"{name}.safetensors")


def test_item_17_answers_count_within_the_first_tokens_of_all_passages():
    """Checklist 17: hand-made; yes and no do not count; the budget cuts inside a passage."""
    passages = ["one two three.", "four five Paris six"]
    actual = answer_within_tokens(passages, ["Paris", "London"], (6, 7))
    assert actual == {6: False, 7: True}  # "three" and "." are two tokens
    assert answer_within_tokens(passages, ["yes", "no"]) is None
    assert answer_within_tokens(passages, ["yes", "three"], (3,)) == {3: True}
    assert answer_within_tokens(["Rome"], ["Paris"]) == {2000: False, 5000: False}


def test_questions_have_their_first_positive_and_one_negative(tmp_path):
    """No question mark at the end, the first positive alone, a hard negative before others.

    Where there is no hard one, another fills up: the release would leave the place empty.
    """
    rows = [
        {
            "question": f"who is {i}?",
            "positive_ctxs": [{"title": "t", "text": f"right {i}"}, {"text": "second"}],
            "negative_ctxs": [{"text": f"plain {i}"}],
            "hard_negative_ctxs": [{"text": f"hard {i}"}] if i else [],
        }
        for i in range(3)
    ]
    for name in ("train.json", "dev.json"):
        (tmp_path / name).write_text(json.dumps(rows))
    words = [
        "finetune.file=train.json",
        "finetune.dev_file=dev.json",
        "finetune.dev_every_n_steps=2",
    ]
    cfg = config(f"data.root={tmp_path}", *words)
    torch.manual_seed(0)
    towers = recipe_of(cfg).build()
    data = tuning_data(cfg, towers)
    read = [data.train_set.example(i, e) for i in range(3) for e in range(4)]
    assert {question for question, _, _ in read} == {"who is 0", "who is 1", "who is 2"}
    assert {positive for _, positive, _ in read} == {"t right 0", "t right 1", "t right 2"}
    assert {wrong[0] for _, _, wrong in read} == {"plain 0", "hard 1", "hard 2"}
    dev = data.val_sets["dev"]
    assert dev.collate([0, 2])["key"]["input_ids"].shape[0] == 4
    assert data.eval_batch_size == 32


def test_documents_of_files_are_checked(tmp_path):
    """A line that is not a document names itself and the task that writes right ones."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"sentences": ["a", "b"]}\n{"sentences": ["a"]}\nx\n')
    data = DocumentFile(path)
    assert data[0] == ["a", "b"]
    for i in (1, 2):
        with pytest.raises(UserError, match=f"line {i + 1}.*TASK=split"):
            data[i]


def test_sentences_end_in_many_scripts():
    """Arabic question mark, Devanagari danda, ellipsis, closing quotes; not inside numbers."""
    assert split_any('He said "no." Then 2.5 m. Right?') == [
        'He said "no."',
        "Then 2.5 m.",
        "Right?",
    ]
    assert len(split_any("\u0647\u0644 \u0647\u0630\u0627\u061f \u0646\u0639\u0645.")) == 2
    assert len(split_any("\u092f\u0939 \u0939\u0948\u0964 \u0935\u0939 \u0939\u0948\u0964")) == 2


def documents_of(path, name, count):
    rows = [{"sentences": [f"{name} number {i} part {j}" for j in range(3)]} for i in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def files_config(root, *overrides):
    for name, count in (("de", 14), ("fi", 20)):
        documents_of(root / f"{name}.jsonl", name, count)
    return config(
        *PRETRAIN,
        f"data.root={root}",
        "data.source=files",
        "data.languages={de: de.jsonl, fi: fi.jsonl}",
        "data.batch_size=4",
        "eval.pseudo_bitext=0",
        *overrides,
    )


def test_item_18_the_last_documents_of_each_file_are_for_the_validation_alone(tmp_path):
    """Checklist 18: every language, whole batches as large as those of the training, none trained
    on.
    """
    cfg = files_config(tmp_path, "data.heldout_documents=6")
    towers = recipe_of(cfg).build()
    data = pretraining_data(cfg, towers)
    trained = training_documents(cfg)
    assert {name: len(own) for name, own in trained.items()} == {"de": 8, "fi": 14}
    assert [d[0] for d in trained["de"]] == [f"de number {i} part 0" for i in range(8)]
    assert {i for own in data.train_set.languages for i in [own.name]} == {"de", "fi"}
    for language, (name, pairs) in enumerate(data.val_sets.items()):
        assert len(pairs) == 4
        assert pairs.collate([pairs[0]])["language"].tolist() == [language]
        seen = {text for row in pairs for text in row}
        assert all(text.startswith(name) for text in seen)
        assert not seen & {s for d in trained[name] for s in d}
    assert data.eval_batch_size == 4
    for words, match in (
        ("heldout_documents=3", "needs 4 held-out documents of 'de'"),
        ("heldout_documents=14", "leaves none"),
    ):
        with pytest.raises(UserError, match=match):
            pretraining_data(files_config(tmp_path, f"data.{words}"), towers)
    assert not pretraining_data(files_config(tmp_path), towers).val_sets


@pytest.mark.parametrize(("exponent", "share"), [(0, [40, 40]), (1, [16, 64])])
def test_languages_are_drawn_by_the_exponent_of_their_size(exponent, share, tmp_path):
    """Data, batching: uniform over languages at 0, by their documents at 1."""
    cfg = files_config(tmp_path, f"data.sampling_exponent={exponent}")
    for name, count in (("de", 16), ("fi", 64)):
        documents_of(tmp_path / f"{name}.jsonl", name, count)
    drawn = pretraining_data(cfg, recipe_of(cfg).build()).train_set
    languages = [drawn.pair(place, 0)[0] for place in range(len(drawn))]
    assert np.bincount(languages).tolist() == share


def test_a_language_of_fewer_documents_than_a_batch_is_refused(tmp_path):
    """A document would stand twice in a batch: its own sentences as negatives of each other."""
    towers = recipe_of(config()).build()
    with pytest.raises(
        UserError, match="'de' has 14 documents to train on, and a batch .* 15 pairs"
    ):
        pretraining_data(files_config(tmp_path, "data.batch_size=15"), towers)
    assert pretraining_data(files_config(tmp_path, "data.batch_size=14"), towers)


def test_an_epoch_is_no_longer_than_memory_allows(monkeypatch):
    """Shares of the languages stay; the documents of the next epoch are others."""
    monkeypatch.setattr(neighbours, "MOST_PAIRS", 100)
    mixture = language_mixture([400, 400], 0.3, 0, 10)
    assert mixture.samples == [50, 50]
    rows = [{tuple(r) for r in mixture.order(epoch).tolist()} for epoch in range(2)]
    assert not rows[0] & rows[1]


def test_blank_sentences_are_passed_over(tmp_path):
    """They would be pairs of nothing; a document of one other sentence is refused."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"sentences": ["a", " ", "b", ""]}\n{"sentences": ["a", " "]}\n')
    assert DocumentFile(path)[0] == ["a", "b"]
    with pytest.raises(UserError, match="line 2.*two or more"):
        DocumentFile(path)[1]


def test_the_simulated_tokenizer_can_be_copied_for_loader_processes():
    """Copies and pickles read a text as it does."""
    tokenizer = PermutedTokenizer(recipe_of(config()).build().passage.tokenizer)
    for other in (copy.copy(tokenizer), pickle.loads(pickle.dumps(tokenizer))):
        assert other(["the people"]) == tokenizer(["the people"])


def test_sets_that_cannot_be_evaluated_are_named_before_the_training():
    """A pair without a dash, a language without text to calibrate with, a selection that never
    comes.
    """
    for words, match in (
        (["eval.bitext={deen: a}"], "'deen' is not a pair"),
        (["eval.bitext={zh-Hans-en: a}"], "'zh-Hans-en' is not a pair"),
        (["eval.bitext={de-en: a}"], "'de' has no text to calibrate with"),
        (["finetune.dev_file=a", "finetune.dev_every_n_steps=3"], "would select nothing"),
    ):
        with pytest.raises(UserError, match=match):
            config(*words)
    assert config("eval.bitext={de-en: a}", "eval.monolingual={de: b}")
