"""Voxels, interpolation, sparse convolutions and the encoders made of them."""

import itertools

import pytest
import torch
from torch.nn.functional import conv3d, grid_sample

from common.config import UserError
from projects.trend.encoders.sinusoidal import sinusoidal
from projects.trend.encoders.sparse_conv import SparseConv3d, has_spconv, resolve_backend
from projects.trend.encoders.trilinear import trilinear
from projects.trend.encoders.voxel_backbone import VoxelResBackBone8x, build_voxel_encoder
from projects.trend.encoders.voxels import VoxelGrid, Voxels, voxelise

GRID = VoxelGrid((-4, -4, -1), (4, 4, 1), (1, 1, 0.5))


def brute_force(volume, position):
    """Eight corners by hand; x is the fastest axis."""
    _, *size = volume.shape
    cell = [
        min(max((p + 1) * n / 2 - 0.5, 0), n - 1)
        for p, n in zip(position, reversed(size), strict=True)
    ]
    out = torch.zeros(volume.shape[0], dtype=volume.dtype)
    for corner in itertools.product((0, 1), repeat=3):
        weight, index = 1.0, []
        for c, side, n in zip(cell, corner, reversed(size), strict=True):
            low = int(c)
            part = c - low
            weight *= part if side else 1 - part
            index.append(min(low + side, n - 1))
        out += weight * volume[:, index[2], index[1], index[0]]
    return out


def test_interpolation_equals_brute_force_with_borders_and_axes():
    """Trilinear values inside, at the borders and beyond, x the fastest axis; as grid_sample."""
    torch.manual_seed(0)
    volume = torch.randn(2, 3, 2, 4, 5, dtype=torch.float64)
    special = [[-1, -1, -1], [1, 1, 1], [1.7, 0, -3], [0.99, -0.99, 0.3], [0, 0, 0]]
    positions = torch.cat([torch.tensor(special).double(), 2.4 * torch.rand(40, 3).double() - 1.2])
    actual = trilinear(volume, positions.expand(2, -1, -1))
    for b, row in itertools.product(range(2), range(45)):
        expected = brute_force(volume[b], positions[row].tolist())
        torch.testing.assert_close(actual[b, row], expected)
    grid = positions.view(1, -1, 1, 1, 3).expand(2, -1, -1, -1, -1)
    same = grid_sample(volume, grid, padding_mode="border", align_corners=False)
    torch.testing.assert_close(actual, same[..., 0, 0].transpose(1, 2))
    swapped = trilinear(volume, positions.flip(1).expand(2, -1, -1))
    assert not torch.allclose(actual, swapped)


def test_interpolation_gradients():
    torch.manual_seed(0)
    volume = torch.randn(2, 2, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    positions = (1.2 * torch.rand(2, 4, 3, dtype=torch.float64) - 0.6).requires_grad_()
    assert torch.autograd.gradcheck(trilinear, (volume, positions))
    with pytest.raises(ValueError, match="positions must be"):
        trilinear(volume, positions[:1])


def test_voxels_hold_means_and_drop_what_is_outside():
    points = torch.tensor(
        [[0.2, 0.2, 0.1, 1.0], [0.6, 0.4, 0.3, 3.0], [-4.0, -4.0, -1.0, 5.0], [4.0, 0, 0, 9.0]]
    )
    voxels = voxelise(points, torch.tensor([0, 0, 1, 0]), GRID, 2)
    assert voxels.coords.tolist() == [[0, 2, 4, 4], [1, 0, 0, 0]]
    torch.testing.assert_close(voxels.features[0], torch.tensor([0.4, 0.3, 0.2, 2.0]))
    dense = voxels.dense()
    assert dense.shape == (2, 4, 4, 8, 8)
    assert dense[1, 3, 0, 0, 0] == 5
    assert int((dense != 0).any(1).sum()) == 2
    with pytest.raises(ValueError, match="no grid"):
        VoxelGrid((0, 0, 0), (0, 1, 1), (1, 1, 1))


def some_voxels(channels=3, dtype=torch.float64):
    torch.manual_seed(0)
    points = torch.rand(60, 3) * torch.tensor([8.0, 8.0, 2.0]) + torch.tensor(GRID.low)
    voxels = voxelise(points, torch.arange(60) % 2, GRID, 2)
    return voxels.replace_feature(torch.randn(len(voxels.coords), channels, dtype=dtype))


@pytest.mark.parametrize("submanifold", [True, False])
def test_sparse_convolution_equals_the_dense_one(submanifold):
    """Item 20: without a library, equal to conv3d at the active cells, and zero elsewhere."""
    voxels = some_voxels()
    step = (1, 1, 1) if submanifold else (2, 2, 2)
    pad = (1, 1, 1) if submanifold else (0, 1, 1)
    conv = SparseConv3d(3, 5, stride=step, padding=pad, submanifold=submanifold, bias=True).double()
    torch.nn.init.normal_(conv.bias)
    out = conv(voxels)
    kernel = conv.weight.permute(0, 4, 1, 2, 3)
    expected = conv3d(voxels.dense(), kernel, conv.bias, stride=step, padding=pad)
    b, z, y, x = out.coords.unbind(1)
    torch.testing.assert_close(out.features, expected[b, :, z, y, x])
    assert out.dense().shape == expected.shape
    if submanifold:
        assert torch.equal(out.coords, voxels.coords)
    else:
        rest = (expected - conv.bias.view(1, -1, 1, 1, 1)).clone()
        rest[b, :, z, y, x] = 0
        assert float(rest.abs().max()) < 1e-12  # no active cell was missed
    assert torch.autograd.gradcheck(
        lambda f, w: (
            torch.func.functional_call(conv, {"weight": w}, (voxels.replace_feature(f),)).features
        ),
        (voxels.features[:].requires_grad_(), conv.weight.detach().requires_grad_()),
        fast_mode=True,
    )


def test_sparse_convolution_of_nothing():
    empty = Voxels(torch.zeros(0, 3), torch.zeros(0, 4, dtype=torch.long), (4, 8, 8), 1)
    for conv in (SparseConv3d(3, 5, submanifold=True), SparseConv3d(3, 5, stride=(2, 2, 2))):
        assert conv(empty).features.shape == (0, 5)


@pytest.mark.skipif(not has_spconv(), reason="spconv is not installed")
def test_the_spconv_backend_gives_the_same_volume():
    torch.manual_seed(0)
    points, owner = torch.rand(300, 4) * torch.tensor([8, 8, 2, 1.0]), torch.arange(300) % 2
    points[:, :3] += torch.tensor(GRID.low)
    grid = VoxelGrid(GRID.low, GRID.high, (0.25, 0.25, 0.1))
    ours = VoxelResBackBone8x(grid, 1, (4, 4, 8, 8), "torch")
    theirs = VoxelResBackBone8x(grid, 1, (4, 4, 8, 8), "spconv")  # on a CPU it only trains
    theirs.load_state_dict(ours.state_dict())
    device = "cuda" if torch.cuda.is_available() else "cpu"
    given = points.to(device), owner.to(device), 2
    actual, expected = ours.to(device)(*given), theirs.to(device)(*given)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    if device == "cpu":  # its backward pass wants a driver
        return
    actual.square().sum().backward()
    expected.square().sum().backward()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-4)


