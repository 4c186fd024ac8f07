"""Continual learning: accuracy after every task, average accuracy, backward transfer, forgetting.

# T tasks, N test items
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TaskResults:
    """What was right after which task, for every test item.

    Attributes:
        scores: (T, N) float, score of item n after task k (1 right, 0 wrong); NaN where its class
            had not been seen yet or nothing was evaluated.
        tasks: (N,) int64, task of every item.
    """

    scores: Tensor
    tasks: Tensor

    @property
    def num_tasks(self) -> int:
        """T."""
        return len(self.scores)

    def matrix(self) -> Tensor:
        """R (T, T): mean score on the test items of task j after task k; NaN for j > k.

        The column of a task without test items is NaN.
        """
        rows = self.scores.new_full((self.num_tasks, self.num_tasks), torch.nan)
        for j in range(self.num_tasks):
            scores = self.scores[:, self.tasks == j]
            if scores.shape[1]:
                rows[:, j] = scores.mean(1)
        return rows

    def counts(self) -> Tensor:
        """(T,) test items of each task."""
        return torch.bincount(self.tasks, minlength=self.num_tasks)


def accuracy_after_each_task(matrix: Tensor, counts: Tensor) -> Tensor:
    """A_k = sum_{j <= k} n_j R_kj / sum_{j <= k} n_j, (T,); NaN before the first test item.

    Args:
        matrix: (T, T) accuracies on task j after task k; the upper triangle and the columns of
            tasks without test items are not read.
        counts: (T,) test items of each task.

    >>> R = torch.tensor([[1.0, 0.0], [0.5, 0.8]])
    >>> accuracy_after_each_task(R, torch.tensor([1, 3])).tolist()
    [1.0, 0.7250000238418579]
    """
    weights = counts.to(matrix.dtype)
    matrix = matrix.masked_fill(counts == 0, 0)
    return torch.stack(
        [
            (weights[: k + 1] * matrix[k, : k + 1]).sum() / weights[: k + 1].sum()
            for k in range(len(matrix))
        ]
    )


def continual_metrics(matrix: Tensor, counts: Tensor) -> dict[str, float]:
    """Average and last accuracy, backward transfer and forgetting of a task matrix.

        average accuracy   1/T * sum_k A_k
        last accuracy      A_T
        backward transfer  1/(T-1) * sum_{j < T} (R_Tj - R_jj)
        forgetting         1/(T-1) * sum_{j < T} (max_{j <= k <= T} R_kj - R_Tj)

    The maximum includes the last task, so forgetting is never negative (Chaudhry et al. 2018 take
    it over the tasks before).

    Tasks without test items have no accuracy: transfer and forgetting are means over the tasks
    j < T that have items, the average accuracy one over the A_k with items of tasks 0..k.

    Source: Rebuffi et al. 2017, arXiv 1611.07725 (average incremental accuracy); Lopez-Paz &
    Ranzato 2017, arXiv 1706.08840 (backward transfer); Chaudhry et al. 2018, arXiv 1801.10112
    (forgetting).

    Args:
        matrix: (T, T) accuracy on task j after task k; the upper triangle is not read.
        counts: (T,) test items of each task.

    Returns:
        ``avg_accuracy``, ``last_accuracy``, and with test items of a task before the last one
        ``backward_transfer`` and ``forgetting``.

    Raises:
        ValueError: shapes that do not fit, or no test items.

    >>> R = torch.tensor([[1.0, 0.0], [0.5, 0.75]])
    >>> continual_metrics(R, torch.tensor([1, 1]))["forgetting"]
    0.5
    """
    num_tasks = len(matrix)
    if matrix.shape != (num_tasks, num_tasks) or counts.shape != (num_tasks,):
        raise ValueError(
            f"need (T, T) and (T,), got {tuple(matrix.shape)} and {tuple(counts.shape)}"
        )
    if not counts.any():
        raise ValueError("no task has test items")
    matrix = matrix.double()
    after = accuracy_after_each_task(matrix, counts)
    seen = counts.cumsum(0) > 0
    metrics = {"avg_accuracy": float(after[seen].mean()), "last_accuracy": float(after[-1])}
    old = [j for j in range(num_tasks - 1) if counts[j]]
    if old:
        last = [float(matrix[-1, j]) for j in old]
        when_learned = [float(matrix[j, j]) for j in old]
        best = [float(matrix[j:, j].max()) for j in old]
        metrics["backward_transfer"] = sum(map(float.__sub__, last, when_learned)) / len(last)
        metrics["forgetting"] = sum(map(float.__sub__, best, last)) / len(last)
    return metrics


def average_accuracy_items(results: TaskResults) -> Tensor:
    """One value per test item whose mean is the average accuracy, (N,) float64.

    v_n = N/T * sum_{k >= task(n)} score_kn / N_k, where N_k counts the items of the tasks 0..k and
    T the tasks with N_k > 0, as in `continual_metrics`.
    """
    counts = results.counts().double()
    seen = counts.cumsum(0)  # N_k
    scores = torch.nan_to_num(results.scores.double()) / seen.clamp_min(1)[:, None]
    after = torch.arange(results.num_tasks)[:, None] >= results.tasks
    return (scores * after).sum(0) * (len(results.tasks) / int((seen > 0).sum()))
