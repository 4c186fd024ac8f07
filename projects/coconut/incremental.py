"""Class-incremental scenarios: classes in disjoint tasks, and a rehearsal memory of old samples.

Sources: Rebuffi et al. 2017, "iCaRL", arXiv 1611.07725 (Alg. 4, herding); Douillard & Lesort 2021,
"Continuum", arXiv 2102.06253 (scenarios).
"""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from common.config import UserError
from common.data.samplers import sample_rng

Selection = Literal["random", "closest", "herding"]
_MAX_HERDING_STEPS = 1000
_ORDER_STREAM = 41
_MEMORY_STREAM = 43


class ClassIncremental:
    """Which class and which sample belongs to which task.

    Args:
        order: all classes, in the order in which they arrive.
        num_tasks: T; the classes are cut into T groups of equal size, the first ones hold one more
            if they do not divide evenly.

    Raises:
        UserError: fewer classes than tasks, or an order that is not a permutation.
    """

    def __init__(self, order: Sequence[int], num_tasks: int) -> None:
        if sorted(order) != list(range(len(order))):
            raise UserError(f"the class order must be a permutation of 0..{len(order) - 1}")
        if not 1 <= num_tasks <= len(order):
            raise UserError(f"{len(order)} classes cannot be split into {num_tasks} tasks")
        self.order, self.num_tasks = list(order), num_tasks
        cuts = np.array_split(np.asarray(order), num_tasks)
        self.classes: list[list[int]] = [part.tolist() for part in cuts]
        self.task_of_class = {c: t for t, part in enumerate(self.classes) for c in part}

    @property
    def num_classes(self) -> int:
        """Classes of all tasks."""
        return len(self.order)

    def tasks(self, labels: Tensor) -> Tensor:
        """Task of every sample, (N,) int64.

        Args:
            labels: (N,) int64 classes.
        """
        table = torch.tensor([self.task_of_class[c] for c in range(self.num_classes)])
        return table[labels]

    def rows(self, labels: Tensor, task: int) -> Tensor:
        """Samples of one task, increasing (K,) int64."""
        return (self.tasks(labels) == task).nonzero().flatten()

    def seen(self, task: int) -> list[int]:
        """Classes of the tasks 0..task, in the order of arrival."""
        return [c for part in self.classes[: task + 1] for c in part]


def class_order(num_classes: int, order: Sequence[int] | None, seed: int | None) -> list[int]:
    """Order of arrival: a given permutation, one drawn by a seed, or 0, 1, 2, ...

    Args:
        num_classes: C.
        order: permutation, or None.
        seed: >= 0 to draw one when none is given; None keeps the numbering.
    """
    if order is not None:
        if len(order) != num_classes:
            raise UserError(f"the class order names {len(order)} classes, there are {num_classes}")
        return list(order)
    if seed is None:
        return list(range(num_classes))
    return [int(c) for c in sample_rng(seed, 0, 0, _ORDER_STREAM).permutation(num_classes)]


def herding(features: Tensor, num_selected: int) -> list[int]:
    """Samples whose running mean follows the class mean, in order of choice.

    With unit features d_i and their mean m: w <- m; repeat: choose argmax_i <w, d_i> (a sample may
    win again, then nothing is added); w <- w + m - d_i. At most 1,000 rounds; if fewer samples than
    asked for have won by then, those closest to the mean follow.

    Source: Welling 2009; Rebuffi et al. 2017, Alg. 4, arXiv 1611.07725.

    Args:
        features: (N, D) of one class.
        num_selected: how many, at most N are returned.
    """
    unit = F.normalize(features.double(), dim=1)
    mean = unit.mean(0)
    target, chosen = mean.clone(), list[int]()
    for _ in range(_MAX_HERDING_STEPS):
        if len(chosen) >= min(num_selected, len(unit)):
            break
        winner = int((unit @ target).argmax())
        if winner not in chosen:
            chosen.append(winner)
        target = target + mean - unit[winner]
    rest = [i for i in closest_to_mean(features, len(features)) if i not in chosen]
    return [*chosen, *rest][:num_selected]


def closest_to_mean(features: Tensor, num_selected: int) -> list[int]:
    """Samples of smallest distance to the mean of the (raw) features, nearest first.

    >>> closest_to_mean(torch.tensor([[0.0], [4.0], [1.9]]), 2)
    [2, 0]
    """
    x = features.double()
    distance = (x - x.mean(0)).square().sum(1)
    return [int(i) for i in distance.argsort(stable=True)[:num_selected]]


def select_memory(
    features: Tensor | None,
    labels: Tensor,
    classes: Sequence[int],
    per_class: int,
    method: Selection,
    seed: int = 0,
) -> Tensor:
    """Rows that enter the memory: a fixed quota for each of some classes, class by class.

    Args:
        features: (N, D) for "closest" and "herding", else None.
        labels: (N,) int64.
        classes: classes of the finished task.
        per_class: quota, >= 0.
        method: see `herding`, `closest_to_mean`; "random" draws by the seed.
        seed: the experiment's seed.

    Returns:
        (len(classes) * per_class,) int64 row numbers; -1 where a class has too few samples.

    Raises:
        ValueError: an unknown method, or features that are missing.
    """
    if method not in get_args(Selection):
        raise ValueError(f"method must be one of {get_args(Selection)}, got {method!r}")
    if method != "random" and features is None:
        raise ValueError(f"{method} needs features")
    chosen: list[int] = []
    for c in classes:
        rows = (labels == c).nonzero().flatten()
        if method == "random":
            order = sample_rng(seed, 0, int(c), _MEMORY_STREAM).permutation(len(rows))
            picked = [int(i) for i in order[:per_class]]
        else:
            assert features is not None
            pick = herding if method == "herding" else closest_to_mean
            picked = pick(features[rows], per_class) if len(rows) else []
        chosen += [int(rows[i]) for i in picked] + [-1] * (per_class - len(picked))
    return torch.tensor(chosen, dtype=torch.int64)


def quota_per_class(memory_size: int, num_classes: int) -> int:
    """Samples per class of a memory of fixed size, for all classes that will ever come.

    >>> quota_per_class(1260, 18)
    70
    """
    return memory_size // num_classes
