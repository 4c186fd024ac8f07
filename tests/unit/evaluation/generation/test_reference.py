"""ROUGE, BLEU, METEOR against the libraries' own definitions; BERTScore's matching; blind
choices."""

import csv
import re

import pytest
import torch

from common.config import UserError
from common.data.tables import read_jsonl
from common.evaluation.generation.reference import (
    bleu,
    bleu_unsmoothed,
    mean_scores,
    meteor,
    rouge,
    rouge_f,
)
from projects.wikides.bert_score import greedy_match
from projects.wikides.choice import choice_shares, write_choice_form

TEXT, REFERENCE = "The cats of Oslo", "the CAT in the hat of Oslo"


def test_rouge_is_that_of_clipped_n_grams_without_case_and_stemming():
    actual = rouge(TEXT, REFERENCE)
    assert actual["rouge_1"] == pytest.approx(
        (3 / 4, 3 / 7, 6 / 11)
    )  # the, of, oslo; cats is not a cat
    assert actual["rouge_2"] == pytest.approx((1 / 3, 1 / 6, 2 / 9))
    assert actual["rouge_l"] == pytest.approx((3 / 4, 3 / 7, 6 / 11))
    assert rouge_f("a a a", "a b") == pytest.approx(2 * (1 / 3) * (1 / 2) / (5 / 6))
    assert rouge_f("", REFERENCE) == 0
    assert rouge_f("oslo of", "of oslo", "rouge_l") == pytest.approx(1 / 2)  # the order counts


def test_bleu_of_short_sentences_and_meteor_by_stems():
    assert bleu("small town", "small town") == 1
    assert bleu("small town", "a lake") == 0
    assert 0 < bleu("small town", "a small town in the north") < 0.2  # brevity
    # without smoothing: words between spaces with their case, 0 below four words or a missing order
    assert bleu_unsmoothed("a small town", "a small town") == 0
    assert bleu_unsmoothed("a b c d", "a b c d e f") == pytest.approx(2.718281828 ** (1 - 6 / 4))
    expected = (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** (1 / 4)
    assert bleu_unsmoothed("a b c d x", "a b c d") == pytest.approx(expected)
    assert bleu_unsmoothed("A b c d x", "a b c d") == 0
    assert bleu_unsmoothed("a a b c d", "a b c d") == pytest.approx(expected)  # clipped counts
    assert bleu_unsmoothed("a b c d", "") == 0
    assert meteor("small towns", "small town") > 0.9 > meteor("small lake", "small town")
    means, values = mean_scores([TEXT, "x"], [REFERENCE, "x"])
    assert means["rouge_1"] == pytest.approx(sum(values["rouge_1"]) / 2)
    assert {
        "rouge_l_recall",
        "rouge_2_precision",
        "bleu",
        "bleu_unsmoothed",
        "meteor",
    } <= means.keys()
    with pytest.raises(ValueError, match="as many references"):
        mean_scores(["a"], [])


def test_bert_score_takes_the_nearest_token_and_means_over_those_that_count():
    text = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 4.0]])
    reference = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    counts = torch.tensor([True, True, False])
    precision, recall, f1 = greedy_match(text, reference, counts, torch.tensor([True, True]))
    root = 2**-0.5
    assert precision == pytest.approx((1 + root) / 2)
    assert recall == pytest.approx(
        (1 + 7 / 5 * root) / 2
    )  # a token that doesn't count is matched with
    assert f1 == pytest.approx(2 * precision * recall / (precision + recall))


def test_bert_score_of_an_empty_side_is_zero():
    """As in the authors' package, for the other side too, whose tokens would match special ones."""
    states, yes, no = torch.eye(2), torch.tensor([True, True]), torch.tensor([False, False])
    assert (
        greedy_match(states, states, yes, no) == greedy_match(states, states, no, yes) == (0, 0, 0)
    )


def test_a_form_names_no_system_and_its_key_gives_the_shares(tmp_path):
    form, key = tmp_path / "form.csv", tmp_path / "key.jsonl"
    systems = {
        "alpha": ["a0", "same", "x"],
        "beta": ["b0", "same", "x"],
        "gamma": ["c0", "other", "x"],
    }
    assert write_choice_form(form, key, ["s0", "s1", "s2"], systems, seed=3) == 2  # x is one text
    assert not re.search("alpha|beta|gamma", form.read_text(encoding="utf-8"))
    rows = list(csv.DictReader(form.open(encoding="utf-8", newline="")))
    letters = {row["item"]: row["systems"] for row in read_jsonl(key)}
    for row in rows:
        for letter, names in letters[int(row["item"])].items():
            assert {row[letter]} == {systems[name][int(row["item"])] for name in names}
    shared = next(letter for letter, names in letters[1].items() if len(names) == 2)
    gamma = next(letter for letter, names in letters[0].items() if names == ["gamma"])
    forms = []
    for number, picks in enumerate([(gamma, shared), (gamma, "tie")]):
        forms.append(tmp_path / f"rater{number}.csv")
        lines = ["item,choice", *(f"{i},{pick}" for i, pick in enumerate(picks))]
        forms[-1].write_text("\n".join(lines) + "\n", encoding="utf-8")
    actual = choice_shares(forms, key)
    expected = {"alpha": 12.5, "beta": 12.5, "gamma": 50, "tie": 25}
    assert {name: actual[f"{name}_percent"] for name in expected} == expected
    assert actual["votes"] == 4
    with pytest.raises(UserError, match="two to eight"):
        write_choice_form(form, key, ["s"], {"one": ["a"]}, 0)
    with pytest.raises(UserError, match="filled-in"):
        choice_shares([], key)
