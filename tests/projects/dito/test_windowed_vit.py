"""Windows, rolls, positions and the averaged second pass."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from common.config import UserError
from projects.dito.detection.windowed_vit import (
    WindowedViT,
    merge_windows,
    roll_tokens,
    split_windows,
    unroll_tokens,
)

GOLDEN = json.loads((Path(__file__).parents[2] / "golden/dito.json").read_text())["cases"]


def vit(**words) -> WindowedViT:
    torch.manual_seed(0)
    options = {"position_grid": 8, "windows_per_side": 2, "global_layers": (2,)} | words
    return WindowedViT(4, 16, 3, 2, **options).eval()


def test_windows_come_row_by_row_and_merge_is_the_inverse():
    """Item 1 of DITO: released order; windows of all images stand together."""
    grid = torch.arange(64).view(1, 8, 8, 1)
    want = next(c["outputs"]["windows_token_ids"] for c in GOLDEN if c["variant"] == "window order")
    assert split_windows(grid, 2).flatten(1).tolist() == want
    x = torch.randn(3, 8, 12, 5)
    assert torch.equal(merge_windows(split_windows(x, 4), 4), x)
    assert torch.equal(split_windows(x, 2)[3:6], x[:, :4, 6:])
    with pytest.raises(UserError, match="multiples of 5"):
        split_windows(x, 5)


def test_the_roll_goes_up_and_right_and_back():
    """Item 2: (-s, +s) on height and width, undone exactly."""
    grid = torch.arange(16).view(1, 4, 4, 1)
    assert roll_tokens(grid, 1)[0, 0, 0] == 7  # one row down, one column left of it
    assert torch.equal(unroll_tokens(roll_tokens(grid, 3), 3), grid)


def test_no_shift_is_two_equal_passes():
    """Item 2: s = 0 is the plain backbone."""
    net, images = vit(), torch.randn(2, 3, 32, 32)
    tokens = net.patch(images).permute(0, 2, 3, 1)
    twice = 0.5 * (net.encode(tokens, 0) + net.encode(tokens, 0))
    torch.testing.assert_close(net(images), net.ln_post(twice).permute(0, 3, 1, 2))


def test_positions_are_added_after_the_roll():
    """Item 2: without blocks a pass leaves x + unroll(positions)."""
    net, tokens = vit(), torch.randn(1, 8, 8, 16)
    net.blocks = nn.ModuleList()
    torch.testing.assert_close(net.encode(tokens, 2), tokens + unroll_tokens(net.positions, 2))
    assert not torch.allclose(net.encode(tokens, 2), net.encode(tokens, 0))


def test_both_passes_share_weights_and_are_averaged_before_the_last_norm():
    """Item 3."""
    net, images = vit(), torch.randn(2, 3, 32, 32)
    nn.init.normal_(net.ln_post.weight)
    tokens = net.patch(images).permute(0, 2, 3, 1)
    mean = (net.encode(tokens, 0) + net.encode(tokens, 2)) / 2
    torch.testing.assert_close(net(images, shift=2), net.ln_post(mean).permute(0, 3, 1, 2))
    before = (net.ln_post(net.encode(tokens, 0)) + net.ln_post(net.encode(tokens, 2))) / 2
    assert not torch.allclose(net(images, shift=2), before.permute(0, 3, 1, 2), atol=1e-4)


def test_attention_stays_in_its_window_but_in_global_layers():
    """A change in one window reaches the others through the global layer alone."""
    images = torch.randn(1, 3, 32, 32)
    other = images.clone()
    other[..., :8, :8] += 1
    local = vit(global_layers=())
    change = (local(images) - local(other)).abs().amax(1)[0]
    assert float(change[:4, :4].min()) > 0
    assert float(change[4:].max()) == 0
    assert float(change[:, 4:].max()) == 0
    for net, windows in ((vit(), "mixed"), (local, "all_but_last"), (local, "none")):
        assert (
            float((net(images, windows=windows) - net(other, windows=windows)).abs().amax(1).min())
            > 0
        )
    last = vit(global_layers=(3,))
    torch.testing.assert_close(last(images), last(images, windows="all_but_last"))


def test_any_size_whose_grid_the_windows_divide():
    """Item 14: positions are resized; others are refused with the rule."""
    net = vit()
    assert net(torch.randn(1, 3, 48, 64), shift=1).shape == (1, 16, 12, 16)
    assert net.positions_for(8, 8) is net.positions
    for size, text in (((30, 32), "multiples of 4"), ((36, 32), "no 2 windows")):
        with pytest.raises(UserError, match=text):
            net(torch.randn(1, 3, *size))
    with pytest.raises(UserError, match="global layers"):
        vit(global_layers=(4,))


def test_positions_are_resized_bilinearly():
    """Item 14: a ramp stays a ramp but for its ends, height and width are not swapped, channels not
    mixed.
    """
    net = vit()
    ramp = torch.arange(8.0)
    with torch.no_grad():
        net.positions.zero_()
        net.positions[0, ..., 0] = ramp[:, None]
        net.positions[0, ..., 1] = 10 * ramp
    actual = net.positions_for(16, 24)
    assert actual.shape == (1, 16, 24, 16)
    rows = ((torch.arange(16) + 0.5) / 2 - 0.5).clamp(0, 7)  # centres of pixels are aligned
    columns = ((torch.arange(24) + 0.5) / 3 - 0.5).clamp(0, 7)
    torch.testing.assert_close(actual[0, ..., 0], rows[:, None].expand(16, 24))
    torch.testing.assert_close(actual[0, ..., 1], 10 * columns.expand(16, 24))
    assert float(actual[..., 2:].detach().abs().max()) == 0
