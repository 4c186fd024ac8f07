"""The table of sizes from which the fused operations run."""

import json

import pytest
import torch

from common.kernels import crossover
from common.losses.functional import info_nce as functional
from common.losses.info_nce import InfoNCELoss


def test_a_written_table_is_read(tmp_path):
    file = tmp_path / "crossover.json"
    file.write_text(json.dumps({"pairs": [["cuda", "self", 1024, 4096]]}))
    assert crossover.load(file) == {("cuda", "self"): (1024, 4096)}


@pytest.mark.parametrize("content", ["", "{}", '{"pairs": [["cuda", "self"]]}', None])
def test_another_file_is_refused(content, tmp_path):
    file = tmp_path / "crossover.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ValueError, match=r"CONTRASTIVE_CROSSOVER=.*KERNEL=crossover"):
        crossover.load(file)


def test_the_limit_depends_on_kind_and_dimension(monkeypatch):
    monkeypatch.setitem(crossover.PAIRS, ("cpu", "self"), (10, 20))
    assert [crossover.plain_pairs("cpu", "self", dim) for dim in (256, 257)] == [10, 20]
    assert crossover.plain_pairs("xpu", "self", 1) == crossover.ELSEWHERE[0]


@pytest.mark.parametrize("limit", [35, 36])
def test_up_to_the_limit_the_equation_runs(limit, monkeypatch):
    monkeypatch.setitem(crossover.PAIRS, ("cpu", "one-way"), (limit, limit))
    swept = []
    fused = functional._fused
    monkeypatch.setattr(functional, "_fused", lambda *a: swept.append(1) or fused(*a))
    x = torch.randn(6, 5)
    InfoNCELoss()(x, x, 4.0)
    assert len(swept) == (limit < 36)
