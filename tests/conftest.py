"""Shared set-up: quiet, offline, one thread per process; options; the pool; smoke runs."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.figures import unrendered
from tests.smoke import SmokeRuns

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "disabled")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="also what is marked slow")
    parser.addoption("--nightly", action="store_true", help="also what is marked slow or nightly")
    parser.addoption("--kill-tasks", action="store_true", help="kill each task before it works")
    parser.addoption("--pin", action="store_true", help="write tests/pinned/smoke.json anew")
    parser.addoption("--kills", type=int, default=25, help="nightly: kills of each project")
    parser.addoption("--soak-minutes", type=float, default=60.0, help="nightly: of the soak test")


# ten thousand collected tests and torch are scanned again at each full collection: a tenth of the
# suite's time, so nothing is collected until they are here, and then they count as permanent
gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    gc.enable()


def pytest_configure(config: pytest.Config) -> None:
    """Random files and settings: the same few in the quick suite, thousands of new ones nightly."""
    settings.register_profile("quick", max_examples=12, derandomize=True, deadline=None)
    settings.register_profile("nightly", max_examples=3000, deadline=None)
    settings.load_profile("nightly" if config.getoption("--nightly") else "quick")
    if config.getoption("--kill-tasks"):
        from tests.killed_tasks import KilledTasks

        config.pluginmanager.register(KilledTasks())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out slow and nightly tests, unless an option or their own name asks for them."""
    if any("::" in word for word in config.args):
        return
    nightly = config.getoption("--nightly")
    asked = {"slow": nightly or config.getoption("--all"), "nightly": nightly}
    unasked = [mark for mark, asks in asked.items() if not asks]
    late = [item for item in items if any(item.get_closest_marker(mark) for mark in unasked)]
    config.hook.pytest_deselected(items=late)
    items[:] = [item for item in items if item not in set(late)]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Workers get neighbouring tests, whose fixtures they share, and take from each other."""
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log)


@pytest.fixture(scope="session", autouse=True)
def nothing_is_synced():
    """Files of tests are thrown away: nobody has to wait for the disk."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(scope="session")
def pool():
    """`pool(world_size)` is the session's pool of that many processes."""
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


@pytest.fixture(scope="session")
def smoke_runs(tmp_path_factory: pytest.TempPathFactory) -> SmokeRuns:
    """`smoke_runs(project)` is the folder of its finished smoke run, one a session."""
    session: Path = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        session = session.parent
    return SmokeRuns(session / "smoke-runs")
