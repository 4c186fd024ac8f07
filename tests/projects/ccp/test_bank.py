"""Checklist items 2 and 15 on the bank: rows of each language, golden values, its least size."""

import pytest
import torch

from common.config import UserError
from projects.ccp.shared_bank import SharedBank
from tests.projects.ccp.conftest import GOLDEN, training_set


def test_bank_keeps_the_order_and_names_of_the_golden_values():
    """Oldest first, -1 where nothing was written, rows that are left from the beginning."""
    bank = SharedBank(4, 1, ["language"], initial="random")
    bank.features.zero_()
    for t, expected in enumerate(GOLDEN["family_bank"]):
        bank.enqueue(torch.full((2, 1), t + 1.0), language=torch.tensor([t, t]))
        rows, labels = bank.oldest_first()
        assert rows[:, 0].tolist() == expected["first_column"]
        assert labels["language"].tolist() == expected["ids"]
        assert bank.unfilled == expected["random_left"]


def test_item_2_other_languages_never_push_out_the_rows_of_a_language():
    """Checklist 2: a ring for each language, in mixed batches too; twin: one ring keeps the latest
    alone.
    """
    own, shared = (SharedBank(8, 1, ["language"], rings=n) for n in (2, 1))
    for bank in (own, shared):
        bank.enqueue(torch.arange(3.0)[:, None], language=torch.tensor([1, 0, 1]))
        for t in range(3, 9):
            bank.enqueue(torch.full((2, 1), float(t)), language=torch.tensor([0, 0]))
    rows, labels = own.oldest_first()
    assert rows[:, 0].tolist() == [7, 7, 8, 8, *rows[4:6, 0].tolist(), 0, 2]
    assert labels["language"].tolist() == [0, 0, 0, 0, -1, -1, 1, 1]
    assert own.features[own.valid(language=1)][:, 0].tolist() == [0, 2]
    assert own.position.tolist() == [1, 2]
    assert not shared.valid(language=1).any()
    own.enqueue(torch.arange(10.0, 16)[:, None], language=torch.ones(6).long())
    assert sorted(own.features[own.valid(language=1)][:, 0].tolist()) == [12, 13, 14, 15]
    fresh = SharedBank(9, 1, ["language"], rings=2, initial="random")
    assert fresh.valid(language=1).tolist() == [False] * 4 + [True] * 4
    for wrong, match in (
        (torch.tensor([2]), "none of the 2 rings"),
        (torch.tensor([0, 1]), r"expected \(B, 1\)"),
    ):
        with pytest.raises(ValueError, match=match):
            own.enqueue(torch.zeros(1, 1), language=wrong)
    with pytest.raises(ValueError, match="rings <= size"):
        SharedBank(1, 1, ["language"], rings=2)


def test_rows_of_a_language_hold_at_least_what_a_step_writes():
    """Of fewer a part would be lost in the very step. A shared bank may be of any size."""
    with pytest.raises(UserError, match="15 rows, and one step writes 16 .* it takes 32 or more"):
        training_set("method.bank_size=31")
    assert training_set("method.bank_size=32")
    assert training_set("method.bank_size=16", "method.language_bank=false")
