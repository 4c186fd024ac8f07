"""Re-ranking and beam search over a tiny language model."""

import csv
import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from common.config import UserError
from common.decoding.language_model import Continuation
from common.decoding.options import Policy
from common.engine.workspace import Workspace
from common.evaluation.generation.preference import write_form
from projects.rankgen import tasks
from projects.rankgen.continuations import decode_all
from projects.rankgen.decode import beam_search, overgenerate, rank, scores, tidy
from tests.projects.rankgen.conftest import config, encoder, language_model
from tests.unit.losses.golden import load

PREFIX = "the state of the world and the people of this time"


class Recorder:
    """A ranker that remembers what it was asked for."""

    def __init__(self):
        self.model, self.calls = encoder(), []

    def encode(self, texts, kind):
        self.calls.append((kind, [texts] if isinstance(texts, str) else list(texts)))
        return self.model.encode(texts, kind)


def test_one_beam_of_full_length_is_re_ranking():
    """Checklist 10: B=1, N=n, L=max under the same random stream; another stream differs."""
    ranker, lm = encoder(), language_model()
    options = {"num_samples": 6, "max_tokens": 24, "seed": 3, "index": 2}
    whole = overgenerate(ranker, lm, PREFIX, Policy(), **options)
    (beam,) = beam_search(ranker, lm, PREFIX, Policy(), num_beams=1, segment_tokens=24, **options)
    assert len({b.text for b in whole}) > 1
    assert (beam.text, beam.score) == (whole[0].text, whole[0].score)
    assert whole[0].score == max(b.score for b in whole)
    (other,) = beam_search(
        ranker, lm, PREFIX, Policy(), num_beams=1, segment_tokens=24, **options | {"seed": 4}
    )
    assert other.text != beam.text


def test_beams_are_scored_by_their_whole_text():
    """Checklist 11: every text that is scored in a later round begins with a kept beam."""
    ranker, lm, rounds = Recorder(), language_model(), []
    beams = beam_search(
        ranker,
        lm,
        PREFIX,
        Policy(),
        num_beams=2,
        num_samples=3,
        segment_tokens=6,
        max_tokens=18,
        watch=lambda texts: rounds.append(list(texts)),
    )
    assert [len(texts) for texts in rounds] == [6, 6, 6]
    asked = [texts for kind, texts in ranker.calls if kind == "suffix"]
    assert [kind for kind, _ in ranker.calls].count("prefix") == 1
    for (before, after), seen in zip(pairwise(rounds), asked[1:], strict=True):
        assert all(any(t.startswith(b) and t != b for b in before) for t in after)
        assert seen == [" ".join(t.split()) for t in after]
    vector = ranker.model.encode(PREFIX, "prefix")[0]
    expected = scores(ranker.model, vector, rounds[-1]).sort(descending=True).values[:2]
    torch.testing.assert_close(torch.tensor([b.score for b in beams]), expected)
    assert all(b.ended for b in beams)


class Script:
    """A language model whose first sample of every call ends; texts name call and sample."""

    def __init__(self):
        self.calls = 0

    def continuations(self, prompts, policy, rngs, budget):
        self.calls += 1
        texts = [f" {'xyz'[j]}{self.calls}" for j in range(len(prompts))]
        return [Continuation(text, j == 0, 1) for j, text in enumerate(texts)]

    def count_tokens(self, text):
        return 1


class Taste:
    """Likes the very first sample best, then texts that end in y."""

    def encode(self, texts, kind):
        texts = [texts] if isinstance(texts, str) else texts
        if kind == "prefix":
            return torch.ones(1, 1)
        return torch.tensor([[2.0 if t == "x1" else float(t.split()[-1][0] == "y")] for t in texts])


def test_ended_beams_compete_unchanged():
    """An ended beam is in the next pool as it is, is not continued, and can win."""
    rounds = []
    beams = beam_search(
        Taste(),
        Script(),
        PREFIX,
        Policy(),
        num_beams=3,
        num_samples=3,
        segment_tokens=5,
        max_tokens=20,
        watch=lambda texts: rounds.append(list(texts)),
    )
    assert [len(texts) for texts in rounds] == [9, 7, 7, 7]
    assert all(texts[0] == " x1" for texts in rounds[1:])
    assert not any(t.startswith(" x1 ") for texts in rounds for t in texts)
    assert (beams[0].text, beams[0].score) == (" x1", 2.0)
    assert all(beam.text.count("y") == 4 for beam in beams[1:])


class Silent(Script):
    """Ends the text at once, except in the last sample of a call."""

    def continuations(self, prompts, policy, rngs, budget):
        last = len(prompts) - 1
        return [Continuation(" word." if j == last else " ", True, 1) for j in range(last + 1)]

    def log_likelihood(self, prompts, texts):
        return torch.tensor([0.0 if text == "." else -1.0 for text in texts])


class LikesNothing:
    """Scores the stand-in for an empty text best."""

    def encode(self, texts, kind):
        texts = [texts] if isinstance(texts, str) else texts
        return torch.tensor([[1.0 if text == "." or kind == "prefix" else -1.0] for text in texts])


