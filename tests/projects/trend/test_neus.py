"""Volume rendering of signed distances: golden values, analytic solids, gradients, chunks."""

import json
from pathlib import Path

import pytest
import torch

from projects.trend.encoders.neus import box_span, importance, render_sdf, stratified

GOLDEN = json.loads((Path(__file__).parents[2] / "golden/trend.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", GOLDEN["cases"])
def test_golden_planes(case):
    distances = torch.linspace(case["near"], case["far"], case["samples"], dtype=torch.float64)
    sdf = (case["plane_distance"] - distances).requires_grad_()
    sharpness = torch.tensor(float(case["kappa"]), dtype=torch.float64, requires_grad=True)
    out = render_sdf(sdf, distances, sharpness)
    out.ranges.backward()
    expected = case["outputs"]
    actual = {
        "rendered_range_unnormalised": float(out.ranges),
        "opacity": float(out.opacity),
        "argmax_weight_index": int(out.weights.argmax()),
        "max_weight": float(out.weights.max()),
        "grad_norm_sdf": float(sdf.grad.norm()),
        "grad_kappa": float(sharpness.grad),
    }
    for name, value in expected.items():
        assert actual[name] == pytest.approx(value, rel=1e-6), name


@pytest.mark.parametrize("mode", ["consecutive", "midpoint"])
def test_weights_sum_to_at_most_one(mode):
    torch.manual_seed(0)
    sdf = 3 * torch.randn(200, 24, dtype=torch.float64)
    distances = torch.rand(200, 24, dtype=torch.float64).cumsum(1)
    for sharpness in (1e-6, 1.0, 30.0, 1e6):
        out = render_sdf(sdf, distances, torch.tensor(sharpness, dtype=torch.float64), mode)
        assert float(out.weights.min()) >= 0
        assert float(out.weights.sum(-1).max()) <= 1 + 1e-12
        torch.testing.assert_close(out.opacity, out.weights.sum(-1))
    rising = torch.arange(24.0).expand(2, -1)
    assert float(render_sdf(rising, rising + 1, torch.tensor(5.0), mode).opacity.max()) == 0


@pytest.mark.parametrize("mode", ["consecutive", "midpoint"])
def test_plane_and_sphere_are_found_within_a_step(mode):
    """Analytic distances along 64 rays; the error shrinks with the step."""
    torch.manual_seed(0)
    directions = torch.randn(64, 3, dtype=torch.float64)
    directions[:, 2] = -directions[:, 2].abs() - 1.0
    directions = torch.nn.functional.normalize(directions, dim=1)
    origin = torch.tensor([0.0, 0.0, 4.0], dtype=torch.float64)
    centre = torch.tensor([0.2, -0.1, 0.0], dtype=torch.float64)
    solids = {
        "plane": (lambda p: p[..., 2], -4 / directions[:, 2]),
        "sphere": (lambda p: (p - origin).norm(dim=-1) * -1 + 2.5, torch.full((64,), 2.5).double()),
        "ball": (lambda p: (p - centre).norm(dim=-1) - 3.0, _ball(origin, directions, centre, 3.0)),
    }
    for name, (field, true) in solids.items():
        known = torch.isfinite(true) & (true < 9)
        assert known.sum() > 20, name
        errors = []
        for samples in (33, 129):
            distances = torch.linspace(0.1, 10, samples, dtype=torch.float64).expand(64, -1)
            points = origin + distances[..., None] * directions[:, None]
            out = render_sdf(field(points), distances, torch.tensor(2000.0).double(), mode)
            errors.append(float((out.ranges - true)[known].abs().max()))
            assert errors[-1] <= 9.9 / (samples - 1) + 0.02, name
        assert errors[1] < errors[0]


def _ball(origin, directions, centre, radius):
    """Distance to a sphere, infinite for rays that miss it or only graze it."""
    offset = origin - centre
    along = (directions * offset).sum(1)
    root = along**2 - offset @ offset + radius**2
    hit = root > 1.0
    return torch.where(hit, -along - root.clamp_min(0).sqrt(), torch.inf)


@pytest.mark.parametrize("mode", ["consecutive", "midpoint"])
def test_gradients_in_float64(mode):
    torch.manual_seed(0)
    sdf = torch.randn(3, 7, dtype=torch.float64, requires_grad=True)
    distances = torch.linspace(1, 5, 7, dtype=torch.float64).expand(3, -1)
    sharpness = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda s, z: render_sdf(s, distances, z, mode)[:2], (sdf, sharpness)
    )


def test_samples_lie_in_the_box():
    low, high = torch.tensor([-4.0, -4.0, -2.0]), torch.tensor([4.0, 4.0, 2.0])
    torch.manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(50, 3), dim=1)
    origins = torch.tensor([[0.0, 0.0, 0.0], [-9.0, 0.0, 0.0]])[:, None].expand(-1, 50, -1)
    both = directions.expand(2, -1, -1)
    near, far = box_span(origins, both, low, high, 0.5)
    inside = origins[0] + far[0][:, None] * directions
    assert ((inside - low).min() > -1e-4) & ((high - inside).min() > -1e-4)
    assert (far > near).all()
    for jitter in (False, True):
        actual = stratified(near, far, 8, jitter=jitter)
        assert (actual.diff(dim=-1) > 0).all()
        assert (actual >= near[..., None]).all()
        assert (actual <= far[..., None] + 1e-4).all()
    more = importance(actual, torch.eye(50, 7)[None].expand(2, -1, -1), 4)
    assert more.shape[-1] == 12
    assert (more.diff(dim=-1) >= 0).all()
    first = (more[0, 0] >= actual[0, 0, 0]) & (more[0, 0] <= actual[0, 0, 1])
    assert int(first.sum()) >= 5  # weight on the first section draws samples there


def test_shapes_are_checked():
    with pytest.raises(ValueError, match="samples"):
        render_sdf(torch.zeros(2, 3), torch.zeros(2, 4), torch.tensor(1.0))
