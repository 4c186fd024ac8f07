"""Shared set-up: quiet, offline, one thread per process; the pool of gloo processes."""

import os
from collections.abc import Iterator

import pytest

from tests import schedule
from tests.cpu_seconds import CpuSeconds
from tests.figures import unrendered

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "disabled")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cpu-seconds", metavar="FILE", help="table of CPU seconds, also to a file")
    parser.addoption(
        "--cpu-budgets", action="store_true", help="fail where a project exceeds its CPU seconds"
    )
    parser.addoption(
        "--nightly", action="store_true", help="also what is marked nightly, and tests/nightly"
    )
    parser.addoption("--kills", type=int, default=25, help="nightly: kills of each project")
    parser.addoption("--soak-minutes", type=float, default=60.0, help="nightly: of the soak test")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(CpuSeconds(config))
    config.pluginmanager.register(schedule)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what `make faults` runs at night."""
    if config.getoption("--nightly"):
        return
    late = [item for item in items if item.get_closest_marker("nightly")]
    config.hook.pytest_deselected(items=late)
    items[:] = [item for item in items if not item.get_closest_marker("nightly")]


@pytest.fixture(scope="session")
def pool():
    """`pool(world_size)` is the session's pool of that many processes.

    All tests that use it run in one xdist worker (`tests/schedule.py`), so a run starts one.
    """
    from tests.distributed.pool import Pool

    pools: dict[int, Pool] = {}
    yield lambda world_size: pools.setdefault(world_size, Pool(world_size))
    for started in pools.values():
        started.close()


@pytest.fixture(scope="session")
def two_ranks(pool):
    """The pool of two processes."""
    return pool(2)


@pytest.fixture
def unrendered_figures() -> Iterator[None]:
    """Figures of runs are made but not rendered, for tests that look at something else."""
    with unrendered():
        yield
