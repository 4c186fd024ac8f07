"""What SepCLR has to beat, on the made-up sets (item 13: baselines stand beside the method)."""

import json

import pytest

from common.engine.workspace import Workspace
from projects.sepclr import baselines
from tests.projects.sepclr.conftest import config


@pytest.mark.parametrize("name", ["raw_pixels", "untrained", "chance"])
def test_metrics_are_the_means_of_their_items(name, tmp_path):
    metrics = getattr(baselines, name)(config(), Workspace(tmp_path))
    for factor in ("corner", "object", "domain"):
        for space in ("common", "salient"):
            items = json.loads((tmp_path / f"items/{factor}_from_{space}.json").read_text())
            assert metrics[f"{factor}_from_{space}"] == pytest.approx(sum(items) / len(items))
    pairs = zip(
        json.loads((tmp_path / "items/corner_from_salient.json").read_text()),
        json.loads((tmp_path / "items/corner_from_common.json").read_text()),
        strict=True,
    )
    actual = json.loads((tmp_path / "items/corner_separation.json").read_text())
    assert actual == pytest.approx([a - b for a, b in pairs])
    if name != "untrained":  # one code in both places
        assert metrics["corner_separation"] == 0
    if name == "chance":
        assert metrics["corner_from_common"] == pytest.approx(0.25)
        assert metrics["domain_from_salient"] == pytest.approx(0.5)
