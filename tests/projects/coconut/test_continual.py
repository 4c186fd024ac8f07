"""Continual metrics on hand-made matrices, error rates, figures."""

import pytest
import torch

from projects.coconut.continual import (
    TaskResults,
    accuracy_after_each_task,
    average_accuracy_items,
    continual_metrics,
)
from projects.coconut.continual_figures import task_curves, task_heat_map
from projects.coconut.speech.error_rates import (
    character_error_rate,
    edit_distance,
    word_edits,
    word_error_rate,
)

NAN = float("nan")
MATRIX = torch.tensor([[0.9, NAN, NAN], [0.5, 0.8, NAN], [0.6, 0.2, 1.0]])
COUNTS = torch.tensor([10, 20, 10])


def test_hand_made_matrix():
    after = accuracy_after_each_task(MATRIX, COUNTS)
    assert after.tolist() == pytest.approx([0.9, (5 + 16) / 30, (6 + 4 + 10) / 40])
    actual = continual_metrics(MATRIX, COUNTS)
    assert actual["avg_accuracy"] == pytest.approx((0.9 + 0.7 + 0.5) / 3)
    assert actual["last_accuracy"] == pytest.approx(0.5)
    assert actual["backward_transfer"] == pytest.approx(((0.6 - 0.9) + (0.2 - 0.8)) / 2)
    assert actual["forgetting"] == pytest.approx(((0.9 - 0.6) + (0.8 - 0.2)) / 2)
    assert continual_metrics(MATRIX[:1, :1], COUNTS[:1]).keys() == {"avg_accuracy", "last_accuracy"}
    with pytest.raises(ValueError, match=r"need \(T, T\)"):
        continual_metrics(MATRIX, COUNTS[:2])


def test_item_values_average_to_the_average_accuracy():
    torch.manual_seed(0)
    tasks = torch.tensor([0, 0, 0, 1, 1, 2])
    scores = torch.randint(0, 2, (3, 6)).float()
    scores[torch.arange(3)[:, None] < tasks] = NAN
    results = TaskResults(scores, tasks)
    metrics = continual_metrics(results.matrix(), results.counts())
    assert float(average_accuracy_items(results).mean()) == pytest.approx(metrics["avg_accuracy"])
    assert results.matrix()[0, 1].isnan()


@pytest.mark.parametrize("empty", [0, 1, 2])
def test_a_task_without_test_items_has_no_part(empty):
    """Figures are those of the other tasks; a leading one is before the first accuracy."""
    kept = [k for k in range(3) if k != empty]
    tasks = torch.tensor([kept[0], kept[0], kept[1]])
    scores = torch.tensor([[1, 1, 0], [1, 0, 1], [0, 1, 1]]).float()
    results = TaskResults(scores.masked_fill(torch.arange(3)[:, None] < tasks, NAN), tasks)
    matrix, counts = results.matrix(), results.counts()
    assert matrix[:, empty].isnan().all()
    actual = continual_metrics(matrix, counts)
    after = accuracy_after_each_task(matrix, counts)
    seen = after[after.isfinite()]
    assert len(seen) == (2 if empty == 0 else 3)
    assert actual["avg_accuracy"] == pytest.approx(float(seen.mean()))
    assert float(average_accuracy_items(results).mean()) == pytest.approx(actual["avg_accuracy"])
    old = [matrix[j:, j] for j in kept if j < 2]
    assert actual["last_accuracy"] == pytest.approx(2 / 3)
    transfer = sum(float(own[-1] - own[0]) for own in old) / len(old)
    assert actual["backward_transfer"] == pytest.approx(transfer)
    forgotten = sum(float(own.max() - own[-1]) for own in old) / len(old)
    assert actual["forgetting"] == pytest.approx(forgotten)


def test_without_items_before_the_last_task_nothing_is_forgotten():
    actual = continual_metrics(MATRIX, torch.tensor([0, 0, 10]))
    assert actual == {"avg_accuracy": 1.0, "last_accuracy": 1.0}
    with pytest.raises(ValueError, match="no task has test items"):
        continual_metrics(MATRIX, torch.zeros(3, dtype=torch.long))


def test_error_rates():
    assert edit_distance(list("kitten"), list("sitting")) == 3
    assert word_edits("", "a b") == (2, 2)
    assert word_error_rate(["a x c d", ""], ["a b c", "e"]) == pytest.approx(3 / 4)
    assert word_error_rate(["a b"], ["a b"]) == 0
    assert character_error_rate(["ac"], ["abc"]) == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="1 hypotheses for 2"):
        word_error_rate(["a"], ["a", "b"])
    with pytest.raises(ValueError, match="empty"):
        word_error_rate(["a"], [""])


def test_figures_hold_what_was_measured():
    heat = task_heat_map(MATRIX, ["a", "b", "c"], "accuracy")
    assert [t.get_text() for t in heat.axes[0].texts] == ["90", "50", "80", "60", "20", "100"]
    curves = task_curves({"x": [0.1, NAN], "y": [0.2, 0.3]}, "accuracy")
    assert [line.get_label() for line in curves.axes[0].lines] == ["x", "y"]
