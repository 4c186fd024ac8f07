"""Only with ``--nightly``."""

from pathlib import Path

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--nightly"):
        return
    skip = pytest.mark.skip(reason="takes minutes to an hour: make faults")
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(skip)