def test_spconv_is_asked_for_in_vain():
    if has_spconv():
        assert resolve_backend("spconv") == "spconv"
    else:
        with pytest.raises(UserError, match="needs the package spconv"):
            resolve_backend("spconv")


@pytest.mark.parametrize("name", ["dense", "voxel_res_8x"])
def test_encoders_give_the_announced_volume_and_gradients(name):
    encoder = build_voxel_encoder(
        name, low=[-8, -8, -2], high=[8, 8, 2], voxel=[0.5, 0.5, 0.1], num_features=1,
        widths=[4, 4, 8, 8] if name == "voxel_res_8x" else [4, 8], strides=[[2, 2, 2], [2, 1, 1]],
    )  # fmt: skip
    torch.manual_seed(0)
    points = torch.randn(200, 4) * torch.tensor([3, 3, 0.8, 1])
    volume = encoder(points, torch.arange(200) % 3, 3)
    assert volume.shape == (3, encoder.channels, *encoder.volume_shape)
    volume.square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in encoder.parameters())
    moved = encoder(points[torch.randperm(200)].detach(), torch.zeros(200, dtype=torch.long), 1)
    assert moved.shape[0] == 1
    if name == "voxel_res_8x":
        assert {"conv_input.0.weight", "conv2.0.0.weight", "conv4.2.bn2.running_var"} <= set(
            encoder.state_dict()
        )
        assert tuple(encoder.state_dict()["conv2.0.0.weight"].shape) == (4, 3, 3, 3, 4)


def test_paper_grid_has_the_published_volume():
    with torch.device("meta"):
        encoder = build_voxel_encoder(
            "voxel_res_8x", low=[-75.2, -75.2, -5], high=[75.2, 75.2, 3], voxel=[0.1, 0.1, 0.2],
            num_features=1, widths=[16, 32, 64, 128], strides=[], backend="torch",
        )  # fmt: skip
    assert encoder.volume_shape == (5, 188, 188)
    with pytest.raises(ValueError, match="use dense or voxel_res_8x"):
        build_voxel_encoder(
            "x",
            low=[0] * 3,
            high=[1] * 3,
            voxel=[1] * 3,
            num_features=1,
            widths=[1],
            strides=[[1, 1, 1]],
        )


def test_sinusoids_are_those_of_the_transformer():
    values = torch.tensor([1.0, 2.5], dtype=torch.float64)
    actual = sinusoidal(values, 16)
    rates = torch.tensor([10000 ** (-i / 8) for i in range(8)], dtype=torch.float64)
    torch.testing.assert_close(actual[1], torch.cat([(2.5 * rates).sin(), (2.5 * rates).cos()]))
    with pytest.raises(ValueError, match="even"):
        sinusoidal(values, 3)


def test_convolutions_run_under_autocast():
    """Features in float32 and products of half precision; without autocast nothing changes."""
    torch.manual_seed(0)
    conv = SparseConv3d(2, 3, submanifold=True)
    coords = torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1], [0, 1, 1, 1]])
    voxels = Voxels(torch.randn(3, 2), coords, (2, 2, 2), 1)
    plain = conv(voxels).features
    with torch.autocast("cpu", torch.bfloat16):
        actual = conv(voxels).features
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, plain, atol=0.05, rtol=0.05)
