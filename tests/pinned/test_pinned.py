"""Smoke metrics are those of `smoke.json`; `make pin` writes it anew, for a change on purpose."""

import pytest

from common.registry import list_projects
from tests.pinned import metrics as pinned
from tests.smoke import locked

PROJECTS = list(list_projects())


@pytest.mark.parametrize("project", PROJECTS)
def test_smoke_metrics_are_as_pinned(project, smoke_runs, request):
    measured = pinned.pinned_part(project, pinned.measured_by(smoke_runs(project)))
    assert measured
    if request.config.getoption("--pin"):
        with locked(smoke_runs.folder / "pin.lock"):
            known = {name: value for name, value in pinned.read().items() if name in PROJECTS}
            pinned.write({**known, project: measured})
    known = pinned.read()
    if project not in known:
        pytest.skip(f"{project} is new: make pin writes its metrics")
    assert pinned.differences(known[project], measured) == []


@pytest.mark.slow  # a project that is being written has none yet
def test_every_project_is_pinned_and_nothing_else():
    assert set(pinned.read()) == set(PROJECTS)


def test_a_changed_number_is_noticed():
    """The comparison can fail, and another processor's rounding does not make it."""
    known = {"loss": 2.0, "recall": 0.25, "undefined": None, "zero": 0.0}
    assert pinned.differences(known, {**known, "loss": 2.0015, "zero": 1e-9}) == []
    assert pinned.differences(known, {**known, "loss": 2.005}) == [
        "loss: 2.0 is pinned, 2.005 measured"
    ]
    assert pinned.differences(known, {**known, "undefined": 0.1}) == [
        "undefined: None is pinned, 0.1 measured"
    ]
    assert pinned.differences(known, {**known, "zero": 0.1}) == [
        "zero: 0.0 is pinned, 0.1 measured"
    ]
    del known["recall"]
    assert pinned.differences(known, {**known, "recall": 0.25}) == ["recall is new"]


def test_times_are_not_pinned():
    assert pinned.pinned_part("simcse", {"wall_seconds": 3.0, "loss": 1 / 3}) == {"loss": 0.333333}
