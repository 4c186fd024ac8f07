"""Imbalanced subsets: sizes, seeds, nothing twice."""

import math

import pytest
import torch

from common.config import UserError
from projects.cacr.imbalance import imbalanced_rows, kept_images

LABELS = torch.arange(500) % 5


def test_linear_sizes_match_the_rule():
    rows = imbalanced_rows(LABELS, 5, "linear", 0)
    assert LABELS[rows].bincount().tolist() == [20, 40, 60, 80, 100]
    assert kept_images(5000, 2, 10, "linear") == 1500
    assert kept_images(7, 2, 10, "linear") == 2  # rounded down


def test_exponential_sizes_match_the_rule():
    rows = imbalanced_rows(LABELS, 5, "exponential", 0)
    expected = [int(100 * math.exp(c + 1 - 5)) for c in range(5)]
    assert LABELS[rows].bincount(minlength=5).tolist() == expected


def test_rows_are_unique_ascending_and_drawn_by_the_seed():
    rows = imbalanced_rows(LABELS, 5, "linear", 0)
    assert (rows.diff() > 0).all()
    assert torch.equal(rows, imbalanced_rows(LABELS, 5, "linear", 0))
    assert not torch.equal(rows, imbalanced_rows(LABELS, 5, "linear", 1))
    first = rows[LABELS[rows] == 0]
    assert not torch.equal(first, torch.arange(0, 100, 5))  # not simply the first ones


def test_images_without_labels_are_refused():
    with pytest.raises(UserError, match="needs the label of every"):
        imbalanced_rows(torch.tensor([0, -1]), 2, "linear", 0)
