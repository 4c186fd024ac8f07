"""A log made from a seed: users walk through chains of items, with noise."""

import numpy as np

from projects.mclrec.interactions import History


def markov_log(
    num_users: int, num_items: int, *, clusters: int = 10, noise: float = 0.2, seed: int = 0
) -> list[History]:
    """Every cluster is a ring of items.

    A user walks along one ring and now and then takes any item.

    Args:
        num_users: users, with 5 to 12 items each.
        num_items: items in all, at least two a cluster.
        clusters: rings.
        noise: share of items that are drawn from all, in [0, 1].
        seed: of everything.

    Raises:
        ValueError: fewer items than two a cluster.
    """
    if num_items < 2 * clusters:
        raise ValueError(f"{clusters} rings need {2 * clusters} items, not {num_items}")
    rng = np.random.default_rng(seed)
    ring = num_items // clusters
    histories = []
    for user in range(num_users):
        base, place = int(rng.integers(clusters)) * ring, int(rng.integers(ring))
        items = []
        for _ in range(int(rng.integers(5, 13))):
            any_item, walked = int(rng.integers(num_items)), base + place % ring
            items.append(str(any_item if rng.random() < noise else walked))
            place += 1
        histories.append((f"u{user}", items))
    return histories
