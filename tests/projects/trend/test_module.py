"""Network, objective, curriculum, rendering through the network, two processes (items 1-8, 12)."""

from itertools import pairwise

import pytest
import torch

from common.config import UserError
from projects.trend.encoders.sinusoidal import sinusoidal
from projects.trend.encoders.trilinear import trilinear
from projects.trend.module import conditioned
from projects.trend.networks import Rays
from projects.trend.objective import frame_terms, horizon_probabilities, weighted
from projects.trend.recurrent import embed_action
from tests.projects.trend.conftest import as_double, batch_of, config, module_of


def rays_of(batch, frame=0):
    return Rays(
        batch["origins"][:, frame],
        batch["directions"][:, frame],
        batch["times"][:, frame],
        batch["ranges"][:, frame],
    )


def test_item_3_action_embedding_has_34_values():
    """Item 3: sinusoids of the translation alone, sine and cosine of the yaw, no parameter."""
    action = torch.tensor([[1.5, -0.5, 0.3]], dtype=torch.float64)
    code = embed_action(action, 32)
    assert code.shape == (1, 34)
    rates = torch.tensor([10000 ** (-i / 8) for i in range(8)], dtype=torch.float64)
    expected = [f(v * rates) for v in (1.5, -0.5) for f in (torch.sin, torch.cos)]
    torch.testing.assert_close(code[0, :32], torch.cat(expected))
    torch.testing.assert_close(code[0, 32:], torch.stack([action[0, 2].sin(), action[0, 2].cos()]))
    full_turn = embed_action(action + torch.tensor([0, 0, 2 * torch.pi], dtype=torch.float64), 32)
    torch.testing.assert_close(full_turn, code)
    recurrent = module_of().network.recurrent
    assert recurrent.action[0].in_features == 34
    assert recurrent.action[-1].out_features == 16


def test_item_3_recurrence_shares_weights_and_reads_its_actions():
    """Items 2, 3: zero steps change nothing; n steps are n calls; later actions are not read."""
    recurrent = module_of().network.recurrent.double()
    torch.manual_seed(0)
    volume = torch.randn(3, 16, 2, 4, 4, dtype=torch.float64)
    actions = torch.randn(3, 2, 3, dtype=torch.float64)
    out = recurrent(volume, actions, torch.tensor([0, 1, 2]))
    assert torch.equal(out[0], volume[0])
    once = recurrent.step(volume, actions[:, 0])
    torch.testing.assert_close(out[1], once[1])
    torch.testing.assert_close(out[2], recurrent.step(once, actions[:, 1])[2])
    later = actions.clone()
    later[:, 1] += 1
    changed = recurrent(volume, later, torch.tensor([0, 1, 2]))
    assert torch.equal(changed[:2], out[:2])
    assert not torch.allclose(changed[2], out[2])


def error_of_a_wall(kind: str) -> float:
    """Metres by which a wall is missed that the future shows farther off by the way driven.

    The origin of the rays stays, so that nothing but the action tells where the wall is.
    """
    module = module_of("model.activation=relu", "method.jitter=false", "method.samples=24")
    network, generator = module.network, torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    points, owner = 4 * torch.randn(40, 4, generator=generator), torch.zeros(40, dtype=torch.long)
    spread = 0.3 * torch.randn(8, 3, generator=generator) * torch.tensor([0, 1, 0.3])
    directions = torch.nn.functional.normalize(torch.tensor([1.0, 0, 0]) + spread, dim=1)
    errors = []
    for _ in range(50):
        way = 8 * torch.rand(4, generator=generator)
        actions = torch.stack([way, 0 * way, 0 * way], dim=1)[:, None]
        volume = network.encode(points, owner, 1).expand(4, -1, -1, -1, -1)
        volume = network.recurrent(volume, conditioned(actions, kind), torch.ones(4).long())
        ranges = (6 + way)[:, None] / directions[:, 0]
        rays = Rays(torch.zeros(4, 3), directions.expand(4, -1, -1), torch.full((4,), 0.5), ranges)
        scan = network.render(volume, rays)
        error = (scan.ranges - ranges).abs().mean()
        optimizer.zero_grad()
        (error + 10 * scan.surface.abs().mean()).backward()
        optimizer.step()
        errors.append(float(error.detach()))
    return sum(errors[-20:]) / 20


@pytest.mark.slow
def test_item_3_an_action_that_tells_something_is_learnt():
    """Item 3: the path from action to range works; twins: without the action, and with
    another's."""
    true = error_of_a_wall("true")
    assert true < 1.3
    for kind in ("zero", "shuffled"):
        assert error_of_a_wall(kind) > 1.6 * true


