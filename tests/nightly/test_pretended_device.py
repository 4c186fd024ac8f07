"""Training, evaluation and export of every project on a device that is not the CPU."""

import pytest

from common.engine.verbs import smoke_one
from common.registry import list_projects
from tests.pretended import pretended_device

pytestmark = pytest.mark.nightly


@pytest.mark.parametrize("project", list_projects())
def test_no_tensor_is_left_behind(project, tmp_path, monkeypatch):
    with pretended_device(monkeypatch):
        assert smoke_one(project, tmp_path, "smoke", ["trainer.accelerator=auto"]) <= 1e-5
