"""Class-incremental scenarios and rehearsal selection (index lists: see the golden tests)."""

import pytest
import torch

from common.config import UserError
from projects.coconut.incremental import (
    ClassIncremental,
    class_order,
    closest_to_mean,
    herding,
    quota_per_class,
    select_memory,
)


def test_tasks_follow_the_order():
    scenario = ClassIncremental([2, 0, 3, 1, 4], 2)
    assert scenario.classes == [[2, 0, 3], [1, 4]]
    labels = torch.tensor([0, 1, 2, 3, 4])
    assert scenario.tasks(labels).tolist() == [0, 1, 0, 0, 1]
    assert scenario.rows(labels, 1).tolist() == [1, 4]
    assert scenario.seen(1) == [2, 0, 3, 1, 4]
    with pytest.raises(UserError, match="permutation"):
        ClassIncremental([0, 0, 1], 1)
    with pytest.raises(UserError, match="cannot be split"):
        ClassIncremental([0, 1], 3)


def test_orders():
    assert class_order(3, None, None) == [0, 1, 2]
    assert class_order(3, [2, 1, 0], 5) == [2, 1, 0]
    assert sorted(class_order(9, None, 1)) == list(range(9))
    assert class_order(9, None, 1) == class_order(9, None, 1) != class_order(9, None, 2)


def test_herding_keeps_the_mean_better_than_the_closest_samples():
    torch.manual_seed(0)
    x = torch.nn.functional.normalize(torch.randn(60, 8), dim=1)
    gap = {
        name: float((x[pick(x, 6)].mean(0) - x.mean(0)).norm())
        for name, pick in (("herding", herding), ("closest", closest_to_mean))
    }
    assert gap["herding"] < gap["closest"]


def test_quota_and_errors():
    assert quota_per_class(230, 31) == 7
    labels = torch.zeros(3, dtype=torch.long)
    with pytest.raises(ValueError, match="needs features"):
        select_memory(None, labels, [0], 1, "herding")
    with pytest.raises(ValueError, match="method must be one of"):
        select_memory(None, labels, [0], 1, "first")
    first, again, other = (select_memory(None, labels, [0], 2, "random", s) for s in (0, 0, 4))
    assert first.equal(again)
    assert len(set(first.tolist())) == 2
    assert other.shape == (2,)
