"""Killed at any time, a run goes on to the same result, bit for bit."""

from collections import Counter

import pytest

from tests.interrupted import same
from tests.nightly import runs

pytestmark = pytest.mark.nightly


@pytest.fixture(scope="module", params=["coconut", "trend"])
def undisturbed(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, folder, *runs.whole(request.param, folder)


@pytest.mark.timeout(0)
def test_a_kill_at_a_random_time_changes_nothing(undisturbed, pytestconfig, capsys):
    """Import, set-up, each stage, the writing of a checkpoint, evaluation: whatever the time
    hits."""
    project, folder, expected, begun, spent = undisturbed
    different: list[tuple[int, str]] = []
    hit: Counter[str] = Counter()
    for number in range(pytestconfig.getoption("--kills")):
        result, where = runs.killed_once(project, folder, number, begun, spent)
        hit[where] += 1
        if not (
            result["metrics"] == expected["metrics"]
            and result["rows"] == expected["rows"]
            and same(result["states"], expected["states"])
        ):
            different.append((number, where))
    with capsys.disabled():
        print(f"\n{project}: kills by what the run had reached: {dict(hit.most_common())}")
    assert different == []
