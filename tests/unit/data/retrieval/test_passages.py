"""Records of questions: readers, writers, and batches that say what is missing."""

import json

import numpy as np
import pytest
import torch

from common.config import UserError
from common.data.retrieval.passages import (
    NegativeDraw,
    PassageBatches,
    PassageRecord,
    read_passages,
    write_passages,
)

RECORDS = [PassageRecord(f"q{i}", (f"p{i}", f"r{i}")) for i in range(3)]


def tokenize(texts):
    ids = torch.tensor([[ord(c) for c in text] for text in texts])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def test_what_is_written_is_read(tmp_path):
    records = [PassageRecord("q", ("t a", "b"), ("n",), ("h", "i")), *RECORDS]
    write_passages(tmp_path / "x.jsonl", records)
    assert read_passages(tmp_path / "x.jsonl") == records
    (tmp_path / "y.json").write_text(json.dumps([{"question": "q", "positive_ctxs": [{"txt": 1}]}]))
    with pytest.raises(UserError, match="layout 'dpr'"):
        read_passages(tmp_path / "y.json")
    with pytest.raises(UserError, match="does not exist"):
        read_passages(tmp_path / "z.json")


def test_batches_hold_positives_then_negatives_of_other_questions():
    data = PassageBatches(RECORDS, NegativeDraw(2), tokenize, str.upper, seed=1)
    batch = data[[(0, 0), (2, 3)]]
    texts = ["".join(chr(c) for c in row) for row in batch["key"]["input_ids"].tolist()]
    assert texts[0] in ("P0", "R0")
    assert texts[1] in ("P2", "R2")
    assert len(texts) == 2 + 2 * 2
    assert not {"P0", "R0"} & set(texts[2:4])
    assert not {"P2", "R2"} & set(texts[4:6])
    assert data.example(2, 3) == data.example(2, 3)
    drawn = {data.example(0, epoch)[1] for epoch in range(20)}
    assert drawn == {"p0", "r0"}


def test_too_few_passages_are_named():
    with pytest.raises(UserError, match="ask for fewer than 5"):
        PassageBatches(RECORDS, NegativeDraw(5), tokenize)
    with pytest.raises(UserError, match="no question"):
        PassageBatches([], NegativeDraw(0), tokenize)
    with pytest.raises(ValueError, match="hard_ratio"):
        NegativeDraw(1, 2.0)


def test_no_negative_answers_the_question_and_none_is_drawn_twice():
    """Also where another record of the question has the answer."""
    records = [
        PassageRecord("q", ("a",), ("b", "n", "n", "h"), ("a", "h", "h", "g")),
        PassageRecord("q", ("b",), ("a", "m", "h"), ("h", "g", "b")),
        *(PassageRecord(f"q{i}", (text,)) for i, text in enumerate("hnop")),
    ]
    data = PassageBatches(records, NegativeDraw(4, 0.5), tokenize)
    drawn = [data.example(index, epoch)[2] for index in (0, 1) for epoch in range(60)]
    assert all(len(row) == len({*row}) == 4 for row in drawn)
    assert not {"a", "b"} & {text for row in drawn for text in row}
    few = [PassageRecord("q", ("a",), ("b", "n")), PassageRecord("q", ("b",), ("n", "m", "n"))]
    assert sorted(PassageBatches(few[1:], NegativeDraw(2), tokenize).example(0, 0)[2]) == ["m", "n"]
    with pytest.raises(UserError, match="ask for fewer than 2"):
        PassageBatches(few, NegativeDraw(2), tokenize)


def test_draws_without_clashes_take_the_random_numbers_in_their_order():
    record = PassageRecord("q", ("p",), ("n0", "n1"), ("h0", "h1", "h2"))
    rng, others = np.random.default_rng(3), ["p", "o0", "o1", "o2"]
    actual = NegativeDraw(4, 0.3)(record, np.random.default_rng(3), others)
    hard = int((rng.random(4) < 0.3).sum())
    want = [record.negatives[i] for i in rng.permutation(2)[: 4 - hard]]
    fill = [others[i] for i in rng.permutation(4) if i] if 4 - hard > 2 else []
    want += fill[: 4 - hard - len(want)]
    assert actual == want + [record.hard_negatives[i] for i in rng.permutation(3)[:hard]]


class SmallPermutations(np.random.Generator):
    """Refuses what takes milliseconds."""

    def permutation(self, x):
        assert x < 1000
        return super().permutation(x)


def test_a_negative_of_half_a_million_passages_costs_no_permutation_of_them():
    others = range(500_000)
    rng = SmallPermutations(np.random.PCG64(0))
    record = PassageRecord("q", tuple(others[:1000]))
    drawn = [NegativeDraw(50)(record, rng, others) for _ in range(20)]
    assert all(len({*row}) == 50 for row in drawn)
    assert min(min(row) for row in drawn) >= 1000
    assert 0.4 < np.mean(drawn) / 500_000 < 0.6


def test_negatives_are_found_however_few_passages_are_left(monkeypatch):
    monkeypatch.setattr("common.data.retrieval.passages.MAX_PERMUTED", 20)
    others = [f"p{i}" for i in range(200)]
    record = PassageRecord("q", tuple(others[3:]))
    for seed in range(5):
        actual = NegativeDraw(3)(record, np.random.default_rng(seed), others)
        assert sorted(actual) == ["p0", "p1", "p2"]
