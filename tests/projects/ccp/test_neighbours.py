"""Pairs of neighbouring sentences, and the masked copies beside them."""

import pytest
import torch

from common.data.text.masking import IGNORED
from projects.ccp.neighbours import (
    ContextPairs,
    LanguageText,
    Masking,
    language_mixture,
)

PAD, START, END, MASK = range(4)


def tokenize(texts):
    rows = [[START, *map(int, text.split()), END] for text in texts]
    ids = torch.tensor([row + [PAD] * (9 - len(row)) for row in rows])
    return {"input_ids": ids, "attention_mask": ids.ne(PAD).long()}


def pairs(probability):
    documents = [[" ".join(["9"] * n + [str(10 * d + n)]) for n in range(7)] for d in range(1, 13)]
    special = [PAD, START, END]
    return ContextPairs(
        [LanguageText("a", documents, tokenize)],
        language_mixture([12], 1.0, 0, 12),
        masking=Masking(3, probability, MASK, 200, special),
    )


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_masked_rows_are_copies_of_every_third_centre_with_labels_at_what_was_chosen(probability):
    """Contexts, special tokens and the pairs' own inputs stay as they are; the share is the
    config's.
    """
    data = pairs(probability)
    keys = [(place, 0) for place in (4, 6, 1, 3, 5, 0)]
    batch = data[keys]
    drawn = [data.pair(*key) for key in keys]
    centres, contexts = (tokenize([row[side] for row in drawn]) for side in (1, 2))
    for name, ids in batch["inputs"].items():
        assert torch.equal(ids, torch.cat([centres[name], contexts[name]]))
    chosen = [1, 3, 5]  # places 6, 3 and 0
    plain = centres["input_ids"][chosen]
    assert not torch.equal(plain, contexts["input_ids"][chosen])
    masked, labels = batch["masked"], batch["labels"]
    assert torch.equal(masked["attention_mask"], centres["attention_mask"][chosen])
    words = plain.ge(MASK)  # no special token
    assert torch.equal(
        labels,
        torch.where(words, plain, IGNORED) if probability else torch.full_like(plain, IGNORED),
    )
    assert torch.equal(masked["input_ids"][~words], plain[~words])
    changed = masked["input_ids"].eq(MASK) & words
    assert changed.sum() > words.sum() / 2 if probability else not changed.any()