def test_an_empty_continuation_never_wins_over_another():
    """Re-ranking, beam search and likelihood; where all are empty one of them is the result."""
    options = {"num_samples": 4, "max_tokens": 8}
    actual = overgenerate(LikesNothing(), Silent(), PREFIX, Policy(), **options)
    assert actual[0].text == " word."
    assert LikesNothing().encode(".", "suffix") > LikesNothing().encode("word.", "suffix")
    beams = beam_search(LikesNothing(), Silent(), PREFIX, Policy(), segment_tokens=4, **options)
    assert beams[0].text == " word."
    cfg = config("decode.num_samples=4")
    texts = decode_all(
        cfg, LikesNothing(), Silent(), [PREFIX], ["perplexity", "rerank"], Workspace(Path())
    )
    assert texts == {"perplexity": ["word."], "rerank": ["word."]}
    none = overgenerate(LikesNothing(), Silent(), PREFIX, Policy(), num_samples=1, max_tokens=8)
    assert none[0].text == " word."
    assert rank(LikesNothing(), torch.ones(1), [Continuation("", True, 1)])[0].text == ""


def test_budget_is_reset_for_every_prefix():
    ranker, lm = encoder(), language_model()
    options = {"num_beams": 1, "num_samples": 2, "segment_tokens": 8, "max_tokens": 16}
    lengths = [
        lm.count_tokens(beam_search(ranker, lm, PREFIX, Policy(), index=i, **options)[0].text)
        for i in range(3)
    ]
    assert min(lengths) > 8


def test_tidy():
    assert tidy("  It was\nlate. And the") == "It was late."
    assert tidy("no end") == "no end"


def test_truncation_reproduces_the_released_strings():
    """Checklist 12: cut at the last of . ? ! ;, unchanged where there is none."""
    golden = load("rankgen")
    texts = golden["inputs"]["truncate"]
    assert [tidy(text) for text in texts] == golden["outputs"]["truncate"]
    assert tidy("no end of  a\nsentence") == "no end of a sentence"


def test_the_key_of_the_task_is_found(tmp_path):
    """Guards the way from TASK=decode to TASK=preference: answers elsewhere, the key where it was
    written.
    """
    place = tmp_path / "task-decode"
    write_form(place / "ab_form.csv", ["p"], {"nucleus": ["one."], "rerank": ["two."]})
    with (place / "ab_form.csv").open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    choice = 1 if row["First"] == "two." else 2
    (tmp_path / "filled.csv").write_text(f"InstanceNum,Choice\n{row['InstanceNum']},{choice}\n")
    workspace = Workspace(tmp_path / "task-preference", "rankgen", "smoke")
    cfg = config(f"preference.answers={tmp_path}/filled.csv")
    assert tasks.preference(cfg, workspace)["vote_share"] == 1.0
    (place / "ab_key.csv").unlink()
    with pytest.raises(UserError, match="is missing"):
        tasks.preference(cfg, workspace)


def test_three_raters_by_majority(tmp_path):
    """Checklist 15: form out, choices and explanations in, majority vote and agreement."""
    pair = {"nucleus": ["one.", "two.", "three."], "rerank": ["a.", "b.", "c."]}
    assert write_form(tmp_path / "form.csv", ["p", "q", "r"], pair, seed=0) == 3
    with (tmp_path / "ab_key.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    votes = [("rerank",) * 3, ("rerank", "rerank", "nucleus"), ("nucleus",) * 3]
    with (tmp_path / "answers.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["InstanceNum", "Choice", "Explanation"])
        for row, chosen in zip(rows, votes, strict=True):
            for name in chosen:
                choice = row["Order"].split(",").index(name) + 1
                writer.writerow([row["InstanceNum"], choice, f"{name} fits"])
    workspace = Workspace(tmp_path / "task", "rankgen", "smoke")
    actual = tasks.preference(config(f"preference.answers={tmp_path}/answers.csv"), workspace)
    assert actual["majority_share"] == pytest.approx(2 / 3)
    kept = json.loads((tmp_path / "task/preference.json").read_text())
    assert kept == pytest.approx(actual)
    other = config(f"preference.answers={tmp_path}/answers.csv", "preference.system=nucleus")
    assert tasks.preference(other, workspace)["majority_share"] == pytest.approx(1 / 3)
    rows = (tmp_path / "answers.csv").read_text().splitlines()
    lost = [row for row in rows if not row.endswith("nucleus fits")]
    (tmp_path / "answers.csv").write_text("\n".join(lost))
    assert tasks.preference(other, workspace)["majority_share"] == 0.0  # a result, not an error


def test_one_method_is_no_pair_of_a_form():
    """A method named twice was told after hours of decoding, by the form."""
    tasks._check_pair(config("decode.ab_pair=[greedy, nucleus]"), ["greedy", "nucleus"])
    with pytest.raises(UserError, match="choose two of"):
        tasks._check_pair(config("decode.ab_pair=[greedy, greedy]"), ["greedy", "nucleus"])
