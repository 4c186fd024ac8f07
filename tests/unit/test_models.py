"""`common.models.load`: an exported folder by itself says which project reads it."""

import json
import shutil

import pytest

from common.config import UserError
from common.engine.verbs import smoke_one
from common.models import ABOUT, load


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    smoke_one("dcl", runs)
    (folder,) = runs.glob("dcl/smoke/*/export")
    return folder


def test_a_moved_export_opens_and_says_what_it_is(exported, tmp_path):
    moved = shutil.copytree(exported, tmp_path / "elsewhere")
    about = json.loads((moved / ABOUT).read_text())
    assert (about["project"], about["config"]) == ("dcl", "smoke")
    assert about["run"] == exported.parent.name
    network = load(str(moved))
    assert not network.training
    assert network.encoder.num_features > 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "make export"),
        ("{", "damaged"),
        ("{}", "project"),
        ('{"project": "os", "config": "mini", "version": "0"}', "no project 'os'"),
        ('{"project": "../dcl", "config": "mini", "version": "0"}', "no project"),
    ],
)
def test_what_is_no_exported_model_is_refused(tmp_path, content, said):
    if content is not None:
        (tmp_path / ABOUT).write_text(content)
    with pytest.raises(UserError, match=said):
        load(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        load(tmp_path / "missing")
