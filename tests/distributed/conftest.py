"""Fixture `pool`: gloo processes shared by all tests of the session."""

from collections.abc import Callable, Iterator

import pytest

from tests.distributed.pool import Pool


@pytest.fixture(scope="session")
def pool() -> Iterator[Callable[[int], Pool]]:
    """`pool(world_size)` is the session's pool of that many processes."""
    pools: dict[int, Pool] = {}
    yield lambda world_size: pools.setdefault(world_size, Pool(world_size))
    for started in pools.values():
        started.close()
