"""Small training sets: drawn by the seed, class by class, with a development set alongside them."""

from typing import Literal

import numpy as np

from common.config import UserError
from common.data.samplers import sample_rng

Balance = Literal["stratified", "equal"]
_STREAM = 2**31 + 63


def low_resource(
    labels: np.ndarray, train: int, dev: int, seed: int, balance: Balance = "stratified"
) -> tuple[np.ndarray, np.ndarray]:
    """Places of a training and a development set without a common row.

    Which rows are drawn depends on labels, sizes and seed alone, so that all methods get the same
    ones. The rows of a smaller training set are among those of a larger one, up to the rounding of
    the classes' shares.

    Args:
        labels: (N,) classes of all rows.
        train: rows of the first set.
        dev: rows of the second one; 0: none.
        seed: of the draw.
        balance: shares of the classes: "stratified" as in `labels`, "equal" the same for each.

    Returns:
        Two arrays of places, ascending.

    Raises:
        UserError: a class has too few rows.

    >>> low_resource(np.array([0, 0, 0, 0, 1, 1]), 3, 3, seed=0)[0].shape
    (3,)
    """
    classes, counts = np.unique(labels, return_counts=True)
    weights = counts if balance == "stratified" else np.ones(len(classes))
    first, second = shares(weights, train), shares(weights, dev)
    chosen: tuple[list[int], list[int]] = ([], [])
    for label, take, then in zip(classes, first, second, strict=True):
        members = np.flatnonzero(labels == label)
        if take + then > len(members):
            raise UserError(
                f"class {label} has {len(members)} examples, {take + then} are wanted: lower "
                "data.examples or data.dev_examples"
            )
        order = members[sample_rng(seed, 0, int(label), _STREAM).permutation(len(members))]
        chosen[0].extend(order[:take].tolist())
        chosen[1].extend(order[len(order) - then :].tolist())
    return np.sort(np.array(chosen[0], dtype=int)), np.sort(np.array(chosen[1], dtype=int))


def shares(weights: np.ndarray, total: int) -> list[int]:
    """Whole numbers in proportion to weights, by largest remainder.

    The first of equals is favoured.

    >>> shares(np.array([2, 1]), 4)
    [3, 1]
    """
    exact = total * np.asarray(weights, dtype=float) / np.sum(weights)
    counts = np.floor(exact).astype(int)
    order = np.argsort(counts - exact, kind="stable")
    counts[order[: total - counts.sum()]] += 1
    return [int(x) for x in counts]
