"""Runs on a device that is not the CPU: no tensor is left behind, and the numbers are the CPU's."""

import csv
import json

import pytest
import torch
from torch import nn

from common.engine.run import train
from tests.pretended import GENERATOR_FREE, pretended_device

# the others: tests/nightly/test_pretended_device.py; passes by length depend on the device
PROJECTS = {"simcse": ["model.length_groups=1"]}


@pytest.mark.slow
@pytest.mark.parametrize("project", PROJECTS)
def test_a_run_elsewhere_gives_the_numbers_of_the_cpu(project, tmp_path, monkeypatch):
    def run(name, *placed):
        path = train(
            project,
            "smoke",
            [
                f"runs_dir={tmp_path}",
                "tracking.wandb=disabled",
                f"run_id={name}",
                *PROJECTS.get(project, ()),
                *placed,
            ],
        )
        rows = csv.DictReader((path / "metrics.csv").open())
        losses = [r["value"] for r in rows if r["name"] == "train/loss"]
        return losses, json.loads((path / "metrics.json").read_text())

    losses, metrics = run("here")
    with monkeypatch.context() as patch, pretended_device(patch):
        moved, there = run("there", "trainer.accelerator=auto")
    assert len(losses) > 1
    assert [float(x) for x in moved] == pytest.approx([float(x) for x in losses], rel=1e-3)
    assert there.keys() == metrics.keys()
    exact = {k: v for k, v in metrics.items() if v is not None and "seconds" not in k}
    assert {k: there[k] for k in exact} == pytest.approx(exact, rel=1e-2, abs=1e-3)


def test_tensors_of_two_devices_are_refused(monkeypatch):
    layer = nn.Linear(3, 2)
    x = torch.ones(4, 3)
    with pretended_device(monkeypatch) as device:
        layer.to(device)
        there = x.to(device)
        assert torch.equal(layer(there).cpu(), layer.cpu()(x))
        layer.to("cuda")
        with pytest.raises(RuntimeError, match="same device"):
            layer(x)
        with pytest.raises(RuntimeError, match="same device"):
            torch.cat([there, x])
        with pytest.raises(RuntimeError, match="same device"):
            there + torch.arange(3)
        with pytest.raises(RuntimeError, match="numpy"):
            there.numpy()
        with pytest.raises(RuntimeError, match="indices should be on the CPU"):
            x[there.long()]
        with pytest.raises(RuntimeError, match=GENERATOR_FREE):
            torch.randn(3, device=device, generator=torch.Generator())


def test_what_a_gpu_takes_is_taken(monkeypatch):
    x = torch.arange(12.0).reshape(4, 3)
    with pretended_device(monkeypatch) as device:
        there = x.to(device)
        assert (there * torch.tensor(2.0)).device == device  # a number of the CPU
        assert there[torch.tensor([1, 0])].tolist() == x[[1, 0]].tolist()
        assert there[:, [0, 2]].tolist() == x[:, [0, 2]].tolist()
        assert torch.tensor([1.0], device=device).device == there.new_tensor([1]).device == device
        row = there[1]
        row.zero_()
        assert there.cpu()[1].tolist() == [0, 0, 0]
        with torch.inference_mode(), torch.autocast("cuda", enabled=False):
            assert there.to("cpu").device.type == "cpu"
            assert there.to("cuda").argmax(1).tolist() == [2, 0, 2, 2]
