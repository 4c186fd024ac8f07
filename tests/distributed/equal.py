"""What most projects ask of two processes: that they train what one does."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from tests.distributed.pool import Pool


def assert_ranks_equal_one(
    ranks: Pool,
    steps: Callable[..., Mapping[str, Tensor]],
    *,
    rtol: float,
    atol: float,
    equal_nan: bool = False,
    **settings: Any,
) -> Mapping[str, Tensor]:
    """Compare what `steps` returns on every rank with what it returns alone, name for name.

    Args:
        ranks: pool, such as ``two_ranks``.
        steps: function of a test module; ``steps(distributed=..., **settings)`` returns tensors by
            name.
        rtol: relative tolerance.
        atol: absolute tolerance.
        equal_nan: whether a value that is not a number in both counts as equal.
        settings: of `steps`, the same in all processes.

    Returns:
        What the one process had.
    """
    alone = steps(distributed=False, **settings)
    assert alone
    for rank, actual in enumerate(ranks.run(steps, distributed=True, **settings)):
        other = sorted(actual.keys() ^ alone.keys())
        assert not other, f"rank {rank} and one process have other names: {other}"
        for name, value in alone.items():
            torch.testing.assert_close(
                actual[name],
                value,
                rtol=rtol,
                atol=atol,
                equal_nan=equal_nan,
                msg=_with_place(f"{name} of rank {rank}"),
            )
    return alone


def _with_place(place: str) -> Callable[[str], str]:
    return lambda why: f"{place}: {why}"