@pytest.mark.parametrize("size", [(2, 4, 4), (1, 3, 7), (5, 2, 3)])
def test_item_3_split_convolution_equals_the_one_of_the_concatenation(size):
    """Item 3: f_3D of [volume, broadcast code], with its gradients; the code matters at borders."""
    recurrent = module_of().network.recurrent.double()
    torch.manual_seed(0)
    volume = torch.randn(2, 16, *size, dtype=torch.float64, requires_grad=True)
    action = torch.randn(2, 3, dtype=torch.float64)

    def joined() -> torch.Tensor:
        code = recurrent.action(embed_action(action, 32))
        code = code[:, :, None, None, None].expand(-1, -1, *size)
        return recurrent.volume(torch.cat([volume, code], dim=1))

    inputs = [volume, *recurrent.parameters()]
    actual, expected = recurrent.step(volume, action), joined()
    torch.testing.assert_close(actual, expected)
    for a, b in zip(
        torch.autograd.grad(actual.square().sum(), inputs),
        torch.autograd.grad(expected.square().sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)
    plain = torch.nn.functional.conv3d(volume, recurrent.volume[0].weight[:, :16], padding=1)
    code = recurrent.volume[0](torch.cat([volume, volume.new_ones(2, 16, *size)], 1)) - plain
    assert code[..., 0].sub(code[..., -1]).abs().max() > 1e-3 or size[-1] == 1


def test_item_4_field_reads_place_time_and_feature():
    """Item 4: the split first layer equals one layer on [p, SE(t), f_p]; each part matters."""
    field = module_of().network.field.double()
    torch.manual_seed(0)
    volume = torch.randn(2, 16, 2, 4, 4, dtype=torch.float64)
    points = 20 * torch.rand(2, 9, 3, dtype=torch.float64) - 10
    time = torch.tensor([0.0, 1.5], dtype=torch.float64)
    values = field.geometry_at(field.project(volume, time), points)
    feature = trilinear(volume, field.place(points))
    code = sinusoidal(time, 32)[:, None].expand(-1, 9, -1)
    joined = torch.cat([points / field.scale, code, feature], dim=-1)
    layers = field.of_position, field.of_time, field.of_feature
    weight = torch.cat([layer.weight for layer in layers], dim=1)
    geometry = field.geometry(joined @ weight.T + field.of_position.bias)
    torch.testing.assert_close(values.geometry, geometry)
    torch.testing.assert_close(values.sdf, field.sdf(geometry)[..., 0])
    torch.testing.assert_close(field.sdf_at(field.project(volume, time), points), values.sdf)
    for other in (
        field.geometry_at(field.project(volume, time), points + 1),
        field.geometry_at(field.project(volume, time + 1), points),
        field.geometry_at(field.project(volume.flip(1), time), points),
    ):
        assert not torch.allclose(other.sdf, values.sdf)
    still = module_of("method.time_encoding=false").network.field
    assert still.of_time is None


def test_item_5_intensity_at_the_observed_point():
    """Item 5: one value per ray from direction, geometry and feature at o + r d."""
    module, batch = module_of(), batch_of()
    network = module.network.eval()
    volume = network.encode(batch["points"], batch["owner"], 2)
    rays = rays_of(batch)
    scan = network.render(volume, rays)
    assert scan.intensity.shape == rays.ranges.shape
    points = rays.origins[:, None] + rays.ranges[..., None] * rays.directions
    values = network.field.geometry_at(network.field.project(volume, rays.time), points)
    expected = network.field.intensity_at(volume, points, rays.directions, values.geometry)
    torch.testing.assert_close(scan.intensity, expected)
    torch.testing.assert_close(scan.surface, values.sdf)  # item 12: SDF of the observed points
    turned = network.field.intensity_at(volume, points, -rays.directions, values.geometry)
    assert not torch.allclose(turned, expected)
    module.network.intensity_at = "rendered"
    other = network.render(volume, rays)
    torch.testing.assert_close(other.surface, values.sdf)
    assert not torch.allclose(other.intensity, expected)
    assert torch.equal(network.render(volume, rays._replace(ranges=None)).surface, 0 * expected)


@pytest.mark.parametrize("option", ["method.alpha_mode=midpoint", "method.importance_samples=6"])
def test_options_of_the_rendering_train(option):
    module = module_of(option)
    terms = module.losses(batch_of())
    terms["loss"].backward()
    assert all(torch.isfinite(v) for v in terms.values())


def test_item_6_opacity_and_learnable_sharpness():
    """Item 6: opacities in [0, 1]; z = exp(10 v) learns, slowly and without decay."""
    module = module_of("optim.weight_decay=0.1")
    terms = module.losses(batch_of())
    assert 0 <= float(terms["current_opacity"]) <= 1
    terms["loss"].backward()
    parameter = module.network.field.log_sharpness
    assert float(parameter.grad.abs()) > 0
    assert float(module.network.field.sharpness) == pytest.approx(torch.e**3, rel=1e-5)
    slow = [g for g in module.parameter_groups() if any(p is parameter for p in g["params"])]
    assert [(g["lr_scale"], g["weight_decay"], len(g["params"])) for g in slow] == [(0.1, 0.0, 1)]


def test_item_7_the_future_alone_moves_the_encoder():
    """Item 7: every parameter gets a gradient; the encoder from the future term alone as well."""
    module, batch = module_of(), batch_of()
    terms = module.losses(batch)
    terms["loss"].backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.ndim < 2 or parameter.grad.abs().sum() > 0, name
    module.zero_grad()
    scan = module.render(batch)[1]
    frame_terms(scan, batch["ranges"][:, 1], batch["intensity"][:, 1]).range.backward()
    assert all(p.grad.abs().sum() > 0 for p in module.network.encoder.parameters() if p.ndim > 1)
    assert any(p.grad.abs().sum() > 0 for p in module.network.recurrent.action.parameters())


def test_item_8_loss_is_the_weighted_sum_of_both_frames():
    """Item 8: current plus one future frame, three L1 terms each; p(m) falls strictly."""
    weights = [
        f"method.{k}_weight={w}" for k, w in (("range", 2), ("intensity", 3), ("surface", 5))
    ]
    module, batch = module_of(*weights, "method.jitter=false"), batch_of()
    terms = module.losses(batch)
    expected = sum(
        w * terms[f"{frame}_{term}"]
        for frame in ("current", "future")
        for w, term in ((2, "range"), (3, "intensity"), (5, "surface"))
    )
    torch.testing.assert_close(terms["loss"], expected)
    scans = module.render(batch)
    error = (scans[1].ranges - batch["ranges"][:, 1]).abs().mean()
    torch.testing.assert_close(terms["future_range"], error)
    scaled = module_of("method.range_unit=scaled", "method.jitter=false").losses(batch)
    torch.testing.assert_close(scaled["future_range"] * 25.6, error)
    for horizon in range(1, 6):
        p = horizon_probabilities(horizon)
        assert p.sum() == pytest.approx(1)
        assert all(a > b for a, b in pairwise(p))
    assert (
        float(
            weighted(
                frame_terms(scans[0], batch["ranges"][:, 0], batch["intensity"][:, 0]), (0, 0, 0)
            )
        )
        == 0
    )


def test_item_1_no_labels_and_no_contrast():
    """Item 1: batches hold no label; samples do not meet; nothing is contrasted."""
    batch = batch_of("method.jitter=false")
    assert not {"boxes", "labels", "names", "moving"} & set(batch)
    module = module_of("method.jitter=false")
    assert not module.in_batch_negatives
    assert module.negatives_per_query(8) == 0
    whole = module.render(batch)
    alone = module.render(batch_of("method.jitter=false", rows=1))
    for a, b in zip(whole, alone, strict=True):
        torch.testing.assert_close(a.ranges[:1], b.ranges, rtol=1e-4, atol=1e-4)


def test_item_2_future_points_do_not_enter_the_encoder():
    """Item 2: other future scans change the targets, not what is rendered along equal rays."""
    module, batch = module_of("method.jitter=false"), batch_of()
    module.eval()
    first = module.render(batch)
    other = {**batch, "ranges": batch["ranges"] + torch.tensor([0.0, 3.0])[None, :, None]}
    second = module.render(other)
    assert torch.equal(first[1].ranges, second[1].ranges)
    actions = {**batch, "actions": batch["actions"] + 1.0}
    third = module.render(actions)
    assert torch.equal(first[0].ranges, third[0].ranges)
    assert not torch.allclose(first[1].ranges, third[1].ranges)  # the action changes the output


def test_each_frame_is_seen_from_its_own_origin_at_its_own_time():
    """Items 1, 4: `render` is the network's rendering with the rays of that frame."""
    module, batch = module_of("method.jitter=false"), batch_of("method.jitter=false")
    network = module.eval().network
    actual = module.render(batch)
    volume = network.encode(batch["points"], batch["owner"], 2)
    future = network.recurrent(volume, batch["actions"], batch["steps"][:, 1])
    for frame, own in enumerate((volume, future)):
        expected = network.render(own, rays_of(batch, frame))
        for a, b in zip(actual[frame], expected, strict=True):
            torch.testing.assert_close(a, b)
    rays, now = rays_of(batch, 1), rays_of(batch, 0)
    assert not torch.equal(rays.origins, now.origins)
    for other in (rays._replace(origins=now.origins), rays._replace(time=now.time)):  # twins
        assert not torch.allclose(network.render(future, other).ranges, actual[1].ranges)


def test_chunked_rendering_equals_unchunked_with_gradients():
    torch.manual_seed(0)
    batch = as_double(batch_of("data.rays=20"))
    actual = []
    for chunk in ("null", "7", "20", "1"):
        module = module_of(
            "data.rays=20", "method.jitter=false", f"method.ray_chunk={chunk}"
        ).double()
        terms = module.losses(batch)
        terms["loss"].backward()
        actual.append([terms["loss"].detach(), *[p.grad for p in module.parameters()]])
    for other in actual[1:]:
        for a, b in zip(actual[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def saved_bytes(rays, chunk="null"):
    """Bytes that autograd keeps for rendering that many rays."""
    module = module_of("method.jitter=false", f"method.ray_chunk={chunk}")
    network = module.network
    volume = torch.randn(1, 16, *network.encoder.volume_shape, requires_grad=True)
    directions = torch.nn.functional.normalize(torch.randn(1, rays, 3), dim=2)
    given = Rays(torch.zeros(1, 3), directions, torch.zeros(1), torch.full((1, rays), 5.0))
    seen = {}

    def pack(tensor):
        base = tensor._base if tensor._base is not None else tensor
        seen[base.untyped_storage().data_ptr()] = base.untyped_storage().nbytes()
        kept.append(base)
        return tensor

    kept = []
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        network.render(volume, given, chunk=None if chunk == "null" else int(chunk))
    return sum(seen.values())


def test_memory_is_linear_in_rays():
    """Doubling the rays adds what the first doubling added, twice; chunks keep far less."""
    sizes = [saved_bytes(n) for n in (200, 400, 800)]
    assert (sizes[2] - sizes[1]) == pytest.approx(2 * (sizes[1] - sizes[0]), rel=0.02)
    assert saved_bytes(800, "100") < sizes[2] / 4


def test_network_gradients_in_float64():
    """gradcheck from features of the volume through field and rendering."""
    network = module_of("model.activation=softplus", "model.sharpness_init=0.1").network.double()
    torch.manual_seed(0)
    volume = torch.randn(1, 16, *network.encoder.volume_shape, dtype=torch.float64)
    volume = volume[..., :2, :2].contiguous().requires_grad_()
    directions = torch.nn.functional.normalize(torch.randn(1, 3, 3).double(), dim=2)
    rays = Rays(
        torch.zeros(1, 3).double(),
        directions,
        torch.ones(1).double(),
        torch.full((1, 3), 6.0).double(),
    )
    assert torch.autograd.gradcheck(
        lambda v: tuple(network.render(v, rays)), (volume,), fast_mode=True, eps=1e-7, atol=1e-4
    )


def test_actions_of_the_arms():
    actions = torch.arange(6.0).view(2, 1, 3)
    assert torch.equal(conditioned(actions, "true"), actions)
    assert not conditioned(actions, "zero").any()
    assert torch.equal(conditioned(actions, "shuffled"), actions.flip(0))


def test_settings_that_do_not_fit_are_refused():
    for override, message in {
        "method.horizons=[2,1]": "must grow",
        "method.steps=[3]": "one length",
        "method.decay=1.0": r"decay must be in \(0, 1\)",
        "method.samples=1": "must be >= 2",
        "method.range_weight=-1": "range_weight must be >= 0",
        "data.mask_rate=1.0": "mask_rate",
        "data.sources=[]": "names no set",
        "data.voxel=[0,1,1]": "data.voxel must be > 0",
        "model.time_dim=30": "multiple of 4",
        "model.widths=[4]": "one stride for each layer",
        "model.encoder=voxel_res_8x": "four widths",
        "finetune.classes=[]": "at least one",
        "finetune.crowded=[car]": "needs finetune.detector=transfusion",
        "data.sources=[nuscens]": "data.sources",
    }.items():
        with pytest.raises(UserError, match=message):
            config(override)
    with pytest.raises(UserError, match="not among finetune.classes"):
        config("finetune.detector=transfusion", "finetune.crowded=[cone]")
    with pytest.raises(UserError, match="needs data.batch_size >= 2"):
        config("method.actions=shuffled", "data.batch_size=1")
    with pytest.raises(UserError, match="needs finetune.steps"):
        config("finetune.steps=0", "finetune.encoder_weights=random")
