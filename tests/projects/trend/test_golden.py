"""Golden planes of the formula, rendered by the whole network through its public functions."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from projects.trend.networks import Rays, TrendNetwork, network_options
from tests.projects.trend.conftest import config

GOLDEN = json.loads((Path(__file__).parents[2] / "golden/trend.json").read_text(encoding="utf-8"))


def plane_network(case: dict, *overrides: str) -> TrendNetwork:
    """A network whose field is the plane x = `plane_distance`, whatever volume it reads.

    The box ends at the golden case's `far`, rays along +x leave it there; the first layer copies
    x / scale, the others hand it on, and z is kappa in scaled units.
    """
    far = case["far"]
    cfg = config(
        f"data.low=[{-far},{-far},{-far}]",
        f"data.high=[{far},{far},{far}]",
        "data.voxel=[4,4,4]",
        f"method.nearest={case['near']}",
        f"method.samples={case['samples']}",
        "model.activation=relu",
        *overrides,
    )
    network = TrendNetwork(**network_options(cfg)).double().eval()
    field = network.field
    with torch.no_grad():
        for parameter in field.parameters():
            parameter.zero_()
        field.of_position.weight[0, 0] = 1.0
        for layer in field.geometry:
            if isinstance(layer, nn.Linear):
                layer.weight[0, 0] = 1.0
        field.sdf.weight[0, 0] = -1.0
        field.sdf.bias.fill_(case["plane_distance"] / field.scale)
        field.log_sharpness.fill_(math.log(case["kappa"] * field.scale) / 10)
    return network


def rendered(network: TrendNetwork, case: dict, chunk: int | None = None) -> dict[str, float]:
    """What the golden file lists and a scan shows, and its gradients in metres."""
    outputs: list[Tensor] = []
    sdf_at = network.field.sdf_at

    def keep(projected: Tensor, points: Tensor) -> Tensor:
        outputs.append(sdf_at(projected, points))
        outputs[-1].retain_grad()
        return outputs[-1]

    network.field.sdf_at = keep
    volume = torch.zeros(1, network.encoder.channels, *network.encoder.volume_shape).double()
    ray = torch.tensor([[[1.0, 0.0, 0.0]]], dtype=torch.float64)
    rays = Rays(
        torch.zeros(1, 3).double(),
        ray,
        torch.zeros(1).double(),
        torch.full((1, 1), case["plane_distance"]).double(),
    )
    scan = network.render(volume, rays, chunk=chunk)
    scan.ranges.sum().backward()
    scale, v = network.field.scale, network.field.log_sharpness
    assert float(scan.surface.abs()) < 1e-12  # item 12: the observed point lies on the plane
    return {
        "rendered_range_unnormalised": float(scan.ranges),
        "opacity": float(scan.opacity),
        "grad_norm_sdf": float(outputs[0].grad.norm()) / scale,
        "grad_kappa": float(v.grad) / (10 * case["kappa"]),
    }


@pytest.mark.parametrize("case", GOLDEN["cases"])
def test_item_6_golden_planes_through_the_network(case):
    """Item 6: range, opacity and both gradients of `TrendNetwork.render` equal the golden ones."""
    actual = rendered(plane_network(case), case)
    for name, value in actual.items():
        assert value == pytest.approx(case["outputs"][name], rel=1e-6), name


def test_item_6_golden_planes_can_be_missed():
    """Item 6, negative twin: another opacity mode, sharpness or number of samples is noticed."""
    case = GOLDEN["cases"][0]
    expected = case["outputs"]["rendered_range_unnormalised"]
    others = [
        (plane_network(case, "method.alpha_mode=midpoint"), case),
        (plane_network({**case, "kappa": 2 * case["kappa"]}), case),
        (plane_network({**case, "samples": case["samples"] + 1}), case),
    ]
    for network, own in others:
        actual = rendered(network, own)["rendered_range_unnormalised"]
        assert actual != pytest.approx(expected, rel=1e-3)


def test_item_6_the_range_converges_to_the_plane_as_z_and_the_samples_grow():
    """Item 6: within one step of the true distance, and closer with finer steps."""
    errors = []
    for samples, kappa in ((9, 4.0), (65, 100.0), (513, 2000.0)):
        case = {**GOLDEN["cases"][0], "samples": samples, "kappa": kappa}
        actual = rendered(plane_network(case), case)["rendered_range_unnormalised"]
        errors.append(abs(actual - case["plane_distance"]))
        assert errors[-1] <= 7.0 / (samples - 1)
    assert errors == sorted(errors, reverse=True)
