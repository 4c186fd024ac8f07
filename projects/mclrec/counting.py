"""Recommenders that count: popularity, Markov chains, item-kNN. Fitted on training sequences alone.

Each returns a `Score`; popularity, far below one count, decides between equal scores.
"""

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from projects.mclrec.ranking import Score

Ids = NDArray[np.int64]


def popularity(sequences: Sequence[Ids], num_items: int) -> Score:
    """How often an item was taken, the same for every user."""
    counts = torch.from_numpy(_counts(sequences, num_items)).double()
    return lambda histories: counts.expand(len(histories), -1).clone()


def markov(sequences: Sequence[Ids], num_items: int, *, reach: int = 1, memory: int = 1) -> Score:
    """What followed the user's last items in the sequences of others.

        s_j = sum_{a < memory} 1 / (a + 1) * sum_{d = 1..reach} n_d(h_{-1-a}, j) / d

    n_d(i, j) counts j at d places after i. A first-order chain has reach and memory 1; with more
    it skips places (skip-Markov).

    Args:
        sequences: training part of every user.
        num_items: I.
        reach: largest distance of a pair that is counted, >= 1.
        memory: last items of a history that are looked up, >= 1.
    """
    shape = (num_items + 1, num_items + 1)
    follow = sp.csr_matrix(shape)
    for distance in range(1, reach + 1):
        pairs = [history for history in sequences if len(history) > distance]
        if not pairs:
            break
        first = np.concatenate([history[:-distance] for history in pairs])
        then = np.concatenate([history[distance:] for history in pairs])
        follow = follow + sp.csr_matrix((np.full(len(first), 1 / distance), (first, then)), shape)
    decay = 1 / np.arange(1, memory + 1)
    return _scorer(
        follow,
        sequences,
        num_items,
        lambda history: (history[::-1][:memory], decay[: len(history)]),
    )


def item_knn(sequences: Sequence[Ids], num_items: int) -> Score:
    """Cosine of the sets of users of two items, summed over the history.

    Source: Deshpande and Karypis 2004, "Item-based top-N recommendation algorithms", ACM TOIS
    22(1).
    """
    users = np.repeat(np.arange(len(sequences)), [len(history) for history in sequences])
    taken = sp.csr_matrix(
        (np.ones(len(users)), (users, np.concatenate(sequences))),
        (len(sequences), num_items + 1),
    )
    taken.data[:] = 1.0  # an item that was taken twice counts once
    norms = np.sqrt(np.asarray(taken.sum(0)).ravel())
    scaled = taken @ sp.diags(1 / np.maximum(norms, 1))
    cosine = (scaled.T @ scaled).tolil()
    cosine.setdiag(0)
    return _scorer(
        cosine.tocsr(), sequences, num_items, lambda history: (history, np.ones(len(history)))
    )


def _scorer(
    matrix: sp.csr_matrix, sequences: Sequence[Ids], num_items: int, look_up: object
) -> Score:
    counts = _counts(sequences, num_items)
    tie = 1e-6 * counts / max(1, counts.max())

    def score(histories: Sequence[Ids]) -> Tensor:
        rows, columns, values = [], [], []
        for user, history in enumerate(histories):
            items, weights = look_up(history)  # type: ignore[operator]
            rows.append(np.full(len(items), user))
            columns.append(items)
            values.append(weights)
        table = sp.csr_matrix(
            (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))),
            (len(histories), num_items + 1),
        )
        return torch.from_numpy((table @ matrix).toarray() + tie)

    return score


def _counts(sequences: Sequence[Ids], num_items: int) -> NDArray[np.float64]:
    return np.bincount(np.concatenate(sequences), minlength=num_items + 1).astype(np.float64)
